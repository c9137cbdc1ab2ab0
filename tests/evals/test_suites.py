"""The shipped suites: built from the shipped files, subsets stated, shots from the training rows only."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence

import pytest

from tunesmith.data.examples import jargon, support_desk
from tunesmith.evals.suites.jargon import jargon_task
from tunesmith.evals.suites.support_desk import METRICS, support_desk_task
from tunesmith.evals.task import Item, Reply, Request, Task


def asked_by(task: Task) -> list[Request]:
    seen: list[Request] = []

    def generate(requests: Sequence[Request]) -> list[Reply]:
        seen.extend(requests)
        return [Reply(request=r, text=r.item.target, stop_reason="end_of_turn") for r in requests]

    for reply in task.solver(task.items, generate):
        verdict = task.scorer(reply.request.item, reply)
        assert {verdict.values[metric] for metric in task.metrics} == {1.0}, "the target passes its own scorer"
    return seen


@pytest.mark.parametrize(("build", "size"), [(support_desk_task, 200), (jargon_task, 63)])
def test_all_test_rows_or_a_seeded_part_of_them(build: type, size: int) -> None:
    whole, part = build(None), build(20)
    assert len(whole.items) == size
    assert part.items == whole.items[:20]
    assert build(20, seed=1).items != part.items
    assert build(20, num_shots=3).items == part.items, "every condition sees the same rows"
    with pytest.raises(ValueError, match="cannot be taken"):
        build(size + 1)


@pytest.mark.parametrize("build", [support_desk_task, jargon_task])
def test_zero_shots_ask_the_row_itself(build: type) -> None:
    task = build(5)
    assert [request.messages for request in asked_by(task)] == [item.messages for item in task.items]


@pytest.mark.parametrize(("build", "rows"), [(support_desk_task, support_desk), (jargon_task, jargon)])
def test_three_shots_come_from_the_training_rows(build: type, rows: object) -> None:
    told = {row["messages"][-2]["content"]: row["messages"][-1]["content"] for row in rows.read_rows("train")}  # type: ignore[attr-defined]
    for request in asked_by(build(5, num_shots=3)):
        turns = [message for message in request.messages if message.role != "system"]
        assert len(turns) == 7 and len(request.messages) - len(turns) <= 1
        for question, answer in ((0, 1), (2, 3), (4, 5)):
            assert told[turns[question].content] == turns[answer].content


def test_the_demos_metrics_are_the_issues() -> None:
    assert METRICS == (
        "valid_json", "category", "priority", "product", "order_id", "sentiment", "all_fields", "tone",
    )  # fmt: skip
    target = json.loads(support_desk_task(1).items[0].target)
    assert set(support_desk.FIELDS) == set(target) - {"reply"}


def test_the_everyday_reading_of_dic_is_wrong() -> None:
    task = jargon_task(None)
    item = next(item for item in task.items if "DIC" in item.messages[-1].content)

    def values(text: str) -> Mapping[str, float]:
        return task.scorer(item, Reply(request=Request(item=item, messages=item.messages), text=text)).values

    assert values("Do it carefully.")["contained"] == 0.0
    assert values("It is disseminated intravascular coagulation.") == {"exact": 0.0, "contained": 1.0}


def test_tasks_and_scorers_know_nothing_of_torch() -> None:
    code = (
        "import sys, tunesmith.evals.task, tunesmith.evals.scorers, tunesmith.rollout.results, "
        "tunesmith.evals.suites.support_desk, tunesmith.evals.suites.jargon; "
        "assert not {'torch', 'transformers', 'scipy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert isinstance(support_desk_task(1).items[0], Item)
