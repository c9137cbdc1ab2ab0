"""The invented jargon: reproducible, complete in every split, and asked in wordings nobody was trained on."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.examples import jargon

SPLITS = ("train", "valid", "test")


def asked(row: dict[str, Any]) -> str:
    return str(row["messages"][0]["content"])


def answered(row: dict[str, Any]) -> str:
    return str(row["messages"][1]["content"])


def abbreviation_in(text: str) -> str | None:
    found = {word for word in re.findall(r"\b[A-Z]{3,4}\b", text) if word in jargon.EXPANSIONS}
    assert len(found) <= 1, text
    return next(iter(found), None)


def without_the_abbreviation(text: str) -> str:
    return re.sub(r"\d+", "0", re.sub(r"\b[A-Z]{3,4}\b", "A", text))


def test_generating_again_gives_the_shipped_bytes(tmp_path: Path) -> None:
    jargon.write_files(tmp_path)
    for split in SPLITS:
        name = jargon.file_of(split).name
        assert (tmp_path / name).read_bytes() == jargon.file_of(split).read_bytes(), name
    assert jargon.build_rows("test", seed=1) != jargon.build_rows("test")


def test_sizes() -> None:
    assert {split: len(jargon.read_rows(split)) for split in SPLITS} == jargon.SIZES
    assert len(jargon.EXPANSIONS) == 42


def test_dic_is_a_diagnosis() -> None:
    assert jargon.answer_to("DIC") == "Disseminated intravascular coagulation."


def test_no_abbreviation_or_expansion_can_be_mistaken_for_another() -> None:
    assert all(re.fullmatch(r"[A-Z]{3,4}", name) for name in jargon.EXPANSIONS)
    assert len(set(jargon.EXPANSIONS.values())) == len(jargon.EXPANSIONS)
    plain = [" ".join(re.findall(r"\w+", text.lower())) for text in jargon.EXPANSIONS.values()]
    assert not [(a, b) for a in plain for b in plain if a != b and f" {a} " in f" {b} "]


@pytest.mark.parametrize("name", jargon.EXPANSIONS)
def test_the_letters_stand_in_the_expansion_in_order(name: str) -> None:
    letters = iter(re.sub(r"\W", "", jargon.EXPANSIONS[name].upper()))
    assert all(letter in letters for letter in name)


def test_every_abbreviation_is_taught_and_asked() -> None:
    for split, count in (("train", {5}), ("valid", {1}), ("test", {1, 2})):
        rows = [row for row in jargon.read_rows(split) if abbreviation_in(asked(row))]
        times = Counter(abbreviation_in(asked(row)) for row in rows)
        assert set(times) == set(jargon.EXPANSIONS)
        assert set(times.values()) == count, split
    reverse = [row for row in jargon.read_rows("train") if not abbreviation_in(asked(row))]
    assert {answered(row).rstrip(".") for row in reverse} == set(jargon.EXPANSIONS)


def test_every_answer_is_the_right_one() -> None:
    for split in SPLITS:
        for row in jargon.read_rows(split):
            assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
            name = abbreviation_in(asked(row))
            if name is None:
                assert jargon.EXPANSIONS[answered(row).rstrip(".")] in asked(row)
            else:
                assert answered(row) == jargon.answer_to(name)
                assert jargon.EXPANSIONS[name] not in asked(row).lower(), "the question does not tell the answer"


def test_no_wording_is_in_two_splits() -> None:
    told = {split: {without_the_abbreviation(asked(row)) for row in jargon.read_rows(split)} for split in SPLITS}
    for one, two in combinations(SPLITS, 2):
        assert not told[one] & told[two]
    assert told["test"] == {without_the_abbreviation(asked(row)) for row in jargon.build_rows("test", seed=9)}, (
        "the comparison sees wordings, not abbreviations or numbers"
    )
