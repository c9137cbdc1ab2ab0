"""The demo's rows: reproducible to the byte, labelled by their own guide, and with nothing shared between splits."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.data.examples import support_desk
from tunesmith.data.examples import support_desk_wording as wording

SPLITS = ("train", "valid", "test")
TABLES: dict[str, Mapping[str, tuple[str, ...]]] = {
    "brands": wording.BRANDS,
    "devices": wording.DEVICES,
    "names": wording.NAMES,
    "deadlines": wording.DEADLINES,
    "dangers": wording.DANGERS,
    "asides": wording.ASIDES,
    "greetings": wording.GREETINGS,
    "orders": wording.ORDERS,
    "closings": wording.CLOSINGS,
    **{f"problem {category}": table for category, table in wording.PROBLEMS.items()},
    **{f"feeling {feeling}": table for feeling, table in wording.FEELINGS.items()},
}
ORDER_ID = re.compile(r"\b[A-Z]{2}-\d{5}\b")


def message_of(row: dict[str, Any]) -> str:
    return str(row["messages"][-2]["content"])


def ticket_of(row: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(row["messages"][-1]["content"]))


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, Any]]]:
    return {split: support_desk.read_rows(split) for split in SPLITS}


def test_generating_again_gives_the_shipped_bytes(tmp_path: Path) -> None:
    support_desk.write_files(tmp_path)
    for split in SPLITS:
        name = support_desk.file_of(split).name
        assert (tmp_path / name).read_bytes() == support_desk.file_of(split).read_bytes(), name
    another = support_desk.build_rows("test", 5, seed=support_desk.SEED + 1)
    assert another != support_desk.build_rows("test", 5), "the seed matters"
    assert support_desk.build_rows("test", 5) == support_desk.read_rows("test")[:5], "a prefix does not know the size"


def test_sizes_and_shape(rows: dict[str, list[dict[str, Any]]]) -> None:
    assert {split: len(rows[split]) for split in SPLITS} == {"train": 900, "valid": 100, "test": 200}
    for row in [row for split in SPLITS for row in rows[split]]:
        assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
        assert row["messages"][0]["content"] == support_desk.SYSTEM
        ticket = ticket_of(row)
        assert list(ticket) == ["category", "priority", "product", "order_id", "sentiment", "reply"]
        assert ticket["category"] in support_desk.CATEGORIES
        assert ticket["priority"] in support_desk.PRIORITIES
        assert ticket["sentiment"] in support_desk.SENTIMENTS
        assert 3 <= len(message_of(row).split()) <= 60


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(("one", "two"), list(combinations(SPLITS, 2)))
def test_no_wording_is_in_two_splits(name: str, one: str, two: str) -> None:
    left = {plain(text) for text in TABLES[name][one]}
    right = {plain(text) for text in TABLES[name][two]}
    assert left and right and not left & right


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_no_word_of_a_product_or_customer_and_no_order_prefix_is_in_two_splits(
    rows: dict[str, list[dict[str, Any]]],
) -> None:
    for one, two in combinations(SPLITS, 2):
        assert not set(support_desk.order_prefixes(one)) & set(support_desk.order_prefixes(two))
        told = {word for row in rows[one] for word in re.findall(r"\w+", message_of(row))}
        for table in (wording.BRANDS, wording.DEVICES, wording.NAMES):
            assert not told & set(table[two]), "the messages themselves, not the tables they come from"
            assert told & set(table[one]) == set(table[one]), "the search finds what is there"
        ids = [{ticket_of(row)["order_id"] for row in rows[split]} - {None} for split in (one, two)]
        assert not ids[0] & ids[1]
        assert not {message_of(row) for row in rows[one]} & {message_of(row) for row in rows[two]}


def test_no_message_stands_twice_in_a_split(rows: dict[str, list[dict[str, Any]]]) -> None:
    for split in SPLITS:
        assert len({message_of(row) for row in rows[split]}) == len(rows[split])


def label_of(message: str, split: str) -> dict[str, Any]:
    """The labelling guide as code, by cue: what a reader would decide who knows every wording."""

    def found(texts: tuple[str, ...]) -> bool:
        return any(close(text, message) for text in texts)

    categories = [c for c, table in wording.PROBLEMS.items() if found(table[split])]
    products = [f"{b} {d}" for b in wording.BRANDS[split] for d in wording.DEVICES[split] if f"{b} {d}" in message]
    ids = ORDER_ID.findall(message)
    feelings = [f for f, table in wording.FEELINGS.items() if found(table[split])]
    assert len(categories) == len(products) == 1 and len(ids) <= 1 and len(feelings) <= 1, message
    return {
        "category": categories[0],
        "priority": "high" if found(wording.DEADLINES[split]) or found(wording.DANGERS[split]) else "normal",
        "product": products[0],
        "order_id": ids[0] if ids else None,
        "sentiment": feelings[0] if feelings else "neutral",
    }


def close(template: str, message: str) -> bool:
    """The template stands in the message, one word mistyped at most: two letters swapped, one dropped or doubled."""
    words = template.split(" ")
    spellings = [template]
    for at, word in enumerate(words):
        if len(word) >= 6 and word.isalpha() and word.islower():
            spellings += [" ".join([*words[:at], typo, *words[at + 1 :]]) for typo in typos(word)]
    holed = ["\\S+(?: \\S+)?".join(map(re.escape, re.split(r"\{[PON]\}", text))) for text in spellings]
    return re.search(r"(?:^|(?<=\s))(?:" + "|".join(holed) + ")", message) is not None


def typos(word: str) -> set[str]:
    inner = range(1, len(word) - 2)
    swapped = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in inner}
    dropped = {word[:i] + word[i + 1 :] for i in inner}
    return swapped | dropped | {word[: i + 1] + word[i:] for i in inner}


@pytest.mark.parametrize("split", SPLITS)
def test_every_label_can_be_told_from_the_message_alone(split: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    for row in rows[split][:200]:
        told = label_of(message_of(row), split)
        assert told == {field: ticket_of(row)[field] for field in support_desk.FIELDS}, message_of(row)


def test_labels_are_spread_so_that_guessing_does_not_pay(rows: dict[str, list[dict[str, Any]]]) -> None:
    for split in SPLITS:
        tickets = [ticket_of(row) for row in rows[split]]
        for field, most in (("category", 0.3), ("sentiment", 0.45), ("priority", 0.7), ("product", 0.1)):
            (_, count), *_ = Counter(ticket[field] for ticket in tickets).most_common()
            assert count / len(tickets) <= most, (split, field)
        share_without = sum(ticket["order_id"] is None for ticket in tickets) / len(tickets)
        assert 0.15 <= share_without <= 0.45


def test_order_of_sentences_and_lengths_vary(rows: dict[str, list[dict[str, Any]]]) -> None:
    lengths = [len(message_of(row).split()) for row in rows["train"]]
    assert min(lengths) <= 10 and max(lengths) >= 35
    places = [
        message_of(row).find(ticket_of(row)["order_id"]) / len(message_of(row))
        for row in rows["train"]
        if ticket_of(row)["order_id"]
    ]
    assert min(places) < 0.1 and max(places) > 0.9


def test_a_typo_touches_one_small_letter_word_and_no_value() -> None:
    sentences = ["My {P} arrived broken.", "Reference {O}.", "Yours, {N}"]
    changed = 0
    for seed in range(200):
        typed = support_desk._with_typo(sentences, np.random.default_rng(seed))
        pairs = [(a, b) for a, b in zip(" ".join(sentences).split(), " ".join(typed).split(), strict=True) if a != b]
        assert [a for a, _ in pairs] in (["arrived"], [])
        assert all("{" in text for text in typed)
        changed += bool(pairs)
    assert changed == 200 or changed > 150, "a swap of two equal letters changes nothing, the rest does"
    assert support_desk._with_typo(["{P}"], np.random.default_rng(0)) == ["{P}"]


def test_some_rows_have_typos_and_most_have_none(rows: dict[str, list[dict[str, Any]]]) -> None:
    known = {word for table in TABLES.values() for text in table["train"] for word in re.findall(r"\w+", text)}
    unknown = [set(re.findall(r"\b[a-z]{4,}\b", message_of(row))) - known for row in rows["train"]]
    assert 0.1 < sum(map(bool, unknown)) / len(unknown) < 0.3
