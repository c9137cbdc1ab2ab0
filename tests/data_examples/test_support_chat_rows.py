"""The support chat's rows: reproducible to the byte, readable as feedback, disjoint, not won by length."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.convertible import FeedbackShape
from tunesmith.data.examples import support_chat
from tunesmith.data.examples import support_chat_wording as wording
from tunesmith.data.feedback import FeedbackRow, read_feedback
from tunesmith.data.prompts import load_prompts
from tunesmith.records import Ranking, Where

SHAPES: dict[str, FeedbackShape] = {
    "rankings_train": "ranking", "rankings_test": "ranking", "rankings_judge": "ranking",
    "ratings": "rating", "thumbs": "unpaired",
    "flags": "flag", "edits": "edit",
}  # fmt: skip
TABLES: dict[str, Mapping[str, tuple[str, ...]]] = {
    name.lower(): getattr(wording, name)
    for name in ("PRODUCTS", "FEELINGS", "APOLOGIES", "CLOSINGS", "POLITE", "POLITE_MORE", "RUDE", "RUDE_MORE")
} | {f"{name} {topic}": t for name in ("PROBLEMS", "HELP") for topic, t in getattr(wording, name).items()}


def rows_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in support_chat.file_of(name).read_text(encoding="utf-8").splitlines()]


def pairs_of(name: str) -> list[tuple[str, str]]:
    """(better, worse) of every pair that a ranking orders."""
    out = []
    for row in rows_of(name):
        tiers = [tier.split(" = ") for tier in row["ranking"].split(" > ")]
        for better, worse in itertools.combinations(tiers, 2):
            out += [(row["candidates"][a], row["candidates"][b]) for a, b in itertools.product(better, worse)]
    return out


def test_generating_again_gives_the_shipped_bytes(tmp_path: Path) -> None:
    support_chat.write_files(tmp_path)
    shipped = sorted(path.name for path in support_chat.FOLDER.iterdir())
    assert shipped == sorted(f"{name}.jsonl" for name in SHAPES) == sorted(path.name for path in tmp_path.iterdir())
    for name in SHAPES:
        assert (tmp_path / f"{name}.jsonl").read_bytes() == support_chat.file_of(name).read_bytes(), name
    assert support_chat.build_rankings("test", 5, seed=1) != support_chat.build_rankings("test", 5)


def test_the_very_first_row() -> None:
    row = rows_of("rankings_train")[0]
    assert (row["prompt"], row["ranking"]) == ("My order arrived broken. I'm very upset!", "B > C > A")


@pytest.mark.parametrize(("name", "shape"), SHAPES.items())
def test_every_row_is_read_as_what_it_is(name: str, shape: FeedbackShape) -> None:
    for i, row in enumerate(rows_of(name)):
        record = read_feedback(FeedbackRow(row, Where(name, i + 1), i, {}, False, set()), shape)
        assert record.prompt[-1].role == "user"
        assert not isinstance(record, Ranking) or len(record.candidates) == 3
    assert len(rows_of(name)) >= {"rankings_train": 120, "rankings_test": 40}.get(name, 20)


@pytest.mark.parametrize("name", TABLES)
def test_no_wording_stands_in_both_splits(name: str) -> None:
    train, test = TABLES[name]["train"], TABLES[name]["test"]
    assert not set(train) & set(test) and len({*train, *test}) == len(train) + len(test)


def test_prompts_are_disjoint_and_different() -> None:
    splits = [load_prompts(support_chat.file_of(f"rankings_{split}")) for split in ("train", "test", "judge")]
    assert [(len(rows), rows.num_copies) for rows in splits] == [(120, 0), (40, 0), (120, 0)]
    said = [{one.messages[-1].content for one in rows} for rows in splits]
    assert not (said[0] & said[1] or said[0] & said[2] or said[1] & said[2])


@pytest.mark.parametrize("split", ["train", "test"])
def test_neither_length_nor_one_word_wins(split: str) -> None:
    """The best rule on words is chosen with the answers in hand, so nothing learnt on the train rows can do better."""
    pairs = pairs_of(f"rankings_{split}")

    def accuracy(score: Any) -> float:
        return sum(0.5 + 0.5 * ((score(a) > score(b)) - (score(a) < score(b))) for a, b in pairs) / len(pairs)

    assert 0.4 < accuracy(len) < 0.6
    words = {text: set(re.findall(r"[a-z']+", text.lower())) for pair in pairs for text in pair}
    best = max(abs(accuracy(lambda text, w=w: w in words[text]) - 0.5) for w in set().union(*words.values()))
    assert best < 0.25


def test_letters_and_ties_are_spread() -> None:
    rankings = [row["ranking"] for row in rows_of("rankings_train")]
    best = [text[0] for text in rankings if not text.startswith(("A =", "B ="))]
    assert all(best.count(letter) >= 25 for letter in "ABC")
    assert 4 <= sum("=" in text for text in rankings) <= 30
