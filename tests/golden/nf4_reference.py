"""NF4 once more, in NumPy and SciPy, from the paper's words: every level by brute force, every value by itself.

Dettmers et al. 2023, arXiv:2305.14314, section 3 and appendix E.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Floats = NDArray[np.floating[Any]]


def levels() -> Floats:
    """Quantiles of the normal distribution at equal steps, eight below zero and seven above, over the largest.

    The outermost quantile lies half a step from the end of 15, on average with that of 16: (1 - 1/32 + 1 - 1/30) / 2.
    """
    outermost = (2 - 1 / 32 - 1 / 30) / 2
    below = -norm.ppf(np.linspace(outermost, 0.5, 8)[:-1])
    above = norm.ppf(np.linspace(outermost, 0.5, 9)[:-1])
    found = np.sort(np.concatenate([below, [0.0], above]))
    return np.asarray(found / np.abs(found).max())


def nearest(values: Floats, level: Floats, block: int) -> tuple[NDArray[np.int64], Floats]:
    """(number of the nearest level of each value, largest magnitude of each block)."""
    numbers, magnitudes = [], []
    for first in range(0, len(values), block):
        part = values[first : first + block].astype(np.float64)
        magnitude = np.abs(part).max()
        scaled = part / magnitude if magnitude > 0 else part
        numbers += [int(np.argmin(np.abs(level - value))) for value in scaled]
        magnitudes.append(magnitude)
    return np.array(numbers), np.array(magnitudes)


def round_trip(weight: Floats, level: Floats, small_level: Floats) -> Floats:
    """The values that 4 bits with double quantisation leave of a weight."""
    flat = weight.reshape(-1)
    numbers, magnitudes = nearest(flat, level, 64)
    mean = magnitudes.mean()
    small, scales = nearest(magnitudes - mean, small_level, 256)
    kept = small_level[small] * np.repeat(scales, 256)[: len(small)] + mean
    return (level[numbers] * np.repeat(kept, 64)[: len(flat)]).reshape(weight.shape)
