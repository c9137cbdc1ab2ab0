"""The judge that reads each answer by itself: no place to prefer, a liking for Yes cancels, each asked once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

import tunesmith.recipes.constitution_label_open as module
from tunesmith.constitution.label import sigmoid
from tunesmith.constitution.principles import Constitution, Principle
from tunesmith.errors import ConfigError, DataError
from tunesmith.evals.judge import hear
from tunesmith.models.resolve import EMBEDDED_MODEL
from tunesmith.recipes.constitution_judges import EachJudge, cases_of_pair, opinion_of
from tunesmith.recipes.constitution_label_config import LabelConfig
from tunesmith.records import Likelihood, Message
from tunesmith.rollout.results import ResultsFile

EXAMPLES = [
    {"prompt": "p", "answer": "bad example", "critique": "c", "revision": "good example"},
    {"prompt": "p", "answer": "fine example", "critique": "c", "fault": False},
]


class Faults:
    """Finds a tenth of a nat of fault for each of the sum of an answer's digits; ``bias`` nats too fond of Yes."""

    identity = {"model": "faults"}

    def __init__(self, bias: float = 0.0, too_long: str = "") -> None:
        self.bias, self.too_long, self.asked = bias, too_long, list[tuple[str, ...]]()

    def score(self, asked: Sequence[tuple[Sequence[Message], Sequence[str]]]) -> list[tuple[Likelihood, ...]]:
        if self.too_long and any(self.too_long in turn.content for turns, _ in asked for turn in turns):
            raise DataError("request 1", "too long.", "Shorten it.")
        out = []
        for turns, words in asked:
            assert tuple(words) == ("Yes", "No")
            self.asked.append(tuple(turn.content for turn in turns))
            answer = [turn.content for turn in turns if turn.role == "assistant"][-1]
            odds = 0.1 * sum(int(c) for c in answer if c.isdigit()) + self.bias
            out.append(
                (
                    Likelihood(logprob=odds - 3, num_tokens=1, greedy=False),
                    Likelihood(logprob=-3.0, num_tokens=1, greedy=False),
                )
            )
        return out


def constitution(**more: Any) -> Constitution:
    words = {"text": "Be kind.", "category": "c", "critique_request": "Unkind?", "revision_request": "Kindly."}
    return Constitution(name="c", version="1", principles=(Principle(id="kind", **{**words, **more}),))


def opinion(folder: Path, model: Faults, first: str, second: str, **more: Any) -> Any:
    rules = constitution(**more)
    prompt = (Message(role="user", content="q"),)
    answers = tuple((Message(role="assistant", content=text),) for text in (first, second))
    judge = EachJudge(model, rules, 2)
    cases = cases_of_pair(rules["kind"], prompt, (answers[0], answers[1]), 0)
    return opinion_of("kind", *hear(judge, cases, ResultsFile(folder / "said.jsonl")))


@pytest.mark.parametrize("bias", [0.0, 4.0])
def test_the_answer_with_fewer_faults_wins_whatever_the_model_adds_for_yes(tmp_path: Path, bias: float) -> None:
    model = Faults(bias)
    one = opinion(tmp_path, model, "first 2", "second 9 3")
    assert one.p == pytest.approx(sigmoid(0.1 * (12 - 2))) and one.place == 0.0 and one.turns is False
    assert one.odds == (pytest.approx(1.0), pytest.approx(-1.0)) and one.odds[0] == -one.odds[1]
    # Both orders are read from the same two scores.
    assert len(model.asked) == 2 and not any("second" in text for text in model.asked[0])


def test_demonstrations_of_both_kinds_go_before_the_question_and_change_who_judges(tmp_path: Path) -> None:
    model = Faults()
    opinion(tmp_path, model, "first 2", "second 9", examples=EXAMPLES)
    asked = model.asked[0]
    assert any("bad example" in text for text in asked) and any("fine example" in text for text in asked)
    assert asked.count("Yes") == asked.count("No") == 1 and "Be kind." in asked[-1]
    names = [EachJudge(model, constitution(examples=EXAMPLES), number).identity["wording"] for number in (0, 1, 2)]
    assert len(set(names)) == 3


def test_an_answer_beyond_the_context_leaves_the_pair_unread(tmp_path: Path) -> None:
    one = opinion(tmp_path, Faults(too_long="second"), "first 2", "second 9")
    assert one.p is None and one.reasons == ("longer than the judge's context",) * 2


def test_a_pair_asked_in_two_sittings_of_one_judge_is_scored_once() -> None:
    model, rules = Faults(), constitution()
    answers = [(Message(role="assistant", content=text),) for text in ("first 2", "second 9")]
    cases = cases_of_pair(rules["kind"], (Message(role="user", content="q"),), (answers[0], answers[1]), 0)
    judge = EachJudge(model, rules, 0)
    said = [next(iter(judge.ask([case], [None])))[1].text for case in cases]
    assert said == ["[[A]]", "[[B]]"] and len(model.asked) == 2 == len(judge.requests(cases))


def test_a_judge_of_another_name_is_not_the_base_of_the_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model, named as the judge, beside adapters on another base that is in memory."""
    asked: list[tuple[str | None, str]] = []

    def opened(settings: Any, model: Any, base: Any) -> Any:
        asked.append((settings.judge_model, model.model_name_or_path))
        raise ConfigError("here", "it ends.", "Nothing.")

    monkeypatch.setattr(module, "open_judge", opened)
    monkeypatch.setattr(module, "base_of_first", lambda adapters: "elsewhere" if adapters else None)
    for adapters, base in (("a",), "elsewhere"), ((), EMBEDDED_MODEL):
        config = LabelConfig(prompts="p", store="s", adapters=adapters, judge_model=EMBEDDED_MODEL)
        with pytest.raises(ConfigError):
            module.open_labelling_judge(config, constitution(), cast(Any, object()))
        assert asked.pop() == (EMBEDDED_MODEL, base)
