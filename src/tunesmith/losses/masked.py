"""Sums, means and variances over the selected positions of a tensor.

A position outside the mask has no influence on the value or the gradient, not even when it holds NaN or infinity:
padding may hold anything. Where a mask selects nothing, a sum is 0 and a mean or variance is NaN: there is no number
that would be right, and a made-up one would hide the fault.
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_sum(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of ``values`` (any shape) where ``mask`` (same shape, bool or 0/1) holds; over all positions, or along one.

    Returns a scalar, or ``values``' shape without ``dim``.
    """
    kept = torch.where(_as_bool(values, mask), values, torch.zeros_like(values))
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of ``values`` (any shape) where ``mask`` (same shape) holds; shape as ``masked_sum``, NaN over nothing."""
    return masked_sum(values, mask, dim) / _count(values, mask, dim)


def masked_variance(values: Tensor, mask: Tensor, dim: int | None = None, correction: int = 1) -> Tensor:
    """Variance of ``values`` (any shape) where ``mask`` (same shape) holds; shape as ``masked_sum``.

    Divided by count - ``correction`` (1: the unbiased estimate, 0: the mean square); NaN where that is not positive.
    Computed around the mean, so a large common offset costs no digits.
    """
    selected = _as_bool(values, mask)
    mean = masked_mean(values, selected, dim)
    mean = mean if dim is None else mean.unsqueeze(dim)
    # Replaced before the arithmetic: a NaN that is only hidden afterwards would still reach the gradient.
    centred = torch.where(selected, values, mean) - mean
    return masked_sum(centred.square(), selected, dim) / (_count(values, selected, dim) - correction).clamp_min(0)


def masked_whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True, epsilon: float = 1e-8) -> Tensor:
    """Scale ``values`` (any shape) to variance 1 over the mask, and to mean 0 unless ``shift_mean`` is False.

    Same shape as ``values``; positions outside ``mask`` become 0. Variance with correction 1, ``epsilon`` added to it.
    """
    selected = _as_bool(values, mask)
    mean = masked_mean(values, selected)
    whitened = (torch.where(selected, values, mean) - mean) * (masked_variance(values, selected) + epsilon).rsqrt()
    return torch.where(selected, whitened if shift_mean else whitened + mean, torch.zeros_like(values))


def _as_bool(values: Tensor, mask: Tensor) -> Tensor:
    # A mask of another shape would be broadcast into a number that looks right.
    if values.shape != mask.shape:
        raise ValueError(f"values {tuple(values.shape)} and mask {tuple(mask.shape)} differ in shape")
    return mask.bool()


def _count(values: Tensor, mask: Tensor, dim: int | None) -> Tensor:
    selected = _as_bool(values, mask).to(values.dtype)
    return selected.sum() if dim is None else selected.sum(dim)
