"""Seed files: both shapes, faults with their place, the rule for the kind, and how varied rows are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import shared_data

from tunesmith.data.bootstrap.diversity import describe_rows, distinct_n, first_words
from tunesmith.data.bootstrap.prompts import ask_instance, ask_instruction, draw_shown, looks_like_classification
from tunesmith.data.bootstrap.seeds import Instance, Task, read_seeds
from tunesmith.errors import DataError

GOOD = {"id": "s1", "instruction": "Name a river.", "instances": [{"input": "", "output": "Elbe"}]}


def write(folder: Path, rows: list[Any]) -> str:
    path = folder / "seeds.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_both_shapes_are_read(tmp_path: Path) -> None:
    tasks, _ = read_seeds(write(tmp_path, [{**GOOD, "is_classification": False}]))
    assert tasks == [
        Task(id="s1", instruction="Name a river.", instances=(Instance("", "Elbe"),), is_classification=False)
    ]
    tasks, _ = read_seeds(write(tmp_path, [{"instruction": "Name a river.", "input": None, "output": "Elbe"}]))
    assert tasks == [Task(id="seed_0", instruction="Name a river.", instances=(Instance("", "Elbe"),))]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"instances": []}, "2:instances"),
        ({"instances": ["x"]}, "2:instances[0]"),
        ({"instances": [{"input": "a"}]}, "2:instances[0].output"),
        ({"instances": [{"input": 3, "output": "a"}]}, "2:instances[0].input"),
        ({"instruction": " "}, "2:instruction"),
        ({"is_classification": "no"}, "2:is_classification"),
        ({"id": "s1"}, "2:id"),
    ],
)
def test_a_fault_names_its_place(tmp_path: Path, change: dict[str, Any], place: str) -> None:
    source = write(tmp_path, [GOOD, {**GOOD, "id": "s2", **change}])
    with pytest.raises(DataError) as caught:
        read_seeds(source)
    assert caught.value.place == f"{source}:{place}"


def test_other_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not seed tasks"):
        read_seeds(write(tmp_path, [{"text": "a"}]))
    with pytest.raises(DataError, match="the first holds answer, question"):
        read_seeds(write(tmp_path, [{"question": "a", "answer": "b"}]))


def test_the_real_seeds_are_read_and_the_rule_mostly_agrees_with_them() -> None:
    tasks, _ = read_seeds(str(shared_data("self_instruct/seed_tasks.jsonl")))
    assert len(tasks) == 175
    right = [looks_like_classification(task.instruction) is task.is_classification for task in tasks]
    # docs/data-bootstrap.md names these numbers.
    assert sum(right) == 166
    assert sum(r for r, task in zip(right, tasks, strict=True) if task.is_classification) == 21


SEEDS = [
    Task(id=f"s{i}", instruction=f"Do thing {i}.", instances=(Instance("" if i % 2 else f"x{i}", f"y{i}"),))
    for i in range(12)
]


def test_six_seeds_and_two_made_tasks_are_shown_once_there_are_some() -> None:
    made = [Task(id=f"m{i}", instruction=f"Made {i}.", instances=(Instance("", "y"),)) for i in range(5)]
    for have, expected in ((0, 0), (1, 1), (5, 2)):
        shown = draw_shown(SEEDS, made[:have], num_shown=8, num_made=2, seed=0, step=3)
        assert len({task.id for task in shown}) == 8
        assert sum(task.id.startswith("m") for task in shown) == expected
    drawn = {tuple(t.id for t in draw_shown(SEEDS, made, num_shown=8, num_made=2, seed=0, step=s)) for s in range(20)}
    assert len(drawn) == 20


def test_a_request_shows_its_examples_as_turns() -> None:
    messages = ask_instruction(SEEDS[:2])
    assert [m.role for m in messages] == ["user", "assistant"] * 2 + ["user"]
    assert messages[1].content == "Do thing 0."
    shots = ask_instance("Do this.", SEEDS, label_first=False, num_shots=4, seed=0, step=0)
    assert len(shots) == 9
    # Tasks with an input and without take turns, so that neither seems to be the rule.
    assert sum("Input: none" in m.content for m in shots if m.role == "assistant") == 2
    assert "Do this." in shots[-1].content


def test_diversity_by_hand() -> None:
    assert distinct_n(["a b a", "a b"], 1) == 2 / 5
    assert distinct_n(["a b a", "a b"], 2) == 2 / 3
    assert first_words("Write a poem") == "write poem"
    seeds = [Task(id="s", instruction="write a poem about rain", instances=(Instance("", "x"),))]
    texts = ["write a poem about rain", "sort ten numbers", "sort ten numbers"]
    facts = describe_rows(texts, [Instance("", "a"), Instance("1 2", "b"), Instance("1 2", "c")], seeds, seed=0)
    assert facts["rouge_l_to_nearest_seed"]["counts"] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert facts["num_instructions"] == 2
    assert facts["num_rows_repeated"] == 1
    assert facts["share_with_input"] == pytest.approx(2 / 3, abs=1e-4)
    assert facts["first_words"] == {"sort ten": 1, "write poem": 1}
    assert facts["num_words"]["instruction"] == {"min": 3, "median": 4, "p90": 4.8, "max": 5}
