"""Shared runs of words, against a count that holds every run as a tuple of words."""

from __future__ import annotations

import random

import numpy as np

from tunesmith.data.ngrams import SIZES, TextSet, find_overlaps, words_of


def runs(text: str, size: int) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def test_overlaps_equal_a_count_by_sets_of_words() -> None:
    draws = random.Random(3)
    # Few different words, so that runs are shared by chance as well.
    texts = [" ".join(draws.choice("abc") for _ in range(draws.randrange(5, 40))) for _ in range(60)]
    items = [(str(i), text) for i, text in enumerate(texts[:30])]
    rows = [(f"f:{i}", text) for i, text in enumerate([*texts[30:], f"{texts[4]} {texts[7]}"])]
    for overlap, size in zip(find_overlaps([TextSet("s", items)], rows), SIZES, strict=True):
        own = [runs(text, size) for _, text in items]
        everywhere = [run for mine in own for run in mine]
        common = {run for run in everywhere if everywhere.count(run) > 6}
        theirs = [runs(text, size) for _, text in rows]
        kept, held = [mine - common for mine in own], set().union(*theirs)
        assert overlap.num_common == len(common)
        assert overlap.num_short == sum(not mine for mine in own)
        assert overlap.num_shared == sum(bool(mine & held) for mine in kept)
        assert overlap.num_covered == sum(len(mine & held) >= 0.7 * len(mine) > 0 for mine in kept)
        assert overlap.num_rows == sum(bool(row & set().union(*kept)) for row in theirs)
        assert 0 < overlap.num_shared < 30
        for item, share, place, words in overlap.items:
            mine = kept[int(item)]
            assert np.isclose(share, len(mine & held) / len(mine))
            assert tuple(words.split()) in theirs[[p for p, _ in rows].index(place)] & mine


def test_case_and_punctuation_do_not_hide_a_copy_and_boilerplate_is_none() -> None:
    wording = "Answer the question below in one short sentence and give no reason for what you say."
    items = [
        (str(i), f"{wording} Which of the towns called number {i} lies by the sea so wide and blue?") for i in range(20)
    ]
    copied = "WHICH, of the towns called number 7; lies by the sea -- so wide and BLUE"
    (long, short), (clean, _) = (
        find_overlaps([TextSet("s", items)], [("f:1", f"{wording} {last}"), ("f:2", wording)])
        for last in (copied, "Nothing else is here.")
    )
    assert [item[0] for item in long.items] == ["7"] and long.rows == ["f:1"] and long.num_rows == 1
    assert short.num_shared >= long.num_shared and long.num_common > 0
    # Control: the wording alone, which every item has, is no overlap.
    assert clean.num_shared == 0 and clean.num_rows == 0
