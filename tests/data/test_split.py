"""The split is a partition that no copy and no group crosses, whatever the order of the rows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.load import DataConfig, load_data
from tunesmith.data.split import assign_parts, class_table
from tunesmith.errors import ConfigError, DataError
from tunesmith.randomness import derive_seed

Rows = list[tuple[int, int, int]]
# (content, group, class) of each row; contents and groups repeat.
ROWS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 14), st.integers(0, 3)), min_size=12, max_size=80)
SHARES = st.sampled_from([[0.1], [0.3], [0.1, 0.1], [0.25, 0.2]])


def hashed(numbers: list[int], purpose: str) -> np.ndarray[Any, Any]:
    return np.array([derive_seed(0, purpose, n) for n in numbers], np.int64)


def split(rows: Rows, shares: list[float], *, group: bool = False, stratify: bool = False) -> list[int]:
    contents, groups, classes = (list(column) for column in zip(*rows, strict=True))
    parts = assign_parts(
        hashed(contents, "content"),
        shares,
        groups=hashed(groups, "group") if group else None,
        classes=hashed(classes, "class") if stratify else None,
    )
    return [int(part) for part in parts]


def crossing(rows: Rows, parts: list[int], column: int) -> list[int]:
    """Values of a column that stand in more than one part."""
    seen: dict[int, set[int]] = {}
    for row, part in zip(rows, parts, strict=True):
        seen.setdefault(row[column], set()).add(part)
    return [value for value, where in seen.items() if len(where) > 1]


@given(rows=ROWS, shares=SHARES, group=st.booleans(), stratify=st.booleans(), seed=st.integers(0, 9))
def test_a_partition_that_nothing_crosses_in_any_order(
    rows: Rows, shares: list[float], group: bool, stratify: bool, seed: int
) -> None:
    try:
        parts = split(rows, shares, group=group, stratify=stratify)
    except ConfigError as error:
        # Too few rows, groups or rows of a class: said, not split.
        assert "split" in error.cause or "spare" in error.cause
        return
    assert set(parts) <= set(range(len(shares) + 1)) and 0 in parts
    assert crossing(rows, parts, 0) == []
    if group:
        assert crossing(rows, parts, 1) == []
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    moved = split([rows[i] for i in order], shares, group=group, stratify=stratify)
    assert moved == [parts[i] for i in order]


def test_groups_cross_where_they_are_not_asked_for() -> None:
    rows = [(i, i % 5, 0) for i in range(60)]
    assert crossing(rows, split(rows, [0.3]), 1) != []
    assert crossing(rows, split(rows, [0.3], group=True), 1) == []


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    share=st.sampled_from([0.05, 0.1, 0.25, 0.5]),
)
def test_every_class_gives_its_share_to_within_one_row(sizes: list[int], share: float) -> None:
    rows = [(i, 0, c) for i, c in enumerate(c for c, size in enumerate(sizes) for _ in range(size))]
    try:
        parts = split(rows, [share], stratify=True)
    except ConfigError:
        assert len(rows) == 1 or max(sizes) == 1
        return
    for c, size in enumerate(sizes):
        held = sum(1 for row, part in zip(rows, parts, strict=True) if row[2] == c and part)
        assert abs(held - share * size) <= 1, "a class is off by more than a row"
        assert held < size, "a class has no training row"


def test_without_stratification_classes_are_off_by_more_than_a_row() -> None:
    rows = [(i, 0, i % 10) for i in range(400)]

    def worst(parts: list[int]) -> float:
        return max(abs(sum(p for r, p in zip(rows, parts, strict=True) if r[2] == c) - 8) for c in range(10))

    assert worst(split(rows, [0.2], stratify=True)) <= 1
    assert worst(split(rows, [0.2])) > 1


def test_groups_come_close_to_the_share_and_to_the_classes() -> None:
    rows = [(i, i // 4, (i // 4) % 3) for i in range(600)]
    for stratify in (False, True):
        parts = split(rows, [0.2], group=True, stratify=stratify)
        assert abs(sum(parts) - 120) <= 4
    held = [sum(p for r, p in zip(rows, parts, strict=True) if r[2] == c) for c in range(3)]
    assert all(abs(count - 40) <= 4 for count in held)


def test_groups_that_share_a_row_count_as_one() -> None:
    rows = [(1, 1, 0), (2, 1, 0), (2, 2, 0), (3, 2, 0), *((10 + i, 10 + i, 0) for i in range(8))]
    for shares in ([0.2], [0.4], [0.6]):
        parts = split(rows, shares, group=True)
        assert len(set(parts[:4])) == 1
    with pytest.raises(ConfigError, match="too few to split"):
        split(rows[:4], [0.5], group=True)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def reports(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"q{i}", "completion": f"a{i}", "patient": f"p{i // 3}", "ward": "abc"[i % 3]} for i in range(count)
    ]


def test_the_recipe_keeps_patients_whole_and_wards_in_proportion(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", reports(90))

    def patients(config: DataConfig) -> tuple[set[str], set[str]]:
        data = load_data(config)
        sides = [{str(part.rows[int(i)][0]["patient"]) for i in part.row_ids} for part in (data.train, data.validation)]
        assert data.rows_used == 90
        return sides[0], sides[1]

    train, held = patients(DataConfig(train=path, group_by="patient", validation_share=0.2))
    assert not train & held and len(held) == 6
    train, held = patients(DataConfig(train=path, validation_share=0.2))
    assert train & held, "the control: patients do cross without group_by"
    data = load_data(DataConfig(train=path, stratify_by="ward", validation_share=0.2))
    wards = [data.train.rows[int(i)][0]["ward"] for i in data.validation.row_ids]
    assert [wards.count(ward) for ward in "abc"] == [6, 6, 6]
    assert data.ignored_columns == ["patient"] and data.split_note == ""
    both = load_data(DataConfig(train=path, stratify_by="ward", group_by="patient", validation_share=0.2))
    assert "as whole groups allow" in both.summary()["split_note"]


def test_a_row_without_the_column_is_a_fault_with_its_place(tmp_path: Path) -> None:
    rows = reports(6)
    rows[3]["patient"] = None
    del rows[4]["patient"]
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError) as caught:
        load_data(DataConfig(train=path, group_by="patient"))
    assert f"{path}:4:patient" in str(caught.value) and f"{path}:5:patient" in str(caught.value)
    data = load_data(DataConfig(train=path, group_by="patient", on_bad_row="drop"))
    assert data.rows_used == 4


@pytest.mark.parametrize("key", ["group_by", "stratify_by"])
def test_a_split_that_does_not_take_place_is_refused(tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "a.jsonl", reports(9))
    with pytest.raises(ConfigError, match=f"data.{key}.*nothing is split"):
        load_data(DataConfig(train=path, validation_share=0, **{key: "patient"}))
    with pytest.raises(ConfigError, match="validation rows come from"):
        load_data(DataConfig(train=path, validation=path, **{key: "patient"}))


def test_as_many_classes_as_rows_cost_no_square_of_them() -> None:
    num_rows = 60_000
    keys = np.random.default_rng(0).permutation(num_rows).astype(np.int64)
    classes = np.arange(num_rows, dtype=np.int64) % (num_rows // 2)
    parts = assign_parts(keys, [0.1, 0.1], classes=classes)
    assert np.bincount(parts).tolist() == [48_000, 6_000, 6_000]
    # A class of two rows gives one of them away at most.
    assert np.bincount(classes[parts > 0]).max() == 1
    names = {int(value): str(value) for value in classes}
    table = class_table(parts, classes, names)
    assert len(table) == num_rows // 2 and np.sum(list(table.values()), axis=0).tolist() == [48_000, 6_000, 6_000]


def test_classes_that_look_the_same_are_counted_together() -> None:
    parts, classes = np.array([0, 1, 0, 0], np.int8), np.array([5, 5, 7, 7], np.int64)
    assert class_table(parts, classes, {5: "1", 7: "1"}) == {"1": [3, 1]}
