"""From logits to a token: penalty, temperature, min-p, top-k, top-p and one uniform number a row.

Each row is decided by itself. Shape letters: B rows, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tunesmith.rollout.sampling import Sampling

# top_p looks among so many tokens first: picking them takes a twentieth of the time that sorting 49k takes.
NUCLEUS_TOKENS = 1024


def penalized(logits_BV: Tensor, seen: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Logits with those of each row's seen tokens lowered (Keskar et al. 2019, arXiv:1909.05858, section 4.1).

    A positive one is divided by the penalty, a negative one multiplied with it, as in transformers: the paper divides
    both, which would raise what is negative.
    """
    logits_BV = logits_BV.clone()
    for row_V, ids in zip(logits_BV, seen, strict=True):
        index = torch.tensor(sorted(set(ids)), dtype=torch.int64, device=row_V.device)
        values = row_V[index]
        row_V[index] = torch.where(values > 0, values / penalty, values * penalty)
    return logits_BV


def draw(logits_BV: Tensor, uniform_B: Tensor, sampling: Sampling) -> Tensor:
    """Ids (B,) by inverting each row's cumulative distribution at one uniform number, after all that narrows it.

    Where any token may be drawn they stand in the vocabulary's order: sorting them took longer than the model.
    """
    probs_BV = torch.softmax(logits_BV / sampling.temperature, dim=-1)
    if sampling.min_p:
        least_B1 = sampling.min_p * probs_BV.amax(-1, keepdim=True)
        probs_BV = probs_BV.masked_fill_(probs_BV < least_B1, 0.0)
    if sampling.top_k:
        likely_BK, index_BK = probs_BV.topk(min(sampling.top_k, probs_BV.shape[1]))
        return _from_nucleus(likely_BK, index_BK, sampling.top_p * likely_BK.sum(-1), uniform_B)
    if sampling.top_p == 1:
        return _invert(probs_BV, uniform_B)
    top_p_B = sampling.top_p * probs_BV.sum(-1)
    likely_BK, index_BK = probs_BV.topk(min(NUCLEUS_TOKENS, probs_BV.shape[1]))
    chosen_B = _from_nucleus(likely_BK, index_BK, top_p_B, uniform_B)
    # Decided for each row by itself, so that its draw does not depend on its neighbours.
    wide_B = likely_BK.sum(-1) < top_p_B
    if bool(wide_B.any()):
        all_BV, index_BV = probs_BV[wide_B].sort(dim=-1, descending=True, stable=True)
        chosen_B[wide_B] = _from_nucleus(all_BV, index_BV, top_p_B[wide_B], uniform_B[wide_B])
    return chosen_B


def _from_nucleus(likely_BK: Tensor, index_BK: Tensor, top_p_B: Tensor, uniform_B: Tensor) -> Tensor:
    """Draw among the likeliest tokens (probabilities and ids, likeliest first) that top_p_B of probability needs."""
    before_BK = likely_BK.cumsum(-1, dtype=torch.float64) - likely_BK
    # The likeliest token is always kept, whatever top_p is.
    rank_B = _invert(likely_BK.masked_fill(before_BK >= top_p_B[:, None], 0.0), uniform_B)
    return index_BK.gather(1, rank_B[:, None]).squeeze(1)


def _invert(weights_BK: Tensor, uniform_B: Tensor) -> Tensor:
    """The first index at which a row's cumulated weights exceed its uniform share of their sum."""
    # Double precision: the sum of a large vocabulary in single would lose its rare tokens.
    cumulative_BK = weights_BK.cumsum(-1, dtype=torch.float64)
    target_B1 = (uniform_B * cumulative_BK[:, -1])[:, None]
    rank_B1 = torch.searchsorted(cumulative_BK, target_B1, right=True)
    return rank_B1.squeeze(1).clamp_(max=weights_BK.shape[1] - 1)
