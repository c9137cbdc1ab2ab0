"""Clusters, ratios, calibration, selective answers and imperfect detectors, against closed forms and simulations."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from tunesmith.calibration import calibration, calibration_error, rogan_gladen, selective_accuracy
from tunesmith.stats import (
    bootstrap_mean,
    bootstrap_ratio,
    bootstrap_ratio_difference,
    clustered_bootstrap_mean,
    exact_mcnemar,
    smallest_detectable_difference,
    wilson_interval,
)


def test_wilson_is_that_of_statsmodels() -> None:
    for successes, trials in ((0, 7), (3, 10), (50, 60), (9, 9)):
        low, high = proportion_confint(successes, trials, method="wilson")
        ours = wilson_interval(successes, trials)
        assert (ours.low, ours.high) == pytest.approx((low, high), abs=1e-12)


def test_clusters_are_drawn_whole() -> None:
    values = np.random.default_rng(0).normal(size=40).tolist()
    alone = list(range(40))
    assert clustered_bootstrap_mean(values, alone, 0) == bootstrap_mean(values, 0, num_resamples=2000)
    repeated, clusters = values * 4, alone * 4
    four = clustered_bootstrap_mean(repeated, clusters, 0)
    naive = bootstrap_mean(repeated, 0)
    one = bootstrap_mean(values, 0)
    # Four copies of an item tell no more than one; who counts them as four is too sure by a factor of two.
    assert four.high - four.low == pytest.approx(one.high - one.low, rel=0.1)
    assert naive.high - naive.low == pytest.approx((one.high - one.low) / 2, rel=0.1)


def test_a_ratio_of_sums_is_not_a_mean_of_ratios() -> None:
    bits, size = [10.0, 300.0, 20.0, 900.0], [10.0, 100.0, 20.0, 300.0]
    ratio = bootstrap_ratio(bits, size, 0)
    assert ratio.value == pytest.approx(1230 / 430)
    assert ratio.low < ratio.value < ratio.high
    same = bootstrap_ratio_difference([bits, size], [bits, size], 0)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    worse = bootstrap_ratio_difference([bits, size], [[b + s for b, s in zip(bits, size, strict=True)], size], 0)
    assert (worse.value, worse.low, worse.high) == pytest.approx((1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="positive sum below"):
        bootstrap_ratio([1.0], [0.0], 0)


def test_calibration_error_covers_what_calibration_says() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(0.5, 1, 400)
    y = (rng.random(400) < p - 0.2).astype(float)
    error = calibration_error(p.tolist(), y.tolist(), 0, num_draws=200)
    whole = calibration(p.tolist(), y.tolist(), 0)
    assert error.value == pytest.approx(whole.ece)
    assert error.low < 0.2 < error.high and error.low > whole.expected_ece


def test_selective_accuracy_by_hand() -> None:
    curve = selective_accuracy([0.9, 0.8, 0.8, 0.1], [1, 0, 1, 0])
    assert np.allclose(curve, [(0.25, 1.0), (0.75, 2 / 3), (1.0, 0.5)])


def test_rogan_gladen_finds_a_known_rate_and_carries_the_detectors_error() -> None:
    # 30 % of 1,000 are positive; the detector finds 80 % of them and passes 90 % of the others: 31 % are flagged.
    found = rogan_gladen((310, 1000), (800, 1000), (900, 1000), 0)
    assert found.value == pytest.approx(0.3)
    assert found.low < 0.3 < found.high
    unsure = rogan_gladen((310, 1000), (8, 10), (9, 10), 0)
    assert unsure.high - unsure.low > 2 * (found.high - found.low)
    perfect = rogan_gladen((310, 1000), (10**6, 10**6), (10**6, 10**6), 0)
    wilson = wilson_interval(310, 1000)
    assert (perfect.low, perfect.high) == pytest.approx((wilson.low, wilson.high), abs=2e-3)
    assert rogan_gladen((0, 50), (8, 10), (9, 10), 0).value == 0.0, "below its false alarms there is none"
    with pytest.raises(ValueError, match="no better than chance"):
        rogan_gladen((5, 10), (5, 10), (5, 10), 0)


def test_coverage_of_rogan_gladen_by_simulation() -> None:
    rng, inside = np.random.default_rng(2), 0
    for trial in range(200):
        sick = rng.binomial(150, 0.25)
        flagged = rng.binomial(sick, 0.85) + rng.binomial(150 - sick, 0.12)
        sens, spec = rng.binomial(80, 0.85), rng.binomial(90, 0.88)
        interval = rogan_gladen((int(flagged), 150), (int(sens), 80), (int(spec), 90), trial)
        inside += interval.low <= 0.25 <= interval.high
    assert inside / 200 >= 0.91


def test_what_a_mcnemar_test_would_find_by_simulation() -> None:
    num_items, share = 200, 0.2
    difference = smallest_detectable_difference(num_items, share)
    rng, found = np.random.default_rng(3), 0
    for _ in range(300):
        kinds = rng.choice(3, size=num_items, p=[(share + difference) / 2, (share - difference) / 2, 1 - share])
        first, second = (kinds == 1).astype(float), (kinds == 0).astype(float)
        found += exact_mcnemar(first.tolist(), second.tolist()).p < 0.05
    # The exact test is a little more careful than the normal approximation the formula stands on.
    assert 0.66 <= found / 300 <= 0.88
    assert smallest_detectable_difference(3, 0.1) == 1.0
    assert smallest_detectable_difference(10_000, 0.2) < 0.02


def test_where_too_few_items_differ_more_of_them_must_and_to_one_side() -> None:
    num_items = 40
    difference = smallest_detectable_difference(num_items, 0.05)
    assert 0.05 < difference < 0.25
    counts = np.random.default_rng(4).binomial(num_items, difference, size=400)
    found = np.mean([exact_mcnemar([1.0] * count, [0.0] * count).p < 0.05 for count in counts])
    assert 0.6 <= found <= 0.9
