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
    return _score_interval(num_successes / num_trials, num_trials, confidence)


def _score_interval(p: float, n: float, confidence: float) -> Interval:
    from scipy.special import ndtri

    z = float(ndtri(0.5 + confidence / 2))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the exact limits are 0 and 1; rounding must not move them.
    low = 0.0 if p == 0 else max(0.0, centre - half)
    high = 1.0 if p == 1 else min(1.0, centre + half)
    return Interval(p, low, high)


def clustered_proportion(outcomes: Sequence[float], clusters: Sequence[int], confidence: float = 0.95) -> Interval:
    """Score interval of a proportion whose trials come in clusters, such as several pairs of one prompt.

    outcomes: 0 to 1, halves for ties. The number of trials is replaced by the effective one, p (1 - p) over the
    linearised variance of the ratio, at most their true number (Korn and Graubard 1998, Survey Methodology 24:193);
    where nothing varies it is the number of clusters. Clusters of one trial give wilson_interval. Raises ValueError
    without trials.
    """
    if not len(outcomes) or len(outcomes) != len(clusters):
        raise ValueError(f"{len(outcomes)} outcomes in {len(clusters)} places are no proportion")
    y, (names, which) = np.asarray(outcomes, float), np.unique(np.asarray(clusters), return_inverse=True)
    p, n, num_clusters = float(y.mean()), len(y), len(names)
    if num_clusters == n:
        return _score_interval(p, n, confidence)
    residuals = np.bincount(which, weights=y - p)
    variance = float((residuals**2).sum()) / n**2 * num_clusters / max(1, num_clusters - 1)
    effective = p * (1 - p) / variance if variance > 0 else float(num_clusters)
    return _score_interval(p, min(float(n), effective) if num_clusters > 1 else 1.0, confidence)


def newcombe_difference(one: Interval, two: Interval) -> Interval:
    """Interval of the difference one - two of two independent proportions, from the score interval of each.

    Source: Newcombe 1998, Statistics in Medicine 17:873, method 10, with wilson_interval; clustered_proportion serves
    where trials come in clusters.
    """
    difference = one.value - two.value
    low = difference - math.hypot(one.value - one.low, two.high - two.value)
    high = difference + math.hypot(one.high - one.value, two.value - two.low)
    return Interval(difference, low, high)


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """One bin: how many predictions, their mean probability, and how often they were right."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """ece: sum over bins of their share times |accuracy - confidence|; bins by rising probability.

    expected_ece: its mean where every probability is true and only chance speaks, which on few pairs is far from 0.
    """

    ece: float
    expected_ece: float
    bins: tuple[CalibrationBin, ...]


def calibration(
    probabilities: Sequence[float], outcomes: Sequence[float], seed: int, *, num_bins: int = 10, num_draws: int = 1000
) -> Calibration:
    """Expected calibration error over bins of equal mass (Nguyen and O'Connor 2015, arXiv:1508.05154).

    outcomes: 1 where what was predicted came true, 0 where not, halves for ties. Bins hold the same number of
    predictions, to within one; fewer predictions than bins make a bin each. Raises ValueError without predictions.
    """
    if not len(probabilities) or len(probabilities) != len(outcomes):
        raise ValueError(f"{len(probabilities)} probabilities for {len(outcomes)} outcomes")
    p, y = np.asarray(probabilities, float), np.asarray(outcomes, float)
    order = np.argsort(p, kind="stable")
    cuts = np.array_split(order, min(num_bins, len(p)))
    draws = (generator(seed, "calibration").random((num_draws, len(p))) < p).astype(float)
    by_chance = sum(len(cut) * np.abs(draws[:, cut].mean(axis=1) - p[cut].mean()) for cut in cuts) / len(p)
    bins = tuple(CalibrationBin(len(cut), float(p[cut].mean()), float(y[cut].mean())) for cut in cuts)
    ece = sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / len(p)
    return Calibration(ece, float(np.mean(by_chance)), bins)


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
