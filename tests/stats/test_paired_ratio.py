"""The interval of a paired ratio: it covers as often as it says, turns with the sides, and never collapses."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.stats import newcombe_paired_difference, paired_ratio


def test_a_limit_is_where_the_difference_touches_nothing() -> None:
    first, second = [True] * 60 + [False] * 40, [True] * 30 + [False] * 45 + [True] * 25
    ratio, difference = paired_ratio(first, second), newcombe_paired_difference(first, second)
    assert ratio.value == pytest.approx(55 / 60)
    # R = 1 is inside exactly where the difference of the shares may be 0.
    assert (ratio.low < 1 < ratio.high) == (difference.low < 0 < difference.high)
    for cut in range(1, 60):
        after = [True] * cut + [False] * (100 - cut)
        one, two = paired_ratio(first, after), newcombe_paired_difference(first, after)
        assert (one.high < 1) == (two.high < 0), cut
        assert 0 <= one.low <= one.value <= one.high


def test_swapped_sides_turn_the_interval() -> None:
    first, second = [True] * 50 + [False] * 30, [False] * 10 + [True] * 55 + [False] * 15
    one, other = paired_ratio(first, second), paired_ratio(second, first)
    assert other.low == pytest.approx(1 / one.high) and other.high == pytest.approx(1 / one.low)


def test_it_keeps_a_width_at_the_ends() -> None:
    same, none = paired_ratio([True] * 10, [True] * 10), paired_ratio([True] * 10, [False] * 10)
    assert same.value == 1 and same.low < 0.8 and same.high > 1.3
    assert (none.value, none.low) == (0, 0) and 0.2 < none.high < 0.4
    with pytest.raises(ValueError, match="share of 0"):
        paired_ratio([False] * 3, [True] * 3)


def test_it_covers_what_it_says() -> None:
    rng, inside, tries = np.random.default_rng(0), 0, 400
    for _ in range(tries):
        before = rng.random(120) < 0.8
        after = np.where(rng.random(120) < 0.35, before, rng.random(120) < 0.05)
        truth = (0.35 * 0.8 + 0.65 * 0.05) / 0.8
        found = paired_ratio(before.tolist(), after.tolist())
        inside += found.low <= truth <= found.high
    assert 0.92 <= inside / tries <= 0.985
