"""Intervals and tests against scipy, published worked examples and simulation."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from tunesmith.stats import (
    Interval,
    bootstrap_mean,
    bootstrap_paired_difference,
    exact_mcnemar,
    exact_mcnemar_p,
    holm_adjusted,
    newcombe_paired_difference,
    wilson_interval,
)


def paired(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[bool], list[bool]]:
    table = [(True, True)] * both + [(True, False)] * only_first + [(False, True)] * only_second
    rows = table + [(False, False)] * neither
    return [a for a, _ in rows], [b for _, b in rows]


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 29), (15, 148), (81, 263), (80, 80), (7, 80)])
def test_wilson_is_scipys(k: int, n: int, confidence: float) -> None:
    ours = wilson_interval(k, n, confidence)
    theirs = scipy_stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    exact = scipy_stats.binomtest(k, n).proportion_ci(confidence, method="exact")
    assert (ours.low, ours.high) != pytest.approx((exact.low, exact.high), abs=1e-5), "Clopper-Pearson is another one"


def test_wilson_gives_the_published_values() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    ours = [wilson_interval(81, 263), wilson_interval(15, 148), wilson_interval(0, 20), wilson_interval(1, 29)]
    limits = [(round(i.low, 4), round(i.high, 4)) for i in ours]
    assert limits == [(0.2553, 0.3662), (0.0624, 0.1605), (0.0, 0.1611), (0.0061, 0.1718)]


@given(n=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_holds_its_estimate_and_stays_a_share(n: int, share: float) -> None:
    k = round(share * n)
    ours = wilson_interval(k, n)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1
    assert ours.low < ours.high
    mirrored = wilson_interval(n - k, n)
    assert mirrored.low == pytest.approx(1 - ours.high, abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 4), (5, 4)])
def test_counts_that_contradict_each_other_are_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(k, n)


@given(b=st.integers(0, 120), c=st.integers(0, 120))
def test_mcnemar_is_the_binomial_test(b: int, c: int) -> None:
    ours = exact_mcnemar_p(b, c)
    theirs = 1.0 if b + c == 0 else scipy_stats.binomtest(b, b + c, 0.5).pvalue
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert ours == exact_mcnemar_p(c, b)


def test_mcnemar_counts_the_discordant_items_and_who_won_them() -> None:
    first, second = paired(both=59, only_first=6, only_second=16, neither=80)
    test = exact_mcnemar(first, second)
    assert (test.only_first, test.only_second) == (6, 16)
    # Cavo et al. 2012 as analysed in Fagerland, Lydersen and Laake 2013: exact conditional P = 0.0525.
    assert round(test.p, 4) == 0.0525
    chi_squared_limit = math.erfc(math.sqrt((16 - 6) ** 2 / (16 + 6) / 2))
    assert test.p != pytest.approx(chi_squared_limit, abs=1e-3), "the asymptotic test would have passed here"
    agreed = paired(both=159, only_first=6, only_second=16, neither=180)
    assert exact_mcnemar(*agreed).p == test.p, "items both got right, or both wrong, say nothing"


def test_mcnemar_on_graded_values_is_the_sign_test() -> None:
    test = exact_mcnemar([0.1, 0.5, 0.9, 0.3], [0.2, 0.5, 0.1, 0.8])
    assert (test.only_first, test.only_second, test.p) == (1, 2, 1.0)


def test_whole_numbers_keep_large_counts_exact() -> None:
    assert exact_mcnemar_p(3000, 3000) == 1.0
    assert exact_mcnemar_p(0, 1074) == 2.0**-1073


# both, only first, only second, neither -> difference, low, high as published.
PUBLISHED = [
    ((59, 16, 6, 80), (-0.0621, -0.1186, -0.0046)),  # R contingencytables 3, test of chapter 8 (Cavo et al. 2012)
    ((1, 7, 1, 12), (-0.2857, -0.507, -0.026)),  # Fagerland, Lydersen and Laake 2014 (Bentur et al. 2009)
]


@pytest.mark.parametrize(("table", "expected"), PUBLISHED)
def test_newcombe_gives_the_published_values(
    table: tuple[int, int, int, int], expected: tuple[float, float, float]
) -> None:
    ours = newcombe_paired_difference(*paired(*table))
    assert (ours.value, ours.low, ours.high) == pytest.approx(expected, abs=6e-4)
    both, one, two, neither = table
    unpaired = newcombe_paired_difference(*_shuffled_pairing(both, one, two, neither))
    assert (unpaired.low, unpaired.high) != pytest.approx((ours.low, ours.high), abs=6e-4), "pairing matters"


def _shuffled_pairing(both: int, one: int, two: int, neither: int) -> tuple[list[bool], list[bool]]:
    first, second = paired(both, one, two, neither)
    return sorted(first), sorted(second, reverse=True)


pairs_of_outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(rows=pairs_of_outcomes)
def test_newcombe_holds_its_estimate_and_mirrors(rows: list[tuple[bool, bool]]) -> None:
    first, second = [a for a, _ in rows], [b for _, b in rows]
    ours, mirrored = newcombe_paired_difference(first, second), newcombe_paired_difference(second, first)
    assert -1 - 1e-9 <= ours.low <= ours.value <= ours.high <= 1 + 1e-9
    assert ours.value == pytest.approx((sum(second) - sum(first)) / len(rows))
    assert (mirrored.low, mirrored.high) == pytest.approx((-ours.high, -ours.low), abs=1e-12)


def test_newcombe_keeps_a_width_where_the_bootstrap_has_none() -> None:
    same = [True] * 20
    assert newcombe_paired_difference(same, same).high == pytest.approx(0.1611, abs=1e-4)
    flat = bootstrap_paired_difference([1.0] * 20, [1.0] * 20, seed=0)
    assert flat == Interval(0.0, 0.0, 0.0)


def test_bootstrap_agrees_with_scipys() -> None:
    values = np.random.default_rng(5).gamma(2.0, size=80)
    ours = bootstrap_mean(values.tolist(), seed=1)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    spread = values.std() / math.sqrt(len(values))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.1 * spread)
    wider = bootstrap_mean(values.tolist(), seed=1, confidence=0.99)
    assert wider.low < ours.low - 0.3 * spread, "the agreement above is no accident of a loose bound"


def test_bootstrap_depends_on_its_seed_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(50).tolist()
    once = bootstrap_mean(values, seed=3, num_resamples=999)
    assert once == bootstrap_mean(values, seed=3, num_resamples=999)
    assert once != bootstrap_mean(values, seed=4, num_resamples=999)
    monkeypatch.setattr("tunesmith.stats._DRAWS_AT_ONCE", 170)
    assert once == bootstrap_mean(values, seed=3, num_resamples=999), "drawing in parts changes nothing"


def test_a_paired_difference_is_tighter_than_an_unpaired_one() -> None:
    rng = np.random.default_rng(1)
    level = rng.random(60) * 10
    first, second = level + rng.random(60) * 0.1, level + 0.5 + rng.random(60) * 0.1
    difference = bootstrap_paired_difference(first.tolist(), second.tolist(), seed=0)
    assert difference.low < 0.5 < difference.high or abs(difference.value - 0.5) < 0.05
    assert difference.high - difference.low < 0.05
    shuffled = bootstrap_paired_difference(first.tolist(), second[::-1].tolist(), seed=0)
    assert shuffled.high - shuffled.low > 1, "the same numbers in another pairing say far less"


@settings(deadline=None, max_examples=1)
@given(seed=st.just(11))
def test_intervals_cover_the_truth_as_often_as_they_claim(seed: int) -> None:
    """2000 samples of 40: the share of 95 % intervals that hold the truth lies in 0.95 +- 0.02."""
    rng = np.random.default_rng(seed)
    covered = [(i := wilson_interval(int(k), 40)).low <= 0.3 <= i.high for k in rng.binomial(40, 0.3, size=2000)]
    assert abs(float(np.mean(covered)) - 0.95) < 0.02
    narrow = [(i := wilson_interval(int(k), 40, 0.8)).low <= 0.3 <= i.high for k in rng.binomial(40, 0.3, size=2000)]
    assert float(np.mean(narrow)) < 0.9, "the measurement can tell a narrower interval"


@pytest.mark.parametrize("function", [exact_mcnemar, newcombe_paired_difference])
def test_unpaired_lengths_are_refused(function: object) -> None:
    with pytest.raises(ValueError, match="3 values are paired with 2"):
        function([True] * 3, [True] * 2)  # type: ignore[operator]
    with pytest.raises(ValueError, match="2 values are paired with 1"):
        bootstrap_paired_difference([1.0, 2.0], [1.0], seed=0)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_mean([], seed=0)


def test_an_interval_prints_itself() -> None:
    assert Interval(0.5, 0.25, 0.75).percent() == "50.0 % [25.0, 75.0]"
    assert str(Interval(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"


def test_scipy_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, tunesmith.stats; assert 'scipy' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_holm_by_hand_and_under_any_order() -> None:
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 not below it.
    assert holm_adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_adjusted([0.6, 0.5]) == [1.0, 1.0]
    assert holm_adjusted([]) == []
    # Control: Bonferroni is another, harsher one.
    assert holm_adjusted([0.01, 0.04]) != pytest.approx([0.02, 0.08])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_nothing_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm_adjusted(p_values)
    assert all(p <= q <= min(1, len(p_values) * p) + 1e-12 for p, q in zip(p_values, adjusted, strict=True))
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert [q for _, q in pairs] == sorted(q for _, q in pairs)


def test_holm_keeps_false_alarms_at_the_level() -> None:
    draws = np.random.default_rng(0).random((4000, 6))
    alarms = np.mean([min(holm_adjusted(list(row))) < 0.05 for row in draws])
    assert 0.04 < alarms < 0.06
    assert np.mean(draws.min(axis=1) < 0.05) > 0.2, "without it a quarter of them would cry wolf"
