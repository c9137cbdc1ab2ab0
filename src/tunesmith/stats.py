"""Intervals and paired tests: every number carries its uncertainty. numpy and scipy only.

scipy is imported inside, so that a verb that shows no statistics does not pay for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.randomness import generator

# Elements drawn at once while resampling: 32 MB of indices, whatever the number of values.
_DRAWS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the limits of its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def percent(self) -> str:
        """As percentages, for proportions."""
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wilson_interval(num_successes: int, num_trials: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927, JASA 22:209); never leaves [0, 1], holds up at 0 and n successes.

    Raises ValueError when there is no trial or the counts contradict each other.
    """
    if num_trials <= 0 or not 0 <= num_successes <= num_trials:
        raise ValueError(f"{num_successes} successes of {num_trials} trials is no proportion")
    from scipy.special import ndtri

    z, n, p = float(ndtri(0.5 + confidence / 2)), num_trials, num_successes / num_trials
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the exact limits are 0 and 1; rounding must not move them.
    low = 0.0 if num_successes == 0 else max(0.0, centre - half)
    high = 1.0 if num_successes == n else min(1.0, centre + half)
    return Interval(p, low, high)


@dataclass(frozen=True, slots=True)
class McNemar:
    """only_first: items the first did better on, only_second: the second; p: two-sided, all others said nothing."""

    only_first: int
    only_second: int
    p: float


def exact_mcnemar(first: Sequence[float], second: Sequence[float]) -> McNemar:
    """Exact McNemar test on paired outcomes: under the null the discordant items are a fair coin.

    first, second: outcomes on the same items in the same order, 0/1 or true/false; on graded values it is the exact
    sign test. Source: McNemar 1947, Psychometrika 12:153, with the binomial distribution instead of its chi-squared
    limit. Raises ValueError when the lengths differ.
    """
    _check_paired(first, second)
    only_first = sum(a > b for a, b in zip(first, second, strict=True))
    only_second = sum(b > a for a, b in zip(first, second, strict=True))
    return McNemar(only_first, only_second, exact_mcnemar_p(only_first, only_second))


def exact_mcnemar_p(only_first: int, only_second: int) -> float:
    """min(1, 2 P[X <= min(b, c)]) with X ~ Binomial(b + c, 1/2)."""
    n, k = only_first + only_second, min(only_first, only_second)
    # Whole numbers until the last division: exact for any count. term is n over i.
    term = total = 1
    for i in range(k):
        term = term * (n - i) // (i + 1)
        total += term
    return min(1.0, 2 * total / (1 << n))


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that testing several at once keeps the chance of any false alarm, in their order.

    The i-th smallest of m is multiplied by m - i + 1, and none may be below a smaller one's; valid whatever the tests
    have in common. Source: Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def newcombe_paired_difference(first: Sequence[bool], second: Sequence[bool], confidence: float = 0.95) -> Interval:
    """Interval of share(second) - share(first) over the same items, from the two Wilson intervals.

    Unlike a bootstrap it keeps a width where both series agree on every item. Source: Newcombe 1998, Statistics in
    Medicine 17:2635, method 10. Raises ValueError when the lengths differ or nothing was measured.
    """
    _check_paired(first, second)
    n, k1, k2 = len(first), sum(map(bool, first)), sum(map(bool, second))
    both = sum(a and b for a, b in zip(first, second, strict=True))
    one, two = wilson_interval(k1, n, confidence), wilson_interval(k2, n, confidence)
    phi = _newcombe_correlation(n, k1, k2, both)
    difference = two.value - one.value
    low = difference - _joined(two.value - two.low, one.high - one.value, phi)
    high = difference + _joined(one.value - one.low, two.high - two.value, phi)
    return Interval(difference, low, high)


def _newcombe_correlation(n: int, k1: int, k2: int, both: int) -> float:
    product = k1 * (n - k1) * k2 * (n - k2)
    if product == 0:
        return 0.0
    # both * neither - only_first * only_second, with Newcombe's continuity correction when it is positive.
    covariance = both * (n - k1 - k2 + both) - (k1 - both) * (k2 - both)
    return (max(covariance - n / 2, 0) if covariance > 0 else covariance) / math.sqrt(product)


def _joined(left: float, right: float, phi: float) -> float:
    # Not negative but for rounding, since |phi| <= 1.
    return math.sqrt(max(0.0, left * left - 2 * phi * left * right + right * right))


def bootstrap_mean(
    values: Sequence[float], seed: int, confidence: float = 0.95, num_resamples: int = 10_000
) -> Interval:
    """Percentile bootstrap interval of a mean (Efron 1979, Annals of Statistics 7:1).

    It has no width where all values are equal; for shares take wilson_interval. Raises ValueError without values.
    """
    if not len(values):
        raise ValueError("no values to resample")
    array = np.asarray(values, float)
    rng = generator(seed, "bootstrap")
    means = np.empty(num_resamples)
    step = max(1, _DRAWS_AT_ONCE // len(array))
    for start in range(0, num_resamples, step):
        size = min(step, num_resamples - start)
        means[start : start + size] = array[rng.integers(len(array), size=(size, len(array)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(array.mean()), float(low), float(high))


def bootstrap_paired_difference(
    first: Sequence[float], second: Sequence[float], seed: int, confidence: float = 0.95
) -> Interval:
    """Bootstrap interval of mean(second - first) over the same items. Raises ValueError when lengths differ."""
    _check_paired(first, second)
    return bootstrap_mean([b - a for a, b in zip(first, second, strict=True)], seed, confidence)


def _check_paired(first: Sequence[float], second: Sequence[float]) -> None:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values are paired with {len(second)}")
