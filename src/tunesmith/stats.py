"""Intervals and paired tests: every number carries its uncertainty. numpy and scipy only.

scipy is imported inside, so that a verb that shows no statistics does not pay for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    return score_interval(num_successes / num_trials, num_trials, confidence)


def score_interval(p: float, n: float, confidence: float = 0.95) -> Interval:
    """Wilson's interval of a share p of n trials, which need not be a whole number: an effective one will do."""
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
    y = np.asarray(outcomes, float)
    p = float(y.mean())
    return score_interval(p, _effective_trials(y, clusters, p * (1 - p)), confidence)


def effective_trials(values: Sequence[float], clusters: Sequence[int]) -> float:
    """How many independent values tell as much of the mean as these, which come in clusters; at most their number.

    The variance of the values over the linearised variance of their mean, as in ``clustered_proportion``; where nothing
    varies it is the number of clusters. Raises ValueError without values.
    """
    if not len(values) or len(values) != len(clusters):
        raise ValueError(f"{len(values)} values in {len(clusters)} places have no mean")
    y = np.asarray(values, float)
    return _effective_trials(y, clusters, float(y.var()))


def _effective_trials(y: NDArray[np.float64], clusters: Sequence[int], spread: float) -> float:
    names, which = np.unique(np.asarray(clusters), return_inverse=True)
    n, num_clusters = len(y), len(names)
    if num_clusters == n:
        return float(n)
    if num_clusters == 1:
        return 1.0
    residuals = np.bincount(which, weights=y - y.mean())
    variance = float((residuals**2).sum()) / n**2 * num_clusters / (num_clusters - 1)
    return min(float(n), spread / variance) if variance > 0 else float(num_clusters)


def newcombe_difference(one: Interval, two: Interval) -> Interval:
    """Interval of the difference one - two of two independent proportions, from the score interval of each.

    Source: Newcombe 1998, Statistics in Medicine 17:873, method 10, with wilson_interval; clustered_proportion serves
    where trials come in clusters.
    """
    difference = one.value - two.value
    low = difference - math.hypot(one.value - one.low, two.high - two.value)
    high = difference + math.hypot(one.high - one.value, two.value - two.low)
    return Interval(difference, low, high)


def smallest_detectable_difference(
    num_items: int, discordant_share: float, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Difference of two paired proportions that a McNemar test would find with the given power.

    discordant_share: items on which the two differ. Source: Connor 1987, Biometrics 43:207, eq. 3, solved for the
    difference. Where even a difference of all the items that differ would not be found, more of them must: of those
    beyond the share each is taken to speak for the same side. 1.0 where no difference would do. Raises ValueError
    without items.
    """
    from scipy.special import ndtri

    if num_items <= 0 or not 0 <= discordant_share <= 1:
        raise ValueError(f"{num_items} items of which {discordant_share} differ")
    z_alpha, z_power = float(ndtri(1 - alpha / 2)), float(ndtri(power))
    # Of none seen to differ, some would: Laplace's rule.
    seen = max(discordant_share, 1 / (num_items + 2))

    def items_needed(difference: float) -> float:
        share = max(seen, difference)
        spread = z_alpha * math.sqrt(share) + z_power * math.sqrt(max(0.0, share - difference**2))
        return (spread / difference) ** 2

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if items_needed(middle) <= num_items else (middle, high)
    return high


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


def paired_ratio(first: Sequence[bool], second: Sequence[bool], confidence: float = 0.95) -> Interval:
    """Interval of share(second) / share(first) over the same items, from the two Wilson intervals.

    A limit R is where the interval of share(second) - R share(first) touches 0, which is built as Newcombe's of the
    difference is (MOVER: Zou and Donner 2008, Statistics in Medicine 27:1693): the root of a R^2 - 2 b R + c. Unlike a
    bootstrap it keeps a width where no item, or every item, changed. Raises ValueError when the lengths differ or
    nothing of the first succeeded.
    """
    _check_paired(first, second)
    n, k1, k2 = len(first), sum(map(bool, first)), sum(map(bool, second))
    if not k1:
        raise ValueError("a ratio to a share of 0")
    both = sum(a and b for a, b in zip(first, second, strict=True))
    one, two = wilson_interval(k1, n, confidence), wilson_interval(k2, n, confidence)
    phi = _newcombe_correlation(n, k1, k2, both)

    def b_and_root(down: float, up: float, a: float, c: float) -> tuple[float, float]:
        b = one.value * two.value - phi * down * up
        # Not negative but for rounding, since |phi| <= 1.
        return b, math.sqrt(max(0.0, b * b - a * c))

    a, c = one.high * (2 * one.value - one.high), two.low * (2 * two.value - two.low)
    b, root = b_and_root(two.value - two.low, one.high - one.value, a, c)
    low = c / (b + root) if c > 0 else 0.0
    a, c = one.low * (2 * one.value - one.low), two.high * (2 * two.value - two.high)
    b, root = b_and_root(two.high - two.value, one.value - one.low, a, c)
    return Interval(k2 / k1, low, (b + root) / a)


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


def clustered_bootstrap_mean(
    values: Sequence[float], clusters: Sequence[int], seed: int, confidence: float = 0.95, num_resamples: int = 2000
) -> Interval:
    """Percentile bootstrap of a mean whose values come in clusters, which are drawn whole.

    Clusters of one value each give bootstrap_mean. Raises ValueError without values.
    """
    if len(set(clusters)) == len(values):
        return bootstrap_mean(values, seed, confidence, num_resamples)
    return bootstrap_ratio(values, [1.0] * len(values), seed, clusters, confidence, num_resamples)


def bootstrap_ratio(
    over: Sequence[float],
    under: Sequence[float],
    seed: int,
    clusters: Sequence[int] | None = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
) -> Interval:
    """Percentile bootstrap of sum(over) / sum(under) over items, or over clusters of them drawn whole.

    Raises ValueError without values, and where the sum below is not positive.
    """
    sums_RC = _resampled_sums([over, under], seed, clusters, num_resamples)
    return _of_resamples(_ratio(sums_RC), confidence)


def bootstrap_ratio_difference(
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    seed: int,
    clusters: Sequence[int] | None = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
) -> Interval:
    """The second ratio of sums minus the first, each (over, under), resampling the same items of both.

    Raises ValueError as bootstrap_ratio does.
    """
    sums_RC = _resampled_sums([*first, *second], seed, clusters, num_resamples)
    return _of_resamples(_ratio(sums_RC[:, 2:]) - _ratio(sums_RC[:, :2]), confidence)


def _resampled_sums(
    columns: Sequence[Sequence[float]], seed: int, clusters: Sequence[int] | None, num_resamples: int
) -> NDArray[np.float64]:
    """(1 + resamples, columns): each column's sum over all items, then over the items of each resample."""
    num_items = len(columns[0])
    if not num_items or any(len(column) != num_items for column in columns):
        raise ValueError(f"columns of {[len(column) for column in columns]} values cannot be resampled together")
    which = np.arange(num_items) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    own_CG = np.stack([np.bincount(which, weights=np.asarray(column, float)) for column in columns])
    rng, num_groups = generator(seed, "bootstrap"), own_CG.shape[1]
    out = [own_CG.sum(axis=1)[None]]
    step = max(1, _DRAWS_AT_ONCE // num_groups)
    for start in range(0, num_resamples, step):
        draws = rng.integers(num_groups, size=(min(step, num_resamples - start), num_groups))
        out.append(np.stack([own_G[draws].sum(axis=1) for own_G in own_CG], axis=1))
    return np.concatenate(out)


def _ratio(sums_R2: NDArray[np.float64]) -> NDArray[np.float64]:
    if not sums_R2[0, 1] > 0:
        raise ValueError("a ratio of sums needs a positive sum below")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums_R2[:, 0] / sums_R2[:, 1])


def _of_resamples(values_R: NDArray[np.float64], confidence: float) -> Interval:
    """The first is the estimate; a resample in which it does not exist is left out of the limits."""
    drawn = values_R[1:][np.isfinite(values_R[1:])]
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(values_R[0]), float(low), float(high))


def bootstrap_paired_difference(
    first: Sequence[float], second: Sequence[float], seed: int, confidence: float = 0.95
) -> Interval:
    """Bootstrap interval of mean(second - first) over the same items. Raises ValueError when lengths differ."""
    _check_paired(first, second)
    return bootstrap_mean([b - a for a, b in zip(first, second, strict=True)], seed, confidence)


def _check_paired(first: Sequence[float], second: Sequence[float]) -> None:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values are paired with {len(second)}")
