"""Suites run end to end on a scripted model: what is asked, what is kept, what a new version makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.evals.suite_models import FakeModel
from tunesmith.evals.bits import bits_per_byte
from tunesmith.evals.run import TaskResult, run_task
from tunesmith.evals.subject import Subject
from tunesmith.evals.suite import Suite, SuiteConfig
from tunesmith.evals.suites.catalogue import find_suite
from tunesmith.evals.suites.texts import passage_items
from tunesmith.evals.task import Item, Reply, Request, Task
from tunesmith.records import Likelihood
from tunesmith.rollout.likelihood import LocalLikelihood
from tunesmith.rollout.sampling import Sampling

GREEDY = Sampling(max_new_tokens=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, number in (("train", 4), ("test", 6)):
        rows = [
            {"question": f"{part} {i}?", "choices": ["yes", "never"], "answer": ["yes", "never"][i % 2]}
            for i in range(number)
        ]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run(suite: Suite, model: FakeModel, path: Path, **settings: Any) -> TaskResult:
    return run_task(suite.build(SuiteConfig(**settings)), model.subject, GREEDY, path)


def test_a_new_version_asks_everything_anew(folder: Path) -> None:
    suite, model, path = find_suite(f"rows:{folder}"), FakeModel(), folder / "results.jsonl"
    first = run(suite, model, path)
    assert len(model.asked) == 6 and first.interval("acc").value == 0.5
    again = run(suite, model, path)
    assert len(model.asked) == 6 and again.values("acc") == first.values("acc"), "answers that are kept are used"
    sheet = folder / "s.yaml"
    sheet.write_text("type: rows\nname: rows-" + folder.name + "\nrows: .\nversion: 2\n")
    run(find_suite(str(sheet)), model, path)
    assert len(model.asked) == 12
    run(suite, model, path, limit=3)
    assert len(model.asked) == 12, "a part of the items is answered by what is kept"
    run(suite, model, path, shots=1)
    assert len(model.asked) == 18, "with a shot the question is another one"


def test_plain_text_puts_shots_and_question_into_one_text(folder: Path) -> None:
    suite, model = find_suite(f"rows:{folder}"), FakeModel()
    run(suite, model, folder / "r.jsonl", shots=2, chat_template=False, limit=1)
    ((messages, continuations),) = model.asked
    (message,) = messages
    pieces = message.content.split("\n\n")
    assert len(pieces) == 3 and pieces[2].startswith("test ") and pieces[2].endswith("?\nAnswer:")
    assert all(piece.startswith("train ") and "?\nAnswer: " in piece for piece in pieces[:2])
    assert tuple(continuations) == ("yes", "never")


def test_plain_text_answers_end_before_the_models_own_next_question(folder: Path) -> None:
    sheet = folder / "s.yaml"
    sheet.write_text("type: rows\nrows: .\nscorer: exact\n")
    suite = find_suite(str(sheet))
    chatter = FakeModel(answer=lambda messages: " yes\n\nmore 7?\nAnswer: never")
    shown = run(suite, chatter, folder / "r.jsonl", shots=1, chat_template=False)
    assert shown.interval("exact").value == 0.5
    assert run(suite, chatter, folder / "r.jsonl", shots=1).interval("exact").value == 0.0, "a chat's answer is whole"


def test_samples_give_pass_at_k_of_the_headline(folder: Path) -> None:
    sheet = folder / "s.yaml"
    sheet.write_text("type: rows\nrows: .\nscorer: exact\n")
    answers = iter(["yes", "no", "no", "no"] * 6)
    result = run(
        find_suite(str(sheet)), FakeModel(answer=lambda messages: next(answers)), folder / "r.jsonl", samples=4
    )
    # Half of the targets are 'yes', which one of four samples says.
    assert {name: result.interval(name).value for name in result.task.metrics} == pytest.approx(
        {"pass@1": 0.125, "pass@4": 0.5, "exact": 0.125}
    )


def test_an_endpoint_that_tells_no_likelihoods_is_told_so(folder: Path) -> None:
    task = find_suite(f"rows:{folder}").build(SuiteConfig())
    model = FakeModel()
    with pytest.raises(ValueError, match="does not tell how likely"):
        run_task(task, Subject(label="far", writer=model, likelihood=None), GREEDY, folder / "r.jsonl")


def test_reading_a_text_gives_the_bits_of_its_own_module(load: Callable[..., Any], tmp_path: Path) -> None:
    base = load("llama")
    text = "".join(f"line {i} of a naïve text 🙂\n" for i in range(50))
    items = tuple(passage_items("t", text))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": item.target}) + "\n" for item in items))
    task = find_suite(f"rows:{tmp_path / 't.jsonl'}").build(SuiteConfig())
    model = FakeModel()
    result = run_task(task, replace(model.subject, likelihood=LocalLikelihood(base)), GREEDY, tmp_path / "r.jsonl")
    expected = bits_per_byte(base, None, [item.target for item in task.items], max_tokens=base.context_tokens)
    interval = result.interval("bits_per_byte")
    assert interval.value == pytest.approx(expected.value, rel=1e-9) and interval.low <= interval.value <= interval.high
    assert result.values("bits_per_byte") == pytest.approx(expected.each_N, rel=1e-9)


def test_a_tiny_models_choices_are_those_of_its_likelihoods(load: Callable[..., Any], folder: Path) -> None:
    base = load("llama")
    task: Task = find_suite(f"rows:{folder}").build(SuiteConfig(shots=1))
    own = LocalLikelihood(base)

    def generate(requests: list[Request]) -> list[Reply]:
        return [
            Reply(
                request=one, likelihoods=tuple(own.score([(one.messages, (text,))])[0][0] for text in one.continuations)
            )
            for one in requests
        ]

    alone = [task.scorer(reply.request.item, reply).values for reply in task.solver(task.items, generate)]  # type: ignore[arg-type]
    together = run_task(task, replace(FakeModel().subject, likelihood=own), GREEDY, folder / "r.jsonl")
    for metric in task.metrics:
        assert together.values(metric) == pytest.approx([values[metric] for values in alone], abs=1e-9)
    assert isinstance(together.answers[0].reply.likelihoods[0], Likelihood) and isinstance(task.items[0], Item)
