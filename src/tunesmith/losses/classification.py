"""The loss of a classifier: cross-entropy over K classes, smoothed and weighted where asked.

It returns a sum and the weight it is to be divided by; the step divides once, by the weight of all its micro-batches.
Shape letters: N rows, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tunesmith.losses.masked import require_same_shape


def cross_entropy(
    logits_NK: Tensor, class_N: Tensor, weight_N: Tensor | None = None, *, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(sum_n w_n * -sum_k q_nk log p_nk, sum_n w_n) in nats, with p = softmax(logits).

    q_nk = (1 - e) [k = class_n] + e / K: label smoothing e as in arXiv:1512.00567, section 7. weight_N: 1 where absent.
    Raises ValueError for a class that is none of the K.
    """
    num_rows, num_classes = logits_NK.shape
    if num_rows and not bool(((class_N >= 0) & (class_N < num_classes)).all()):
        raise ValueError(f"a class is none of {num_classes}")
    weight_N = torch.ones_like(logits_NK[:, 0]) if weight_N is None else weight_N.to(logits_NK.dtype)
    require_same_shape(classes=class_N, weight=weight_N, rows=logits_NK[:, 0])
    logprobs_NK = torch.log_softmax(logits_NK, dim=1)
    loss_N = -logprobs_NK.gather(1, class_N[:, None])[:, 0]
    if label_smoothing:
        loss_N = (1 - label_smoothing) * loss_N - label_smoothing * logprobs_NK.mean(dim=1)
    return (loss_N * weight_N).sum(), weight_N.sum()


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Weight of a row of each class, N / (K n_k): every class then weighs the same and the mean weight is 1.

    King and Zeng 2001, Political Analysis 9:137. Raises ValueError for a class without rows.
    """
    if not counts or min(counts) < 1:
        raise ValueError(f"a class without rows has no weight: {list(counts)}")
    return [sum(counts) / (len(counts) * count) for count in counts]
