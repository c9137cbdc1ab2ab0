"""Losses that learn from what people prefer: reward models (pairs, rankings, grades) and policies (DPO, IPO, KTO).

Each returns a sum and the weight it is to be divided by; the step divides once, by the weight of all its
micro-batches, and must refuse a step whose weight is 0. Metrics are sums under the same weights.
Shape letters: P pairs, K answers of one prompt, N answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tunesmith.losses.masked import require_same_shape
from tunesmith.records import Pair

DpoKind = Literal["sigmoid", "ipo"]


def pairwise_reward_loss(
    better_P: Tensor, worse_P: Tensor, weight_P: Tensor | None = None, margin_P: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(sum_p w_p * -log sigmoid(better_p - worse_p - margin_p), sum_p w_p): Bradley-Terry's likelihood of the pairs.

    better_P, worse_P: scores. weight_P: 1 where absent. margin_P: by how much the better one should lead, 0 where
    absent (arXiv:2307.09288, equation 2; without margins arXiv:1909.08593, equation 1, for two answers).
    """
    weight_P = torch.ones_like(better_P) if weight_P is None else weight_P.to(better_P.dtype)
    margin_P = torch.zeros_like(better_P) if margin_P is None else margin_P.to(better_P.dtype)
    require_same_shape(better=better_P, worse=worse_P, weight=weight_P, margin=margin_P)
    return -(logsigmoid(better_P - worse_P - margin_P) * weight_P).sum(), weight_P.sum()


def pair_scores(scores_K: Tensor, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(better_P, worse_P, weight_P, margin_P) of one prompt's pairs; each answer was scored once.

    Raises ValueError for a pair of an answer with itself or of an answer that is not there.
    """
    num_answers = len(scores_K)
    for pair in pairs:
        if pair.better == pair.worse or not (0 <= pair.better < num_answers and 0 <= pair.worse < num_answers):
            raise ValueError(f"{pair} is no pair of {num_answers} answers")
    better_P, worse_P = ([getattr(pair, side) for pair in pairs] for side in ("better", "worse"))
    weight_P, margin_P = ([getattr(pair, what) for pair in pairs] for what in ("weight", "margin"))
    index = torch.tensor([better_P, worse_P], dtype=torch.int64, device=scores_K.device)
    constants = torch.tensor([weight_P, margin_P], dtype=scores_K.dtype, device=scores_K.device)
    return scores_K[index[0]], scores_K[index[1]], constants[0], constants[1]


def group_reward_loss(scores_K: Tensor, pairs: Sequence[Pair], *, per_prompt: bool = False) -> tuple[Tensor, Tensor]:
    """The pair losses of one prompt's K answers from K scores: (sum, weight).

    per_prompt False: the pairs' weighted sum and their weights' sum, so every pair of a step counts alike. True: both
    divided by the number of pairs, so every prompt counts alike, however many answers it has: with the weights all 1
    that is -1/C(K, 2) * sum log sigmoid(...) and weight 1 (arXiv:2203.02155, equation 1). No pairs give (0, 0).
    """
    loss, weight = pairwise_reward_loss(*pair_scores(scores_K, pairs))
    return (loss / len(pairs), weight / len(pairs)) if per_prompt and pairs else (loss, weight)


def rating_loss(scores_N: Tensor, targets_N: Tensor, weight_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(sum_n w_n (score_n - target_n)^2, sum_n w_n): regression on grades, in the grades' own unit, squared."""
    weight_N = torch.ones_like(scores_N) if weight_N is None else weight_N.to(scores_N.dtype)
    require_same_shape(scores=scores_N, targets=targets_N, weight=weight_N)
    return ((scores_N - targets_N.to(scores_N.dtype)).square() * weight_N).sum(), weight_N.sum()


def centring_penalty(better_P: Tensor, worse_P: Tensor, weight_P: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(sum_p w_p (better_p + worse_p)^2, sum_p w_p): keeps scores around 0, which the pair loss leaves open.

    The pair loss sees differences only; added with a small coefficient this fixes the level and changes no order
    (arXiv:2312.09244: reward models are underdetermined).
    """
    weight_P = torch.ones_like(better_P) if weight_P is None else weight_P.to(better_P.dtype)
    require_same_shape(better=better_P, worse=worse_P, weight=weight_P)
    return ((better_P + worse_P).square() * weight_P).sum(), weight_P.sum()


def dpo_loss(
    policy_better_P: Tensor,
    policy_worse_P: Tensor,
    reference_better_P: Tensor,
    reference_worse_P: Tensor,
    *,
    beta: float,
    kind: DpoKind = "sigmoid",
    label_smoothing: float = 0.0,
    weight_P: Tensor | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(weighted sum, weight sum, metrics) of a policy's preference loss; all inputs are log-probabilities of answers.

    With h = log(pi/ref)(better) - log(pi/ref)(worse):
    sigmoid: -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h), e = label_smoothing, the chance that a label is
    the wrong way round (e = 0: arXiv:2305.18290, equation 7; e > 0: its conservative form, cDPO, Mitchell 2023).
    ipo: (h - 1 / (2 beta))^2 (arXiv:2310.12036, equation 17); beta is that paper's tau, and its log-probabilities are
    sums over an answer's tokens, not means.
    metrics: rewards/chosen and rewards/rejected are beta log(pi/ref); rewards/margins their difference;
    rewards/accuracies the share of pairs with a margin above 0 (none at the first step, where policy = reference).
    Raises ValueError for beta <= 0, label_smoothing outside [0, 0.5) or beside ipo, which has no such form.
    """
    if beta <= 0 or not 0 <= label_smoothing < 0.5:
        raise ValueError(f"beta {beta} must be above 0 and label_smoothing {label_smoothing} in [0, 0.5)")
    if kind == "ipo" and label_smoothing:
        raise ValueError("ipo takes no label_smoothing")
    weight_P = torch.ones_like(policy_better_P) if weight_P is None else weight_P.to(policy_better_P.dtype)
    require_same_shape(
        policy_better=policy_better_P,
        policy_worse=policy_worse_P,
        reference_better=reference_better_P,
        reference_worse=reference_worse_P,
        weight=weight_P,
    )
    better_P, worse_P = policy_better_P - reference_better_P.detach(), policy_worse_P - reference_worse_P.detach()
    h_P = better_P - worse_P
    if kind == "ipo":
        loss_P = (h_P - 1 / (2 * beta)).square()
    else:
        loss_P = -(1 - label_smoothing) * logsigmoid(beta * h_P) - label_smoothing * logsigmoid(-beta * h_P)
    means = {
        "rewards/chosen": beta * better_P,
        "rewards/rejected": beta * worse_P,
        "rewards/margins": beta * h_P,
        "rewards/accuracies": (h_P > 0).to(h_P.dtype),
    }
    metrics = {name: (value_P.detach() * weight_P).sum() for name, value_P in means.items()}
    return (loss_P * weight_P).sum(), weight_P.sum(), metrics


@torch.no_grad()
def kto_reference_point(policy_N: Tensor, reference_N: Tensor) -> Tensor:
    """max(0, mean_n log(pi/ref)) over answers paired with another row's prompt: KTO's z_0, a constant scalar.

    It estimates KL(pi || ref) on such pairs from below and biased, which the paper accepts because no sampling is
    needed (arXiv:2402.01306). Raises ValueError for no answers.
    """
    require_same_shape(policy=policy_N, reference=reference_N)
    if not policy_N.numel():
        raise ValueError("the reference point needs at least one mismatched answer")
    return (policy_N - reference_N).mean().clamp_min(0.0)


def kto_loss(
    policy_N: Tensor,
    reference_N: Tensor,
    desirable_N: Tensor,
    reference_point: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    weight_N: Tensor | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(weighted sum, weight sum, metrics) of Kahneman-Tversky optimisation, for answers judged alone.

    With g = log(pi/ref), z = reference_point and lambda the weight of the answer's side:
    desirable: lambda_D (1 - sigmoid(beta (g - z))); undesirable: lambda_U (1 - sigmoid(beta (z - g)))
    (arXiv:2402.01306). policy_N, reference_N: log-probabilities of answers; desirable_N: bool.
    lambda scales the loss and is no part of the weight sum; the paper chooses the two so that
    lambda_D n_D / (lambda_U n_U) is between 1 and 3/2, n being how many answers each side has. metrics, each a sum:
    rewards/chosen and rewards/rejected, beta g of either side, with count/chosen and count/rejected to divide them
    by. Raises ValueError for beta <= 0 or lambda < 0.
    """
    if beta <= 0 or desirable_weight < 0 or undesirable_weight < 0:
        raise ValueError("beta must be above 0, the weights of the two sides at least 0")
    weight_N = torch.ones_like(policy_N) if weight_N is None else weight_N.to(policy_N.dtype)
    require_same_shape(policy=policy_N, reference=reference_N, desirable=desirable_N, weight=weight_N)
    up_N = desirable_N.bool()
    gain_N = policy_N - reference_N.detach()
    distance_N = beta * (gain_N - reference_point.detach())
    side_N = torch.where(up_N, distance_N, -distance_N)
    # Filled in the values' own precision: torch.where over two Python numbers would round them to fp32.
    scale_N = torch.full_like(policy_N, undesirable_weight).masked_fill(up_N, desirable_weight)
    # 1 - sigmoid(x) = sigmoid(-x), which keeps its digits for large x.
    loss = (scale_N * torch.sigmoid(-side_N) * weight_N).sum()
    up_weight_N, down_weight_N = weight_N * up_N, weight_N * ~up_N
    metrics = {
        "rewards/chosen": (beta * gain_N.detach() * up_weight_N).sum(),
        "rewards/rejected": (beta * gain_N.detach() * down_weight_N).sum(),
        "count/chosen": up_weight_N.sum(),
        "count/rejected": down_weight_N.sum(),
    }
    return loss, weight_N.sum(), metrics
