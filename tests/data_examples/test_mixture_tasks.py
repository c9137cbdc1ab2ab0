"""The shipped mixture: reproducible, whole, and its held-out tasks and test rows share nothing that tells."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunesmith.data.examples import mixture_tasks
from tunesmith.data.examples.mixture_nouns import NOUNS
from tunesmith.data.load import DataConfig, load_data
from tunesmith.data.mixture import MixtureConfig, MixtureRecords

FOLDER = mixture_tasks.FOLDER
CONFIG = MixtureConfig.model_validate(yaml.safe_load((FOLDER / "mixture.yaml").read_text(encoding="utf-8")))


def rows(name: str, split: str) -> list[dict[str, Any]]:
    path = FOLDER / f"{name}_{split}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_generating_again_gives_the_shipped_bytes(tmp_path: Path) -> None:
    mixture_tasks.write_files(tmp_path)
    for name in mixture_tasks.file_names():
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name
    assert mixture_tasks.build_rows("topic", "test", seed=1) != mixture_tasks.build_rows("topic", "test")


def test_sizes_and_templates() -> None:
    for name, split in mixture_tasks.file_names().values():
        found = rows(name, split)
        assert 100 <= len(found) <= 250 or split == "test", name
        assert len({json.dumps(row) for row in found}) == len(found), "no row twice"
    assert set(CONFIG.held_out) == set(mixture_tasks.HELD_OUT)
    assert {task.name for task in CONFIG.tasks} == {*mixture_tasks.TASKS, *mixture_tasks.HELD_OUT}
    for task in CONFIG.tasks:
        assert sum(not template.inverted for template in task.templates) >= 4
        assert task.plain is not None


@pytest.mark.parametrize("name", mixture_tasks.TASKS)
def test_train_and_test_rows_are_disjoint(name: str) -> None:
    def told(split: str) -> set[str]:
        return {json.dumps(list(row.values())[:2]) for row in rows(name, split)}

    assert not told("train") & told("test")
    if name == "plural":
        return

    # Beyond the rows: no wording either, codes, names and numbers aside.
    def wordings(split: str) -> set[str]:
        first = [str(next(iter(row.values()))) + str(row.get("unit", "")) for row in rows(name, split)]
        return {re.sub(r"[A-Z][\w-]*|\d+", "_", text) for text in first}

    assert not wordings("train") & wordings("test")


def test_answers_follow_from_the_rows() -> None:
    for split in ("train", "test"):
        for row in rows("order_number", split):
            assert re.findall(r"[A-Z]{2}-\d{5}", row["message"]) == [row["order_number"]]
        for row in rows("unit_conversion", split):
            assert f"is {row['result']}." in row["rationale"] and int(row["result"]) % row["amount"] == 0
        assert all(dict(NOUNS)[row["word"]] == row["plural"] for row in rows("plural", split))
        for name, label in (("sentiment", "sentiment"), ("topic", "topic"), ("entailment", "answer")):
            assert len(set(Counter(row[label] for row in rows(name, split)).values())) == 1, "classes are balanced"
    assert all(row["code"] in row["note"] for row in rows("booking_code", "test"))
    opposite = {(row["word"], row["opposite"]) for row in rows("opposite", "test")}
    assert len({word for word, _ in opposite}) == 100, "one opposite a word"


def test_held_out_tasks_share_no_wording_and_no_class_with_the_trained_ones() -> None:
    def words(text: str) -> set[tuple[str, ...]]:
        found = re.findall(r"[a-z_]+", text.lower())
        return {tuple(found[i : i + 5]) for i in range(len(found) - 4)}

    trained = [task for task in CONFIG.tasks if task.name not in CONFIG.held_out]
    held = [task for task in CONFIG.tasks if task.name in CONFIG.held_out]
    said = set().union(*(words(template.input) for task in trained for template in task.templates))
    for task in held:
        shared = set().union(*(words(template.input) for template in task.templates)) & said
        # A question for one word is put alike whatever it is.
        assert all("word" in five or "of" in five for five in shared), shared
        if isinstance(task.options, list):
            assert not set(task.options) & {option for other in trained for option in other.options or ()}


def test_the_shipped_mixture_loads_and_every_test_row_fits_every_template() -> None:
    data = load_data(DataConfig(train=str(FOLDER / "mixture.yaml")))
    assert data.mixture is not None and isinstance(data.train, MixtureRecords)
    assert len(data.train) == 600
    assert {data.train.draw(i).task.name for i in range(600)} == set(mixture_tasks.TASKS)
    for task in CONFIG.tasks:
        assert len(data.mixture.evaluated(task.name).row_ids) in (60, 100)
