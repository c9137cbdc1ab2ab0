"""Shares over attempts that come in goals: held against simpler formulas, a full count, and a known truth."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from tunesmith.calibration import rogan_gladen, rogan_gladen_difference
from tunesmith.redteam.goal_stats import clustered_paired_difference, exact_sign_flip_p
from tunesmith.redteam.rates import EXACT, KnownError, Read, change_of, goal_differences, rate_of
from tunesmith.stats import exact_mcnemar_p, newcombe_paired_difference, wilson_interval

ERROR = KnownError(sensitivity=(90, 100), specificity=(170, 200), source="labels")


def reads(num: int, hit: Callable[[int], bool], said: Callable[[int], bool] = lambda i: True) -> list[Read]:
    return [Read(goal=str(i), hit=hit(i), said=said(i), error=ERROR) for i in range(num)]


def test_a_goal_an_attempt_gives_the_plain_formulas() -> None:
    before, after = reads(100, lambda i: i < 30, lambda i: i < 95), reads(100, lambda i: i < 10 or i == 91)
    rate = rate_of(before)
    assert rate.raw == wilson_interval(30, 100) and (rate.num_hits, rate.num_unread) == (30, 5)
    known = rogan_gladen((30, 95), (90, 100), (170, 200), 0, unread=5)
    assert rate.corrected is not None and rate.reliable
    assert rate.corrected.value == pytest.approx(known.value)
    assert [rate.corrected.low, rate.corrected.high] == pytest.approx([known.low, known.high], abs=0.02)
    raw, corrected = change_of(before, after)
    plain = newcombe_paired_difference([one.hit for one in before], [one.hit for one in after])
    assert [raw.value, raw.low, raw.high] == pytest.approx([plain.value, plain.low, plain.high])
    sides = [[one.hit if one.said else None for one in side] for side in (before, after)]
    difference = rogan_gladen_difference(*sides, (90, 100), (170, 200), 0)
    assert corrected is not None and corrected.value == pytest.approx(difference.value)
    assert [corrected.low, corrected.high] == pytest.approx([difference.low, difference.high], abs=0.03)
    # Without the error nothing is corrected, and one that is no better than chance corrects nothing either.
    assert rate_of([Read(goal="a", hit=True), *before]).corrected is None
    blind = KnownError(sensitivity=(1, 2), specificity=(1, 2), source="coin")
    assert rate_of([Read(goal="a", hit=True, error=blind)]).corrected is None


def test_goals_not_attempts_are_independent() -> None:
    once = reads(20, lambda i: i < 10)
    often = [one for one in once for _ in range(10)]
    narrow, wide = rate_of([Read(goal=str(i), hit=i < 100, error=ERROR) for i in range(200)]), rate_of(often)
    assert wide.num == 200 and wide.num_goals == 20
    for part in ("raw", "corrected"):
        own, thin, first = (getattr(one, part) for one in (wide, narrow, rate_of(once)))
        # Ten times the same is no more than once.
        assert own.low == pytest.approx(first.low, abs=0.02) and own.high - own.low > 2 * (thin.high - thin.low)


def test_several_answers_have_several_chances_of_a_false_alarm() -> None:
    """A judge that errs on single answers, simulated: only the correction that counts answers finds the truth."""
    rng, num, answers, truth = np.random.default_rng(0), 1200, 5, 0.3
    won = rng.random(num) < truth
    alarm = (rng.random((num, answers)) < 0.1).any(axis=1)
    flagged = np.where(won, (rng.random(num) < 0.8) | (rng.random((num, answers - 1)) < 0.1).any(axis=1), alarm)
    error = KnownError(sensitivity=(8000, 10_000), specificity=(9000, 10_000), source="truth")
    found = {
        m: rate_of([Read(goal=str(i), hit=bool(hit), num_answers=m, error=error) for i, hit in enumerate(flagged)])
        for m in (1, answers)
    }
    right, wrong = found[answers].corrected, found[1].corrected
    assert right is not None and wrong is not None
    assert right.low < truth < right.high and wrong.low > 0.5


def test_what_cannot_be_misread_is_not_corrected_and_strata_join() -> None:
    exact = [Read(goal=f"s{i}", hit=i < 5, error=EXACT) for i in range(20)]
    rate = rate_of(exact)
    assert rate.corrected is not None and rate.corrected.value == 0.25
    joined = rate_of([*exact, *reads(60, lambda i: i < 30)])
    own = rogan_gladen((30, 60), (90, 100), (170, 200), 0).value
    assert joined.corrected is not None
    assert joined.corrected.value == pytest.approx(0.25 * 0.25 + 0.75 * own)


def test_fewer_hits_than_false_alarms_are_marked_and_keep_a_width() -> None:
    rate = rate_of(reads(100, lambda i: False))
    assert rate.corrected is not None and rate.corrected.value == 0 and not rate.reliable
    assert rate.corrected.high == pytest.approx(rate.raw.high / 0.9)
    assert rate_of(reads(100, lambda i: i < 12)).reliable


def test_the_sign_flip_test_is_the_full_count_and_mcnemar() -> None:
    for made in ([1] * 8 + [-1] * 2 + [0] * 5, [1, 1, 1], [-1], []):
        expected = exact_mcnemar_p(sum(one > 0 for one in made), sum(one < 0 for one in made))
        assert exact_sign_flip_p(made) == pytest.approx(expected)
    for made in ([3, 2, 2, -1], [4, -2, 6, 2, 0, -2], [5, -5]):
        flips = itertools.product((1, -1), repeat=len(made))
        sums = [sum(s * d for s, d in zip(signs, made, strict=True)) for signs in flips]
        expected = np.mean([abs(one) >= abs(sum(made)) for one in sums])
        assert exact_sign_flip_p(made) == pytest.approx(expected), made
    before = [Read(goal=goal, hit=hit) for goal, hit in (("a", True), ("a", True), ("b", False))]
    after = [Read(goal=goal, hit=hit) for goal, hit in (("a", False), ("a", True), ("b", True))]
    assert goal_differences(before, after) == [-1, 1]
    with pytest.raises(ValueError, match="no pairs"):
        change_of(before, after[:2])


def test_clustered_pairs_cover_the_truth_and_keep_the_level() -> None:
    rng, inside, rejected, tries, goals, each = np.random.default_rng(3), 0, 0, 200, 40, 4
    for _ in range(tries):
        ease = rng.normal(size=(goals, 1))
        first, second = (ease + rng.normal(size=(goals, each)) < 0.3 for _ in range(2))
        found = clustered_paired_difference(
            first.ravel().tolist(), second.ravel().tolist(), np.repeat(np.arange(goals), each).tolist()
        )
        inside += found.low <= 0 <= found.high
        rejected += exact_sign_flip_p((second.sum(axis=1) - first.sum(axis=1).astype(int)).tolist()) < 0.05
    assert inside / tries >= 0.93 and rejected / tries <= 0.075
    # Taking attempts for independent would not: the control.
    assert clustered_paired_difference([True] * 3, [True] * 3, [0, 1, 1]).high > 0
