"""Intervals, tests and verdicts of the card's rows, on worlds whose truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tunesmith.evals.card.measure import Measure, Row, interval, mean, paired_row, swap_test, verdicts
from tunesmith.evals.card.worst_case import largest_gap
from tunesmith.stats import Interval, clustered_proportion, exact_mcnemar, newcombe_paired_difference, wilson_interval


def measure(values: object, clusters: list[str] | None = None, **changes: object) -> Measure:
    array = np.asarray(values, float).reshape(len(values), -1)  # type: ignore[arg-type]
    names = tuple(clusters or [f"i{k}" for k in range(len(array))])
    known = {"dimension": "d", "name": "m", "values_NK": array, "cluster_N": names, "ideal": 1.0, **changes}
    return Measure(**known)  # type: ignore[arg-type]


def test_shares_take_the_houses_intervals_and_tests() -> None:
    one, two = [1, 0, 1, 1, 0, 0, 1, 0], [1, 1, 1, 1, 1, 1, 1, 0]
    row = paired_row(measure(one), measure(two))
    assert row.first == clustered_proportion(one, range(8))
    noted = paired_row(measure(one, note="of one"), measure(two, note="of two"))
    assert (noted.note, noted.second_note) == ("of one", "of two")
    assert row.difference == newcombe_paired_difference(one, two) and row.p == exact_mcnemar(one, two).p
    clusters = ["a", "a", "b", "b", "c", "c", "d", "d"]
    assert interval(measure(one, clusters)) == clustered_proportion(one, [0, 0, 1, 1, 2, 2, 3, 3])
    assert paired_row(measure(one, clusters), measure(two, clusters)).difference != row.difference


def test_items_of_one_cluster_are_no_evidence_of_their_own() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(size=30)
    once, often = interval(measure(values)), interval(measure(values.repeat(9), [f"c{k // 9}" for k in range(270)]))
    assert often.value == pytest.approx(once.value)
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.1)
    many = interval(measure(values.repeat(9)))
    assert many.high - many.low < 0.5 * (once.high - once.low)


def test_the_bootstrap_covers_the_truth_of_a_ratio() -> None:
    def ratio(values_NK: np.ndarray) -> float:
        a, b = values_NK.sum(axis=0)
        return float((a - b) / (a + b)) if a + b else 0.0

    hits, trials = 0, 30
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        role = rng.choice(3, size=120, p=(0.4, 0.2, 0.4))
        found = interval(measure(np.stack([role == 0, role == 1], axis=1), statistic=ratio))
        hits += found.low <= 1 / 3 <= found.high
    assert hits >= 0.86 * trials


def test_where_nothing_varies_the_interval_keeps_a_width() -> None:
    def score(values_NK: np.ndarray) -> float:
        return float((values_NK[:, 0] - values_NK[:, 1]).mean())

    nobody = measure([[0.0, 0.0]] * 20, statistic=score, bounds=(-1.0, 1.0))
    found, missed = interval(nobody), wilson_interval(0, 20).high
    assert (found.low, found.value, found.high) == pytest.approx((-missed, 0.0, missed))
    always = interval(measure([[1.0, 0.0]] * 20, statistic=score, bounds=(-1.0, 1.0)))
    assert (always.low, always.high) == pytest.approx((1 - 2 * missed, 1.0))
    row = paired_row(nobody, nobody)
    assert row.difference is not None and row.difference.low == pytest.approx(-2 * missed) and row.p == 1.0
    # Twenty items of one cluster are one item.
    one = interval(measure([[0.0, 0.0]] * 20, ["a"] * 20, statistic=score, bounds=(-1.0, 1.0)))
    assert one.high == pytest.approx(wilson_interval(0, 1).high)


def test_other_items_are_not_compared() -> None:
    with pytest.raises(ValueError, match="not measured on the same items"):
        paired_row(measure([1, 0]), measure([1, 0], ["x", "y"]))
    with pytest.raises(ValueError, match="not measured on the same items"):
        paired_row(measure([1, 0]), measure([1, 0], name="another"))
    with pytest.raises(ValueError, match="2 values in 1 places"):
        measure([1, 0], ["x"])


def row(first: float, second: float | None = None, p: float | None = None, **changes: object) -> Row:
    def around(value: float) -> Interval:
        return Interval(value, value - 0.1, value + 0.1)

    known = {
        "dimension": "d", "name": "m", "num_items": 9, "ideal": 1.0, "first": around(first),
        "second": None if second is None else around(second), "p": p, **changes,
    }  # fmt: skip
    known["second_chance"] = known.get("chance")
    return Row(**known)  # type: ignore[arg-type]


def test_one_word_a_row() -> None:
    cases = [
        (row(0.5, 0.7, 1e-4), "better"),
        (row(0.7, 0.5, 1e-4), "worse"),
        (row(0.5, 0.7, 0.2), "no difference found"),
        (row(0.5, 0.55, 0.5, chance=0.5), "at chance"),
        # One of the two is away from chance: nothing was found, but not because neither knows anything.
        (row(0.5, 0.8, 0.5, chance=0.5), "no difference found"),
        # Of a bias the better model is nearer to none, from whichever side.
        (row(0.4, -0.1, 1e-4, ideal=0.0, chance=0.0), "better"),
        (row(0.1, -0.5, 1e-4, ideal=0.0, chance=0.0), "worse"),
        # From one side to the other, as far: the difference is sure, which is nearer is not.
        (row(0.2, -0.15, 1e-4, ideal=0.0, chance=0.0), "turned round"),
        (row(0.62, 0.39, 1e-4, ideal=0.5, chance=0.5), "turned round"),
        (row(30, 45, 1e-4, ideal=math.inf), "better"),
        (row(30, 25, 1e-4, ideal=math.inf), "worse"),
        (row(0.8), "measured"),
        (row(0.8, chance=0.5), "above chance"),
        (row(0.2, chance=0.5), "below chance"),
        (row(0.5, chance=0.5), "at chance"),
        (row(0.3, ideal=0.0, chance=0.0), "biased"),
        (row(0.05, ideal=0.0, chance=0.0), "at chance"),
    ]
    for one, wanted in cases:
        assert verdicts([one]) == [wanted], one


def test_many_rows_make_a_verdict_dearer() -> None:
    lucky = row(0.5, 0.7, 0.01)
    assert verdicts([lucky]) == ["better"]
    rows = [lucky, *[replace(lucky, p=0.5 + k / 100) for k in range(9)]]
    assert verdicts(rows)[0] == "no difference found"
    # Rows without a test, such as a single model's, cost nothing.
    assert verdicts([lucky, *[row(0.5)] * 9])[0] == "better"


def test_two_models_that_are_alike_are_seldom_told_apart() -> None:
    """30 pairs of equal models on graded, clustered values: 1.5 false alarms are expected, 6 would be a wrong test."""
    false_alarms = 0
    clusters = [f"c{k // 2}" for k in range(40)]
    for world in range(30):
        rng = np.random.default_rng(world)
        shared = rng.normal(size=20).repeat(2)
        one, two = (measure(shared + rng.normal(size=20).repeat(2), clusters) for _ in range(2))
        false_alarms += swap_test(one, two, seed=0) < 0.05
    assert false_alarms <= 5
    rng = np.random.default_rng(0)
    base = rng.normal(size=40)
    wide = {"bounds": (-9.0, 9.0)}
    told = paired_row(measure(base, clusters, **wide), measure(base + 1 + 0.1 * rng.normal(size=40), clusters, **wide))
    assert told.p is not None and told.p < 0.01 and told.difference is not None and told.difference.low > 0.8


def test_the_largest_gap() -> None:
    assert largest_gap(np.array([[1, 0, 1, 0], [1, 0, 0, 0]], float)) == 1.0
    assert interval(measure([[1.0], [3.0]], statistic=mean, bounds=(0.0, 9.0))).value == 2.0
