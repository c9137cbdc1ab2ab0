"""Calibration, clustered and independent proportions: goldens by hand and from the papers, coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.calibration import calibration
from tunesmith.stats import (
    clustered_proportion,
    newcombe_difference,
    wilson_interval,
)


def test_calibration_by_hand() -> None:
    # Two bins of two: (0.5, 0.7) right once of two, (0.8, 1.0) right twice: (2 |0.5 - 0.6| + 2 |1 - 0.9|) / 4.
    found = calibration([0.8, 0.5, 1.0, 0.7], [1, 0, 1, 1], seed=0, num_bins=2)
    assert found.ece == pytest.approx(0.1)
    assert [(b.count, b.confidence, b.accuracy) for b in found.bins] == [
        (2, pytest.approx(0.6), 0.5),
        (2, pytest.approx(0.9), 1.0),
    ]
    # More bins than predictions: one each, and the error is the mean distance.
    assert calibration([0.5, 1.0], [1, 1], seed=0).ece == pytest.approx(0.25)
    # Bins of equal mass, to within one.
    assert [b.count for b in calibration([0.6] * 23, [1] * 23, seed=0).bins] == [3, 3, 3, *[2] * 7]
    with pytest.raises(ValueError, match="2 probabilities for 1 outcomes"):
        calibration([0.5, 0.5], [1], seed=0)


def test_calibration_tells_a_true_model_from_one_that_boasts() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 1, 4000)
    outcomes = (rng.random(4000) < truth).astype(float).tolist()
    honest = calibration(truth.tolist(), outcomes, seed=1)
    assert honest.ece == pytest.approx(honest.expected_ece, abs=0.012) and honest.ece < 0.03
    boastful = calibration(((1 + truth) / 2).tolist(), outcomes, seed=1)
    assert boastful.ece == pytest.approx(0.125, abs=0.02)
    # On few pairs even the honest one is not near 0, which expected_ece says.
    few = [calibration(truth[i : i + 50].tolist(), outcomes[i : i + 50], seed=1) for i in range(0, 4000, 50)]
    assert np.mean([f.ece for f in few]) == pytest.approx(np.mean([f.expected_ece for f in few]), abs=0.02)
    assert few[0].expected_ece > 0.08


def test_newcombe_as_in_his_paper() -> None:
    # Newcombe 1998, table II, method 10, contrasts (a), (b) and (h).
    for first, second, low, high in (
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ):
        found = newcombe_difference(wilson_interval(*first), wilson_interval(*second))
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_clusters_of_one_are_wilson_and_copies_of_a_trial_say_nothing_new() -> None:
    outcomes = [1.0] * 30 + [0.0] * 10
    alone = clustered_proportion(outcomes, list(range(40)))
    plain = wilson_interval(30, 40)
    assert (alone.low, alone.high) == (plain.low, plain.high)
    copied = clustered_proportion(outcomes * 5, list(range(40)) * 5)
    assert copied.low == pytest.approx(alone.low, abs=0.005) and copied.high == pytest.approx(alone.high, abs=0.005)
    assert wilson_interval(150, 200).low > alone.low + 0.05, "the control: 200 trials alone would claim more"
    assert clustered_proportion([1.0] * 8, [0, 0, 1, 1, 2, 2, 3, 3]).low == wilson_interval(4, 4).low
    assert clustered_proportion([1.0, 0.5], [0, 1]).value == 0.75
    with pytest.raises(ValueError, match="no proportion"):
        clustered_proportion([], [])


def test_clustered_intervals_cover_the_truth_as_often_as_they_claim() -> None:
    """60 prompts of 4 pairs that mostly agree: the plain interval is too narrow, the clustered one is not."""
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(60), 4).tolist()
    covered = {"clustered": 0, "plain": 0}
    for _ in range(800):
        chance = rng.beta(1.4, 0.6, 60)
        outcomes = (rng.random(240) < np.repeat(chance, 4)).astype(float)
        found = clustered_proportion(outcomes.tolist(), clusters)
        covered["clustered"] += found.low <= 0.7 <= found.high
        plain = wilson_interval(int(outcomes.sum()), 240)
        covered["plain"] += plain.low <= 0.7 <= plain.high
    assert 0.925 <= covered["clustered"] / 800 <= 0.975
    assert covered["plain"] / 800 < 0.88
