"""The loss of supervised fine-tuning: negative log-likelihood of the next token, as a sum and a count."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def token_nll(logits: Tensor, ids: Tensor, loss_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted negative log-likelihood of each token given those before it; returns (sum in nats, count).

    logits: (..., T, V), position t predicting token t + 1. ids: (..., T) integer. loss_weight: (..., T), the weight of
    predicting token t; 0 keeps it out, and position 0, which nothing predicts, must be 0. Rows packed into one sequence
    work too, since each starts with weight 0. The sum is in at least fp32; the count is the sum of the weights. Divide
    once, by the count of the whole step over all ranks: a mean of means would weigh short rows more. Positions with
    weight 0 have no influence, whatever their logits hold. Raises ValueError when shapes differ or position 0 has weight.
    """
    if logits.shape[:-1] != ids.shape or ids.shape != loss_weight.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)}, ids {tuple(ids.shape)} and loss_weight {tuple(loss_weight.shape)} do not fit"
        )
    if bool((loss_weight[..., 0] != 0).any()):
        raise ValueError("the first token of a row has weight, but nothing predicts it")
    weight = loss_weight[..., 1:]
    selected = weight != 0
    chosen = logits[..., :-1, :][selected]
    chosen = chosen.to(torch.promote_types(chosen.dtype, torch.float32))
    nll = F.cross_entropy(chosen, ids[..., 1:][selected], reduction="none")
    weight = weight[selected].to(nll.dtype)
    return (nll * weight).sum(), weight.sum()
