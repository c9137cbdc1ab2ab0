"""Paired statistics of attempts that come in goals: an interval, an exact test, and what it could have found."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tunesmith.stats import Interval, clustered_proportion

ALPHA, POWER = 0.05, 0.8


def clustered_paired_difference(
    first: Sequence[bool], second: Sequence[bool], clusters: Sequence[int], confidence: float = 0.95
) -> Interval:
    """Interval of share(second) - share(first) over the same items, which come in clusters.

    Newcombe's method 10 with the two intervals of clustered_proportion and the correlation of the clusters' residuals,
    so that it keeps a width where no item changed. Clusters of one item give newcombe_paired_difference. Raises
    ValueError when the lengths differ or nothing was measured.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values are paired with {len(second)}")
    _, which = np.unique(np.asarray(clusters), return_inverse=True)
    one, two = (clustered_proportion([float(hit) for hit in side], clusters, confidence) for side in (first, second))
    left_G, right_G = (
        np.bincount(which, weights=np.asarray(side, float) - own.value) for side, own in ((first, one), (second, two))
    )
    size = math.sqrt(float((left_G**2).sum() * (right_G**2).sum()))
    together = float(left_G @ right_G)
    if together > 0:
        # Newcombe's continuity correction, half an item where the clusters are items.
        together = max(0.0, together - float((np.bincount(which) ** 2).mean()) / 2)
    phi = together / size if size > 0 else 0.0

    def joined(left: float, right: float) -> float:
        # Not negative but for rounding, since |phi| <= 1.
        return math.sqrt(max(0.0, left * left - 2 * phi * left * right + right * right))

    difference = two.value - one.value
    low = difference - joined(two.value - two.low, one.high - one.value)
    high = difference + joined(one.value - one.low, two.high - two.value)
    return Interval(difference, low, high)


def exact_sign_flip_p(differences: Sequence[int]) -> float:
    """Two-sided p of a sum of whole-number differences, one a cluster, each as likely to have had the other sign.

    The distribution of the sum over all sign changes is summed up exactly, not drawn; differences of one item each, -1,
    0 or 1, give the exact McNemar test. Source: Fisher 1935, The Design of Experiments, §21.
    """
    sizes = [abs(one) for one in differences if one]
    step = math.gcd(*sizes)
    if not sizes:
        return 1.0
    sizes = [size // step for size in sizes]
    # chances[i]: of the sum being i - total so far.
    chances = np.ones(1)
    for size in sizes:
        wider = np.zeros(len(chances) + 2 * size)
        wider[: len(chances)] += chances / 2
        wider[2 * size :] += chances / 2
        chances = wider
    reach = abs(sum(differences)) // step
    middle = len(chances) // 2
    return min(1.0, 2 * float(chances[middle + reach :].sum()) if reach else 1.0)


def smallest_found(difference: Interval) -> float:
    """The difference that a test at 0.05 finds with a power of 0.8, from the standard error behind the interval."""
    from scipy.special import ndtri

    width = difference.high - difference.low
    return float((ndtri(1 - ALPHA / 2) + ndtri(POWER)) * width / (2 * ndtri(0.975)))
