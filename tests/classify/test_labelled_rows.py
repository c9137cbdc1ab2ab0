"""Labelled rows: what is read, what is refused with its place, and how the classes are ordered and held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.classify.class_rows import parcel_rows, write_rows
from tunesmith.config import build_config
from tunesmith.data.labelled import LabelledDataConfig, LoadedLabelled, load_labelled
from tunesmith.errors import ConfigError, DataError


def loaded(rows: list[dict[str, Any]], folder: Path, **more: Any) -> LoadedLabelled:
    settings = {"train": str(write_rows(folder / "rows.jsonl", rows)), "validation_share": 0.0, **more}
    return load_labelled(build_config(LabelledDataConfig, settings, place="recipe"), seed=3)


def labels_of(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)]


def test_numbers_stand_by_size_words_by_the_alphabet_and_a_stated_order_holds(tmp_path: Path) -> None:
    assert loaded(labels_of(10, 9, "2", 9.0), tmp_path).labels == ("2", "9", "10")
    assert loaded(labels_of("b", "a", "10", "9"), tmp_path).labels == ("10", "9", "a", "b")
    assert loaded(labels_of(True, False), tmp_path).labels == ("false", "true")
    assert loaded(labels_of("b", "a", 1), tmp_path, labels=["b", 1, "a"]).labels == ("b", "1", "a")


def test_columns_of_another_name_are_read_and_a_missing_one_is_named_with_the_key_that_helps(tmp_path: Path) -> None:
    rows = [{"message": "a", "intent": "x", "n": 1}, {"message": "b", "intent": "y", "n": 2}]
    data = loaded(rows, tmp_path, columns={"text": "message", "label": "intent"})
    assert [row.text for row in data.train] == ["a", "b"] and data.labels == ("x", "y")
    assert data.ignored_columns == ["n"]
    with pytest.raises(DataError, match=r"rows.jsonl.*no column for the text.*data.columns.text"):
        loaded(rows[:1], tmp_path)
    with pytest.raises(ConfigError, match="'tekst' is not a column that is read"):
        loaded(rows, tmp_path, columns={"tekst": "message"})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "a", "label": ""}, r"rows.jsonl:3:label: the label is empty"),
        ({"text": "a", "label": None}, r"rows.jsonl:3:label: the label is empty"),
        ({"text": "a"}, r"rows.jsonl:3: there is no column for the label"),
        ({"text": "a", "label": "x "}, r"rows.jsonl:3:label: the label has white space around it"),
        ({"text": "a", "label": ["x"]}, r"rows.jsonl:3:label: .*neither a word nor a number"),
        ({"text": " ", "label": "x"}, r"rows.jsonl:3:text: the text is empty"),
        ({"text": 5, "label": "x"}, r"rows.jsonl:3:text: the text is no string"),
    ],
)
def test_a_faulty_row_is_named_or_left_out_and_counted(row: dict[str, Any], says: str, tmp_path: Path) -> None:
    rows = [*labels_of("x", "y"), row]
    with pytest.raises(DataError, match=says):
        loaded(rows, tmp_path)
    data = loaded(rows, tmp_path, on_bad_row="drop")
    assert sum(data.rows_dropped.values()) == 1 and len(data.train) == 2 and data.rows_read == 3


@pytest.mark.parametrize("side", ["validation", "test"])
def test_a_label_that_training_never_shows_is_an_error_with_its_rows(side: str, tmp_path: Path) -> None:
    other = write_rows(tmp_path / "other.jsonl", labels_of("x", "z", "y", "z"))
    for more in ({}, {"on_bad_row": "drop"}):
        with pytest.raises(DataError) as error:
            loaded(labels_of("x", "y"), tmp_path, **{side: str(other)}, **more)
        text = str(error.value)
        assert f"2 {side} rows" in text and "other.jsonl:2: 'z'" in text and "other.jsonl:4: 'z'" in text


def test_one_class_and_a_class_without_rows_leave_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all rows to train on have the label 'x'"):
        loaded(labels_of("x", "x"), tmp_path)
    with pytest.raises(DataError, match="no training row has the label 'z'"):
        loaded(labels_of("x", "y"), tmp_path, labels=["x", "y", "z"])
    with pytest.raises(DataError, match=r"not among data\.labels"):
        loaded(labels_of("x", "y"), tmp_path, labels=["x", "w"])
    with pytest.raises(ConfigError, match="put them into quotes"):
        loaded(labels_of("x", "y"), tmp_path, labels=[True, False])


def test_every_class_is_held_out_by_its_share_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [*parcel_rows(0, 20), {"text": "only one", "label": "rare"}]
    data = loaded(rows, tmp_path, validation_share=0.25)
    counts = data.summary()["rows_by_class"]
    assert all(counts[label] == [15, 5, 0] for label in ("late", "bill", "other"))
    assert counts["rare"] == [1, 0, 0]
    again = loaded(rows[::-1], tmp_path, validation_share=0.25)
    assert {row.text for row in again.validation} == {row.text for row in data.validation}
    assert data.seen_in_training == {"validation": 0, "test": 0}


def test_copies_and_texts_under_two_labels_are_told(tmp_path: Path) -> None:
    rows = [*labels_of("x", "y"), {"text": "t0", "label": "y"}]
    data = loaded(rows, tmp_path, test=str(write_rows(tmp_path / "test.jsonl", labels_of("x"))))
    assert data.contradictions == 1 and data.contradiction_places == [f"{tmp_path / 'rows.jsonl'}:3"]
    assert data.seen_in_training["test"] == 1
    assert loaded(labels_of("x", "y"), tmp_path).contradictions == 0


def test_a_folder_brings_all_three_sides(tmp_path: Path) -> None:
    for name, labels in (("train", "xxyy"), ("valid", "xy"), ("test", "yyx")):
        write_rows(tmp_path / f"{name}.jsonl", labels_of(*labels))
    data = load_labelled(LabelledDataConfig(train=str(tmp_path), test_limit=2))
    assert [len(side) for side in data.sides().values()] == [4, 2, 2] and data.rows_read == 8
    with pytest.raises(ConfigError, match="nothing is split here"):
        load_labelled(LabelledDataConfig(train=str(tmp_path), group_by="text"))
