"""Every row is in one bin, bars follow the counts, and the picture is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.reports.lengths import BAR_CHARACTERS, MAX_BINS, bars, histogram, length_picture


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=300))
def test_every_row_is_in_exactly_one_bin(lengths: list[int]) -> None:
    shape = histogram(np.array(lengths, np.int32), "words")
    assert sum(shape.counts) == len(lengths) and len(shape.counts) == len(shape.edges) <= MAX_BINS + 1
    for i, (edge, count) in enumerate(zip(shape.edges, shape.counts, strict=True)):
        end = shape.edges[i + 1] if i + 1 < len(shape.edges) else float("inf")
        assert count == sum(edge <= n < end for n in lengths)
    assert (shape.quantiles["min"], shape.quantiles["max"]) == (min(lengths), max(lengths))
    drawn = bars(shape)
    assert len(drawn) == len(shape.counts)
    longest = max(range(len(drawn)), key=lambda i: shape.counts[i])
    assert drawn[longest].count("█") == BAR_CHARACTERS


def test_a_few_very_long_rows_do_not_flatten_the_rest() -> None:
    lengths = np.array([*range(10, 110)] * 5 + [90_000], np.int32)
    shape = histogram(lengths, "words")
    assert len(shape.counts) > 8 and shape.counts[-1] == 1


@pytest.mark.parametrize("lengths", [[], [7], [0, 0], [*range(500)]])
def test_the_picture_is_a_png(tmp_path: Path, lengths: list[int]) -> None:
    length_picture(np.array(lengths, np.int32), "tokens", tmp_path / "a.png", marks=[("limit", 300)])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
