"""The judge against a real server: what it is asked, how its number is read, and what happens without one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tunesmith.config import build_config
from tunesmith.errors import ConfigError, EndpointError, RewardError
from tunesmith.records import Message
from tunesmith.rollout.reward_judge import ONLY_THE_NUMBER, JudgeConfig, JudgeReward, read_score
from tunesmith.rollout.rewards import Answered, WeightedSum

KEY = "sk-not-to-be-seen"


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Score: 7", 7.0),
        ("score: 7.5.", 7.5),
        ("**Score:** 8/10", 8.0),
        ("Score: **3**", 3.0),
        ("The rating is 0", 0.0),
        ("Score (0-10): 8", 8.0),
        ("On a scale from 0 to 10 the score is 6.", 6.0),
        ("There are 2 faults. Score: 4\nGrade: 5", 4.0),
        ("Score: 9. It suits readers of grade 5.", 9.0),
        ("Tone: score 7. Facts: score 5. Score: 6, though its spelling is grade 2.", 6.0),
        ("Rating: 3, or rather rating: 4", 4.0),
        ("I would give it 9 out of 10.", 9.0),
        ("10", 10.0),
        (" 7,5 \n", 7.5),
        ("<b>6</b>", None),
        ("There are 2 faults in it.", None),
        ("between 3 and 5", None),
        ("Score: 11", None),
        ("Score: -1", None),
        ("-1", None),
        ("Score: 100/100", None),
        ("Score: high", None),
        ("", None),
        ("2026", None),
    ],
)
def test_a_number_is_read_only_where_it_is_one(text: str, score: float | None) -> None:
    assert read_score(text) == score


class Judge:
    """An OpenAI-compatible server in a thread; ``verdict(messages)`` gives (status, text)."""

    def __init__(self) -> None:
        self.verdict: Callable[[list[dict[str, str]]], tuple[int, str]] = lambda messages: (200, "Score: 5")
        self.bodies: list[dict[str, Any]] = []
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                judge.bodies.append(body)
                status, text = judge.verdict(body["messages"])
                message = {"role": "assistant", "content": text}
                data = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    monkeypatch.setenv("TUNESMITH_API_KEY", KEY)
    server = Judge()
    yield server
    server.close()


def source(judge: Judge, **settings: Any) -> JudgeReward:
    quick: dict[str, Any] = {"backoff_seconds": 0.01, "max_attempts": 3, "timeout_seconds": 10.0}
    return JudgeReward.open(JudgeConfig(url=judge.url, model="m", **(quick | settings)))


def answered(text: str, row_id: int = 0, *turns: Message) -> Answered:
    messages = turns or (Message(role="user", content="My order arrived broken."),)
    return Answered(messages=messages, text=text, stop_reason="end_of_turn", row_id=row_id)


ITEMS = [answered("Sorry! A new one is on its way.", 4), answered("So what.", 7), answered("", 8)]


def by_answer(scores: dict[str, str]) -> Callable[[list[dict[str, str]]], tuple[int, str]]:
    """A verdict for every answer by the words it holds."""
    return lambda messages: (200, next(said for words, said in scores.items() if words in messages[0]["content"]))


def test_every_answer_is_graded_in_its_place(judge: Judge) -> None:
    judge.verdict = by_answer({"new one": "Warm and useful. Score: 9", "So what": "Score: 1.5", "": "Score: 0"})
    one = source(judge)
    assert one.score(ITEMS).tolist() == [9.0, 1.5, 0.0]
    assert one.counts == {"graded": 3, "asked_again": 0, "unparsed": 0}
    texts = sorted(body["messages"][0]["content"] for body in judge.bodies)
    assert len(texts) == 3 and all("My order arrived broken." in text for text in texts)
    assert all(body["temperature"] == 0 and len(body["messages"]) == 1 for body in judge.bodies)
    assert one.score([]).shape == (0,)


def test_an_answer_cannot_write_into_the_template(judge: Judge) -> None:
    one = source(judge, template="P={prompt} A={answer} {other}")
    turns = (Message(role="system", content="{answer}"), Message(role="user", content="Hi"))
    one.score([answered("{prompt} {0} %s", 0, *turns)])
    assert judge.bodies[0]["messages"][0]["content"] == "P=system: {answer}\n\nuser: Hi A={prompt} {0} %s {other}"


def test_a_judge_that_talks_is_asked_for_the_number_alone(judge: Judge) -> None:
    judge.verdict = lambda messages: (200, "8" if messages[-1]["content"] == ONLY_THE_NUMBER else "It has 2 faults.")
    one = source(judge)
    assert one.score(ITEMS[:1]).tolist() == [8.0]
    assert one.counts == {"graded": 1, "asked_again": 1, "unparsed": 0}
    assert [m["role"] for m in judge.bodies[-1]["messages"]] == ["user", "assistant", "user"]
    assert judge.bodies[-1]["messages"][1]["content"] == "It has 2 faults."


def test_without_a_number_the_job_stops_and_says_what_was_said(judge: Judge) -> None:
    judge.verdict = lambda messages: (200, "I cannot grade this." if "So what" in messages[0]["content"] else "6")
    with pytest.raises(RewardError, match="no number from 0 to 10 for 1 of 3 answers") as caught:
        source(judge).score(ITEMS)
    assert caught.value.place == "reward 'judge': prompt row 7"
    assert "I cannot grade this." in caught.value.cause and "unparsed_score" in caught.value.fix


def test_a_value_the_user_named_is_taken_counted_and_bounded(judge: Judge) -> None:
    judge.verdict = lambda messages: (200, "No." if "So what" in messages[0]["content"] else "6")
    one = source(judge, unparsed_score=2.0, max_unparsed_share=0.34)
    assert one.score(ITEMS).tolist() == [6.0, 2.0, 6.0]
    assert one.counts == {"graded": 3, "asked_again": 1, "unparsed": 1}
    assert WeightedSum([(one, 0.1)]).counts["judge.unparsed"] == 1
    with pytest.raises(RewardError, match="1 of 3") as caught:
        source(judge, unparsed_score=2.0, max_unparsed_share=0.33).score(ITEMS)
    assert "max_unparsed_share allows 33%" in caught.value.fix


def test_a_busy_server_is_asked_again_and_a_dead_one_is_an_error(judge: Judge) -> None:
    left = [503, 503]
    judge.verdict = lambda messages: (left.pop(), "busy") if left else (200, "Score: 4")
    assert source(judge, num_connections=1).score(ITEMS[:1]).tolist() == [4.0]
    judge.verdict = lambda messages: (503, "busy")
    with pytest.raises(EndpointError, match="3 tries"):
        source(judge, num_connections=1).score(ITEMS[:1])


def test_the_identity_says_what_the_numbers_depend_on_and_no_secret(judge: Judge) -> None:
    base = dict(source(judge).identity)
    assert KEY not in json.dumps(base)
    assert base["model"] == "m" and base["endpoint"].startswith(judge.url)
    for change in ({"template": "{answer}"}, {"temperature": 1.0}, {"seed": 3}, {"unparsed_score": 1.0}):
        assert dict(source(judge, **change).identity) != base
    assert dict(source(judge, timeout_seconds=3.0).identity) == base


def test_a_template_without_the_answer_is_refused() -> None:
    with pytest.raises(ConfigError, match="no place for the answer"):
        build_config(JudgeConfig, {"url": "http://localhost:1/v1", "model": "m", "template": "{prompt}"}, place="r")
