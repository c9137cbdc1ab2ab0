"""Tasks of the harness in the verb: one plan a task, compared as ours are, refused where they cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.evals.suite_models import FakeModel
from tunesmith.errors import ConfigError, DataError, MissingExtraError
from tunesmith.evals.lm_eval import HarnessResult
from tunesmith.evals.replay import Earlier
from tunesmith.evals.run import Answer, TaskResult
from tunesmith.evals.subject import Subject
from tunesmith.evals.task import Item, Reply, Request, Task, bare_prompt
from tunesmith.recipes import evaluate_harness
from tunesmith.recipes.evaluate import compare_all
from tunesmith.recipes.evaluate_config import EvalConfig
from tunesmith.recipes.evaluate_facts import item_rows, suite_facts
from tunesmith.recipes.evaluate_harness import measure_harness, split_suites
from tunesmith.recipes.evaluate_open import Opened
from tunesmith.records import Message, Verdict

CONFIG = EvalConfig(suites=["lm-eval:own", "boolq"], limit=4)


def subject(label: str) -> Subject:
    return replace(FakeModel().subject, label=label)


def harness_result(name: str, label: str, right: int, words: str = "q{}") -> HarnessResult:
    """Four choices of which the first ``right`` are right, as lm_eval_suite gives them."""
    answers = []
    for i in range(4):
        messages = (Message(role="user", content=words.format(i)),)
        item = Item(id=str(i), messages=messages, target="1", choices=("a", "b"))
        reply = Reply(request=Request(item=item, messages=messages, continuations=item.choices))
        values = {"acc_norm": 0.0, "acc": float(i < right)}
        verdict = Verdict(values=values, details={"responses": [(-2.0, False), (-1.5, True)]})
        answers.append(Answer(item=item, reply=reply, verdict=verdict))
    task = Task(
        name=f"lm-eval:{name}", version=2, items=tuple(answer.item for answer in answers), solver=bare_prompt,
        scorer=lambda item, reply: Verdict(values={}), metrics=("acc_norm", "acc"),
    )  # fmt: skip
    result = TaskResult(task=task, label=label, answers=tuple(answers))
    return HarnessResult(result=result, reported={"acc": right / 4}, left_out=("perplexity",), num_cut=0)


def test_every_task_of_a_name_is_a_suite_compared_by_its_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def fake(name: str, who: Subject, path: Path, **settings: Any) -> list[HarnessResult]:
        seen.append((name, who.label, settings["limit"], settings["chat_template"]))
        settings["on_progress"](1, 4)
        return [harness_result(part, who.label, 4 if who.label == "tuned" else 1) for part in ("one", "two")]

    monkeypatch.setattr(evaluate_harness, "lm_eval_suite", fake)
    found = measure_harness(CONFIG, "lm-eval:own", [subject("tuned"), subject("base")], tmp_path / "r.jsonl")
    assert seen == [("own", "tuned", 4, True), ("own", "base", 4, True)]
    plans, measured = zip(*found, strict=True)
    assert [(plan.suite.name, plan.suite.headline) for plan in plans] == [
        ("lm-eval:one", "acc"),
        ("lm-eval:two", "acc"),
    ]
    comparisons = compare_all(plans, measured)
    assert [(one.first, one.second, one.only_second) for one in comparisons] == [("base", "tuned", 3)] * 2
    facts = suite_facts(plans[0], measured[0], comparisons[:1])
    assert facts["results"]["tuned"]["metrics"]["acc"]["value"] == 1.0 and facts["version"] == 2
    assert "acc 1.0000" in facts["about"] and "perplexity" in facts["about"]
    shown = item_rows(plans[0], [one.result for one in measured[0]])[0]["answers"]["base"]["text"]
    assert shown.split() == ["-1.500", "nats", "b", "-2.000", "nats", "a"]


def test_models_that_were_asked_other_words_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(name: str, who: Subject, path: Path, **settings: Any) -> list[HarnessResult]:
        return [harness_result("one", who.label, 2, "<user>q{}" if who.label == "tuned" else "q{}")]

    monkeypatch.setattr(evaluate_harness, "lm_eval_suite", fake)
    with pytest.raises(DataError, match="not asked the same words"):
        measure_harness(CONFIG, "lm-eval:own", [subject("tuned"), subject("base")], tmp_path / "r.jsonl")


def test_what_the_harness_cannot_do_is_refused_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_harness, "find_spec", lambda name: object())
    opened = Opened(subjects=[subject("tuned")], earlier=[], notes=[])
    assert split_suites(CONFIG, opened) == (["boolq"], ["lm-eval:own"])
    mute = replace(opened, subjects=[replace(subject("tuned"), likelihood=None)])
    earlier = Earlier(folder=tmp_path, label="then", subject=subject("then"), suites={})
    for config, who, says in (
        (CONFIG, mute, "weights on this machine"),
        (CONFIG, replace(opened, earlier=[earlier]), "cannot be matched"),
        (CONFIG.model_copy(update={"select_shots": [0, 1]}), opened, "choose shots"),
    ):
        with pytest.raises(ConfigError, match=says):
            split_suites(config, who)
    # Without such a suite none of it matters.
    assert split_suites(EvalConfig(suites=["boolq"]), mute) == (["boolq"], [])
    monkeypatch.setattr(evaluate_harness, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"tunesmith\[eval\]"):
        split_suites(CONFIG, opened)
