"""Paired prevalences read by an imperfect detector: by hand, by another way of resampling, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.calibration import rogan_gladen, rogan_gladen_difference
from tunesmith.stats import newcombe_paired_difference

SENS, SPEC = 0.85, 0.9
Read = list[bool | None]


def test_the_limits_are_those_of_resampling_everything() -> None:
    before: Read = [True] * 60 + [False] * 50 + [True] * 10 + [None] * 10
    after: Read = [False] * 40 + [True] * 20 + [False] * 45 + [True] * 5 + [None] * 10 + [True] * 10
    found = rogan_gladen_difference(before, after, (170, 200), (180, 200), seed=0)

    rng, drawn = np.random.default_rng(7), []
    one, two = (np.array([{True: 1, False: 0, None: -1}[v] for v in values]) for values in (before, after))
    for _ in range(4000):
        rows = rng.integers(len(one), size=len(one))
        sens, spec = rng.binomial(200, 0.85) / 200, rng.binomial(200, 0.9) / 200
        rates = [
            np.mean(side[rows] == 1) - (1 - spec) * np.mean(side[rows] >= 0) for side in (one, two)
        ]  # fmt: skip
        drawn.append((rates[1] - rates[0]) / (sens + spec - 1))
    low, high = np.quantile(drawn, [0.025, 0.975])
    by_hand = ((35 - 0.1 * 120) - (70 - 0.1 * 120)) / 130 / 0.75
    assert found.value == pytest.approx(by_hand)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
    uncorrected = newcombe_paired_difference([v is True for v in before], [v is True for v in after])
    assert abs(uncorrected.value - by_hand) > 0.05, "the control: what is corrected differs"


def test_coverage_by_simulation_and_the_raw_difference_has_none() -> None:
    rng, truth, inside, raw_inside = np.random.default_rng(0), -0.42, 0, 0
    for trial in range(100):
        was = rng.random(100) < 0.7
        now = was & (rng.random(100) < 0.4)
        before, after = (np.where(side, rng.random(100) < SENS, rng.random(100) > SPEC).tolist() for side in (was, now))
        known = ((int(rng.binomial(90, SENS)), 90), (int(rng.binomial(120, SPEC)), 120))
        found = rogan_gladen_difference(before, after, *known, seed=trial)
        raw = newcombe_paired_difference(before, after)
        inside += found.low <= truth <= found.high
        raw_inside += raw.low <= truth <= raw.high
    assert inside >= 89 and raw_inside < 80


def test_a_detector_that_knows_all_corrects_nothing_and_a_blind_one_tells_nothing() -> None:
    before, after = [True] * 70 + [False] * 30, [True] * 40 + [False] * 60
    sure = rogan_gladen_difference(before, after, (10**6, 10**6), (10**6, 10**6), 0)
    raw = newcombe_paired_difference(before, after)
    assert sure.value == pytest.approx(-0.3, abs=1e-6)
    assert (sure.low, sure.high) == pytest.approx((raw.low, raw.high), abs=0.03)
    hardly = rogan_gladen_difference(before, after, (3, 5), (3, 5), 0)
    assert (hardly.low, hardly.high) == (-1.0, 1.0)
    with pytest.raises(ValueError, match="no better than chance"):
        rogan_gladen_difference(before, after, (1, 2), (1, 2), 0)
    with pytest.raises(ValueError, match="paired with"):
        rogan_gladen_difference([], [], (9, 10), (9, 10), 0)


def test_what_is_unread_is_no_positive_and_widens_nothing_beyond_its_share() -> None:
    all_read = rogan_gladen((40, 80), (85, 100), (90, 100), 0)
    some = rogan_gladen((40, 80), (85, 100), (90, 100), 0, unread=20)
    assert some.value == pytest.approx(0.8 * all_read.value)
    assert some.low == pytest.approx(0.8 * all_read.low, abs=0.03) and some.high < all_read.high
