"""Sums, means and whitening over the positions a mask names; what stands elsewhere, NaN included, is never read.

A mask is a float tensor of the values' own shape: 0 leaves a position out, any other number is its weight.
Shape letters: B answers, T tokens of the longest answer; shorter ones are padded anywhere with mask 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Under the root of a variance, as in the code of arXiv:1909.08593: values that are all alike become 0, not infinite.
WHITEN_EPSILON = 1e-8


def require_same_shape(**tensors: Tensor) -> None:
    """Raise ValueError unless all have one shape: broadcasting (B,) against (B, T) would be silently wrong."""
    if len({tuple(x.shape) for x in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in tensors.items())
        raise ValueError(f"the shapes differ: {shapes}")


def blank(x: Tensor, mask: Tensor) -> Tensor:
    """x with 0 where the mask is 0; no gradient and no NaN comes through there. Raises ValueError for other shapes."""
    require_same_shape(x=x, mask=mask)
    return x.masked_fill(mask == 0, 0.0)


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """sum_i m_i x_i over all positions, a scalar; an empty mask gives 0."""
    return (blank(x, mask) * mask).sum()


def masked_row_sums(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """sum_t m_bt x_bt of each answer, (B,): from log-probabilities of tokens to those of answers."""
    return (blank(x_BT, mask_BT) * mask_BT).sum(-1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """sum_i m_i x_i / sum_i m_i, a scalar; raises ValueError for a mask that is 0 everywhere."""
    return masked_sum(x, mask) / _total(mask)


def masked_variance(x: Tensor, mask: Tensor) -> Tensor:
    """sum_i m_i (x_i - mean)^2 / sum_i m_i: the population's variance (no n - 1), a scalar.

    One position has variance 0; raises ValueError for a mask that is 0 everywhere.
    """
    deviation = blank(x, mask) - masked_mean(x, mask)
    return masked_sum(deviation.square(), mask) / _total(mask)


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Values over their standard deviation: (x - mean) / sqrt(variance + 1e-8), 0 where the mask is 0.

    shift_mean True: the result has mean 0, for advantages. False: the mean is added back and only the deviations from
    it are scaled, for rewards, whose level means something. (arXiv:1909.08593's ``whiten``; in some copies of it the
    flag has the opposite effect.) Moments are taken in fp64, so that values all alike give 0 (or the mean) exactly
    enough. Raises ValueError for a mask that is 0 everywhere.
    """
    wide, weights = x.double(), mask.double()
    mean = masked_mean(wide, weights)
    whitened = (blank(wide, weights) - mean) * torch.rsqrt(masked_variance(wide, weights) + WHITEN_EPSILON)
    if not shift_mean:
        whitened = whitened + mean
    return blank(whitened, weights).to(x.dtype)


def _total(mask: Tensor) -> Tensor:
    total = mask.sum()
    if not bool(total > 0):
        raise ValueError("the mask leaves nothing to average over")
    return total
