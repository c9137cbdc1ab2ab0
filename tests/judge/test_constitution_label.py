"""``constitution label`` with judges whose likes are known, with a server, with controls, and killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from forks import exit_code_of
from judge_server import JudgeServer, KnownLikes, roomy_model
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.config import build_config
from tunesmith.constitution.label import sigmoid
from tunesmith.errors import ConfigError, DataError, EndpointError, RunError
from tunesmith.evals.judge import LikelihoodJudge
from tunesmith.feedback.judgements import Compared
from tunesmith.feedback.prefer import PreferConfig, prefer
from tunesmith.feedback.store import FeedbackStore
from tunesmith.recipes import constitution_label as module
from tunesmith.recipes.constitution_label import run_label
from tunesmith.recipes.constitution_label_config import LabelConfig, Labelled, labels_file
from tunesmith.recipes.constitution_label_show import describe
from tunesmith.records import Likelihood, Message
from tunesmith.runs import hold_file

CONSTITUTION = """
name: small
version: "1"
principles:
  - id: kind
    text: The answer mocks nobody.
    category: harmless
    critique_request: Does it mock?
    revision_request: Write it again.
    examples:
      - {prompt: "Why blue?", answer: Only a fool asks., critique: It mocks., revision: Air scatters blue.}
  - id: doctor
    text: The answer names a doctor.
    category: care
    critique_request: Is no doctor named?
    revision_request: Name one.
    applies: {pattern: pain}
"""
# Digits are what the scripted judge likes: 0.1 nats each.
PROMPTS = {
    "Why is the sea salty?": ("rivers bring it 9", "nobody knows that 2"),
    "My back pain is bad.": ("lie down a while 1", "go and see somebody 7 7"),
    "Tell me a joke.": ("two snails walk in 5", "knock knock who is there 5"),
}


class Counted(KnownLikes):
    """Notes every question in a file; dies at the last of ``die_at``, as a power cut would."""

    def __init__(self, bias: float = 0.0, log: Path | None = None, die_at: int | None = None) -> None:
        super().__init__(bias)
        self.log, self.die_at = log, die_at

    def score(self, asked: Sequence[tuple[Sequence[Message], Sequence[str]]]) -> list[tuple[Likelihood, ...]]:
        if self.die_at is not None and self.asked >= self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.log is not None:
            with self.log.open("a") as stream:
                stream.writelines(json.dumps([m.content for m in messages]) + "\n" for messages, _ in asked)
        return super().score(asked)


def world(folder: Path, **settings: Any) -> LabelConfig:
    folder.mkdir(exist_ok=True)
    (folder / "c.yaml").write_text(CONSTITUTION)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    with FeedbackStore.open(folder / "f.db", create=True) as store:
        for text, answers in PROMPTS.items():
            prompt = store.add_prompt([Message(role="user", content=text)])
            for answer in answers:
                store.add_candidate(prompt, answer)
    told = {
        "prompts": str(folder / "prompts.txt"), "store": str(folder / "f.db"), "draw": False,
        "constitution": str(folder / "c.yaml"), **settings,
    }  # fmt: skip
    return build_config(LabelConfig, told, place="test")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """scripted(model) makes it the judge of every run of this test, asked one question at a time."""

    def use(model: KnownLikes) -> KnownLikes:
        use_judge(model, monkeypatch.setattr)
        return model

    return use


def use_judge(model: KnownLikes, setattr_: Any = setattr) -> None:
    setattr_(module, "open_labelling_judge", lambda *_: (LikelihoodJudge(model, portion=1), lambda: 0, []))


def run(config: LabelConfig) -> Labelled:
    return run_label(config, lambda text: None)


def kept(config: LabelConfig) -> list[tuple[str, float | None]]:
    with FeedbackStore.open(config.store) as store:
        texts = {one.id: one.messages[-1].content for one in store.prompts()}
        return [(texts[one.prompt_id], one.value.p) for one in store.judgements() if isinstance(one.value, Compared)]


# A judge whose likes are known ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [0.0, 0.7, -3.0])
def test_labels_are_the_judges_likes_whatever_it_adds_for_the_first_place(
    tmp_path: Path, scripted: Any, bias: float
) -> None:
    config = world(tmp_path)
    scripted(KnownLikes(bias))
    labelled = run(config)
    expected = [sigmoid(0.1 * (9 - 2)), sigmoid(0.1 * (1 - 14)), 0.5]
    assert kept(config) == list(zip(PROMPTS, map(pytest.approx, expected), strict=True))
    facts = labelled.facts
    assert facts["position_bias"]["value"] == pytest.approx(bias)
    assert facts["stored"] == {"new": 3, "before": 0} and facts["left_out"] == {}
    # With 0.7 the first pair is even in one order; with -3 the place decides all of them.
    if bias == -3.0:
        assert facts["turned"]["value"] == 1.0 and facts["prefers_first"]["value"] == 0.0
        assert "the place says more than the answers" in " ".join(describe(labelled, config))
    assert json.loads(config.summary_file.read_text())["pairs"] == 3
    said = describe(labelled, config)
    assert f"position bias, cancelled: {bias:+.3f} nats" in " ".join(said)
    assert said[-1].startswith("next: tunesmith feedback prefer")


def test_what_is_asked_and_what_is_kept_exactly(tmp_path: Path, scripted: Any) -> None:
    config = world(tmp_path, num_principles=2, demonstrations=1)
    scripted(Counted(1.0, tmp_path / "asked"))
    labelled = run(config)
    # One principle applies to two of the prompts, both to the third; each in two orders.
    asked = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    assert len(asked) == 2 * (1 + 2 + 1) and labelled.facts["principles"]["doctor"]["asked"] == 1
    _, shown, verdict, question = asked[0]
    assert verdict == "[[B]]" and "Only a fool asks." in shown.partition("Assistant B:")[0]
    assert "The rule: The answer mocks nobody." in question and "Only a fool" not in question
    with FeedbackStore.open(config.store) as store:
        both = next(one for one in store.judgements() if len(one.provenance["principles"]) == 2)
        d = 0.1 * (1 - 14)
        for one in both.provenance["opinions"]:
            assert one["log_odds"] == pytest.approx([1.0 + d, 1.0 - d]) and one["worth"] == [0.0, 0.0]
        assert {one["principle"] for one in both.provenance["opinions"]} == {"kind", "doctor"}
    rows = [json.loads(line) for line in labels_file(Path(config.store)).read_text().splitlines()]
    assert len(rows) == 8 and all(len(row["logprobs"]) == 3 and row["rubric"] in ("kind", "doctor") for row in rows)


def test_a_second_run_asks_and_stores_nothing_and_a_lost_file_changes_nothing(tmp_path: Path, scripted: Any) -> None:
    config, model = world(tmp_path), scripted(KnownLikes(1.0))
    run(config)
    asked, before = model.asked, kept(config)
    again = run(config)
    assert model.asked == asked and again.facts["stored"] == {"new": 0, "before": 3} and kept(config) == before
    labels_file(Path(config.store)).unlink()
    assert run(config).facts["stored"] == {"new": 0, "before": 3} and kept(config) == before
    # Another seed is another annotator, and that is said.
    other = run(config.model_copy(update={"seed": 1}))
    assert other.facts["stored"]["new"] == 3 and other.facts["others_labels"] == 3
    assert "labels of other models or settings" in " ".join(describe(other, config))


def label_until_killed(config: LabelConfig, log: Path, die_at: int) -> None:
    use_judge(Counted(1.0, log, die_at))
    run(config)


def test_a_killed_run_goes_on_to_the_same_labels_and_asks_nothing_twice(
    tmp_path: Path, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts, log = world(tmp_path / "whole"), world(tmp_path / "parts"), tmp_path / "asked"
    scripted(KnownLikes(1.0))
    run(whole)
    assert exit_code_of(label_until_killed, parts, log, 3) == -9
    assert kept(parts) == [], "killed before the first portion was whole"
    scripted(Counted(1.0, log))
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 1)
    assert run(parts).facts["stored"] == {"new": 3, "before": 0}
    assert kept(parts) == kept(whole)
    asked = log.read_text().splitlines()
    assert len(asked) == len(set(asked)) == 6


def test_ctrl_c_keeps_what_there_is(tmp_path: Path, scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(KnownLikes):
        def score(self, asked: Any) -> Any:
            if self.asked >= 3:
                raise KeyboardInterrupt
            return super().score(asked)

    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 1)
    config = world(tmp_path)
    scripted(Stopped())
    labelled = run(config)
    assert labelled.interrupted and len(kept(config)) == 1
    assert describe(labelled, config)[-1] == "Stopped; the same command goes on, and asks nothing twice."
    scripted(KnownLikes())
    assert run(config).facts["stored"] == {"new": 2, "before": 1}


def test_a_second_job_on_a_store_is_refused(tmp_path: Path) -> None:
    config = world(tmp_path, judge="first")
    with hold_file(labels_file(Path(config.store))), pytest.raises(RunError, match="in use by another process"):
        run(config)


# Controls -------------------------------------------------------------------------------------------------------------


def test_controls_show_what_no_judgement_looks_like(tmp_path: Path) -> None:
    first = world(tmp_path / "first", judge="first")
    facts = run(first).facts
    assert [p for _, p in kept(first)] == [0.5] * 3 and facts["turned"]["value"] == 1.0 and facts["decisive"] == 0.0
    with FeedbackStore.open(first.store) as store:
        found = prefer(store, PreferConfig())
    assert found.num_pairs == 0 and found.left_out == {"tied comparison": 3}
    length = world(tmp_path / "length", judge="length")
    facts = run(length).facts
    assert [p > 0.5 for _, p in kept(length) if p is not None] == [len(a) > len(b) for a, b in PROMPTS.values()]
    assert facts["position_bias"]["value"] == pytest.approx(0, abs=1e-12) and facts["turned"]["value"] == 0.0
    random = world(tmp_path / "random", judge="random")
    run(random)
    labels = kept(random)
    assert len({p for _, p in labels}) == 3 and run(random).facts["stored"]["new"] == 0 and kept(random) == labels


# A server -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    one = JudgeServer()
    yield one
    one.close()


def at(server: JudgeServer, folder: Path, **settings: Any) -> LabelConfig:
    quick = {"backoff_seconds": 0.01, "max_attempts": 2, "timeout_seconds": 5.0}
    return world(folder, judge=server.url, judge_model="m", **quick, **settings)


def test_a_judge_that_writes_is_read_and_what_it_mumbles_is_counted(tmp_path: Path, server: JudgeServer) -> None:
    def verdict(messages: list[dict[str, str]]) -> tuple[int, str]:
        text = next(m["content"] for m in messages if m["role"] == "user")
        if "salty" in text:
            return 200, "Rivers it is. [[A]]" if text.index("rivers") < text.index("nobody knows") else "Clear. [[B]]"
        return 200, "I like the first. [[A]]" if "pain" in text else "Hard to say."

    server.verdict = verdict
    config = at(server, tmp_path)
    labelled = run(config)
    with FeedbackStore.open(config.store) as store:
        assert [one.value for one in store.judgements()] == [Compared("A"), Compared("tie")]
    facts = labelled.facts
    assert facts["unread_pairs"] == 1 and facts["unread_reasons"] == {"no verdict": 2} and facts["kept"] == 2
    assert facts["position_bias"] is None and facts["prefers_first"]["value"] == 0.75
    # What could not be read was asked for once more.
    assert len(server.bodies) == 6 + 2
    assert "unread: 1 opinions (2 x no verdict); 1 pairs have no label" in describe(labelled, config)
    run(config)
    assert len(server.bodies) == 8


def test_a_server_that_talks_nonsense_is_not_asked_any_further(tmp_path: Path, server: JudgeServer) -> None:
    server.verdict = lambda messages: (200, "blah blah")
    with pytest.raises(EndpointError, match="of 2 verdicts none can be read"):
        run(at(server, tmp_path, give_up_after=2, num_connections=1))
    assert len(server.bodies) < 6


def test_a_server_that_fails_is_asked_a_bounded_number_of_times(tmp_path: Path, server: JudgeServer) -> None:
    server.verdict = lambda messages: (503, "busy")
    config = at(server, tmp_path, num_connections=1)
    with pytest.raises(EndpointError, match="after 2 tries"):
        run(config)
    assert len(server.bodies) == 2 and kept(config) == []
    server.verdict = lambda messages: (200, "[[A]]")
    assert run(config).facts["stored"]["new"] == 3


def test_a_web_page_is_no_judge(tmp_path: Path) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = b"<!doctype html><title>Log in</title>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        with pytest.raises(EndpointError, match="web page titled 'Log in'"):
            run(world(tmp_path, judge=f"http://127.0.0.1:{http.server_port}/v1", judge_model="m"))
    finally:
        http.shutdown()
        http.server_close()


# Bad input ------------------------------------------------------------------------------------------------------------


def test_prompts_without_a_pair_are_counted_and_none_at_all_is_an_error(tmp_path: Path, scripted: Any) -> None:
    config = world(tmp_path)
    scripted(KnownLikes())
    with FeedbackStore.open(config.store) as store:
        for text, answers in (("One?", ["alone"]), ("Same?", ["all the same words 1", "all the same words  1"])):
            prompt = store.add_prompt([Message(role="user", content=text)])
            for answer in answers:
                store.add_candidate(prompt, answer)
    Path(config.prompts).write_text("\n".join([*PROMPTS, "One?", "Same?", "New?"]))
    labelled = run(config)
    assert labelled.facts["left_out"] == {
        "prompt with one candidate": 1,
        "prompt whose candidates are near copies of each other": 1,
        "prompt with no candidate": 1,
    }
    assert labelled.facts["near_copies"] == 1 and labelled.facts["pairs"] == 3
    Path(config.prompts).write_text("One?\nSame?")
    with pytest.raises(DataError, match="nothing to compare: 1 x prompt with one candidate, 1 x prompt whose"):
        run(config)
    (tmp_path / "c.yaml").write_text(CONSTITUTION.replace("text: The answer mocks nobody.", "text: x\n    weight: 0"))
    Path(config.prompts).write_text("Tell me a joke.")
    with pytest.raises(DataError, match="1 x prompt to which no principle applies"):
        run(config)


def test_a_question_beyond_the_judges_context_has_no_label(tmp_path: Path, model_folder: Any) -> None:
    config = world(tmp_path, model_name_or_path=str(model_folder("llama")))
    labelled = run(config)
    assert labelled.facts["unread_reasons"] == {"longer than the judge's context": 6} and kept(config) == []
    assert labelled.facts["decisive"] is None and labelled.facts["position_bias"] is None
    assert describe(labelled, config)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"judge": "rand"}, "judge: is local, each, random, first, length, or an address"),
        ({"judge": "http://localhost:1/v1"}, "an address needs judge_model"),
        ({"clamp": (0.6, 0.7)}, "clamp: is two limits"),
        ({"num_candidates": 1}, "num_candidates: input should be greater than or equal to 2"),
        ({"pair": "all"}, "Did you mean 'pairs'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, settings: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        world(tmp_path, **settings)


# On a tiny model ------------------------------------------------------------------------------------------------------


def test_candidates_are_drawn_where_they_lack_and_nothing_is_done_twice(tmp_path: Path) -> None:
    model = roomy_model(tmp_path / "tiny")
    config = world(tmp_path, model_name_or_path=model, draw=True, max_new_tokens=6, num_principles=2)
    Path(config.prompts).write_text("\n".join([*PROMPTS, "A new one?"]))
    words = ["constitution", "label", config.prompts, "--store", config.store, "--constitution", config.constitution]
    words += ["--model", model, "--max-new-tokens", "6", "--principles", "2"]
    told = CliRunner().invoke(app, [*words, "--plan"]).stdout.splitlines()
    assert told[0].startswith("4 prompts, of which 1 lack two candidates that differ: 2 are drawn for each")
    assert any("1 prompts x 2 candidates = 2 answers, 0 drawn before; 2 to draw" in line for line in told)
    assert kept(config) == []
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "10 questions to the judge, 0 of them answered before" in done.stdout and "tokens to read" in done.stdout
    labels = kept(config)
    assert [text for text, _ in labels] == [*PROMPTS, "A new one?"]
    again = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert again["stored"] == {"new": 0, "before": 4} and again["sampled"]["drawn"] == 0
    assert again["tokens"]["judged"] == 0 and kept(config) == labels


def test_prompts_beyond_the_context_are_named_or_left_out(tmp_path: Path, model_folder: Any) -> None:
    config = world(tmp_path, model_name_or_path=str(model_folder("llama")), draw=True, judge="first")
    Path(config.prompts).write_text("\n".join([*PROMPTS, "long " * 80]))
    with pytest.raises(DataError, match=r"prompts\.txt:4.*longer than the model's context"):
        run(config)
    dropped = config.model_copy(update={"on_bad_row": "drop"})
    with pytest.raises(DataError, match="no prompt fits"):
        run(dropped)
