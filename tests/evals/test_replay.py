"""An earlier evaluation as the other side: the same items, words and settings, or a refusal that says what differs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.evals.suite_models import FakeModel
from tunesmith.errors import DataError, RunError
from tunesmith.evals.replay import Earlier
from tunesmith.evals.run import run_task, unanswered
from tunesmith.evals.scorers import exact_text
from tunesmith.evals.task import Item, Reply, Task, bare_prompt, choose
from tunesmith.records import Message, Verdict
from tunesmith.rollout.sampling import Sampling

SAMPLING = Sampling(max_new_tokens=8)
SETTINGS: dict[str, Any] = {
    "version": 1, "chat_template": True, "shots": 0, "samples": 1, "sampling": SAMPLING.model_dump(mode="json"),
}  # fmt: skip


def task(count: int, *, version: int = 1, words: str = "q{}?", choices: tuple[str, ...] = ()) -> Task:
    items = tuple(
        Item(
            id=f"i{i}", messages=(Message(role="user", content=words.format(i)),), target=f"a{i}", choices=choices
        )
        for i in range(count)
    )  # fmt: skip
    return Task(
        name="own", version=version, items=items, solver=choose() if choices else bare_prompt, scorer=exact_text,
        metrics=("exact",),
    )  # fmt: skip


def finished(folder: Path, made: Task) -> FakeModel:
    """An output folder with replies and as much of eval.json as a later comparison reads."""
    model = FakeModel(answer=lambda messages: f"a{messages[-1].content[1]}")
    run_task(made, model.subject, SAMPLING, folder / "results.jsonl")
    subject = {"label": "fake", "identity": {"model": "fake"}, "likelihood_identity": {"model": "fake"}}
    facts = {"subjects": [subject], "suites": [{"name": "own", **SETTINGS}]}
    (folder / "eval.json").write_text(json.dumps(facts), encoding="utf-8")
    return model


@pytest.mark.parametrize("choices", [(), ("a0", "a1")])
def test_kept_replies_are_scored_anew_and_nothing_is_asked(tmp_path: Path, choices: tuple[str, ...]) -> None:
    made = task(5, choices=choices)
    model = finished(tmp_path, made)
    num_asked, before = len(model.asked), (tmp_path / "results.jsonl").read_bytes()
    earlier = Earlier.open(tmp_path, "then")
    found = earlier.result(made, SAMPLING, SETTINGS)
    assert found.label == "then" and [a.item.id for a in found.answers] == [f"i{i}" for i in range(5)]
    assert all(len(answer.reply.likelihoods) == len(choices) for answer in found.answers)
    if not choices:
        assert found.values("exact") == [1.0] * 5
    # A scorer that was put right since applies to both sides.
    strict = replace(made, scorer=lambda item, reply: Verdict(values={"exact": float(reply.text == "a3")}))
    assert earlier.result(strict, SAMPLING, SETTINGS).values("exact") == [
        float(not choices and i == 3) for i in range(5)
    ]
    # The first items of the same rows are the same items.
    assert len(earlier.result(replace(made, items=made.items[:3]), SAMPLING, SETTINGS).answers) == 3
    assert len(model.asked) == num_asked and (tmp_path / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("now", "settings", "says"),
    [
        (task(6), {}, "1 of 6 items were not asked there in these words, i5"),
        (task(5, words="Q{}?"), {}, "5 of 5 items were not asked there in these words, i0"),
        (task(5, choices=("a", "b")), {}, "5 of 5 items"),
        (task(5, version=2), {"version": 2}, "version 1 there, 2 here"),
        (task(5), {"chat_template": False}, "chat_template true there, false here"),
        (task(5), {"shots": 3, "samples": 2}, "shots 0 there, 3 here; samples 1 there, 2 here"),
        (replace(task(5), name="other"), {}, "was not measured there, only own"),
    ],
)
def test_what_was_asked_otherwise_is_refused(tmp_path: Path, now: Task, settings: dict[str, Any], says: str) -> None:
    finished(tmp_path, task(5))
    with pytest.raises(DataError, match="Fix: ") as caught:
        Earlier.open(tmp_path, "then").result(now, SAMPLING, {**SETTINGS, **settings})
    assert says in str(caught.value) and str(tmp_path) in caught.value.place


def test_another_sampling_is_other_answers_even_where_the_settings_hide_it(tmp_path: Path) -> None:
    finished(tmp_path, task(2))
    with pytest.raises(DataError, match="not asked there"):
        Earlier.open(tmp_path, "then").result(task(2), Sampling(max_new_tokens=9), SETTINGS)


@pytest.mark.parametrize("text", ["", "[]", '{"subjects": []}', '{"subjects": [{"label": "x"}], "suites": []}'])
def test_a_folder_without_a_finished_evaluation_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RunError, match="no finished evaluation"):
        Earlier.open(tmp_path, "x")
    (tmp_path / "eval.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match="not the result of an evaluation"):
        Earlier.open(tmp_path, "x")


def test_what_is_unanswered_is_told_without_asking(tmp_path: Path) -> None:
    model, made = FakeModel(), task(6)
    run_task(replace(made, items=made.items[:4]), model.subject, SAMPLING, tmp_path / "r.jsonl")
    asked = len(model.asked)
    missing = unanswered(made, model.subject, SAMPLING, tmp_path / "r.jsonl")
    assert [request.item.id for request in missing] == ["i4", "i5"] and len(model.asked) == asked
    assert unanswered(replace(made, items=made.items[:4]), model.subject, SAMPLING, tmp_path / "r.jsonl") == []

    def asks_again(items: Any, generate: Any) -> list[Reply]:
        first = generate([request for request in missing if request.item in items])
        return list(generate([replace(reply.request, sample=1) for reply in first]))

    twice = replace(made, items=made.items[4:], solver=asks_again)
    assert len(unanswered(twice, model.subject, SAMPLING, tmp_path / "r.jsonl")) == 4
