"""From scores of answers to advantages of tokens: KL estimators, rewards, GAE, leave-one-out and group baselines.

All of it is constant for the policy: nothing here but ``kl_estimate`` lets a gradient through.
Shape letters: B answers, T tokens of the longest answer (mask 0 elsewhere), P prompts, K answers a prompt.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tunesmith.losses.masked import blank, masked_row_sums, require_same_shape

KlKind = Literal["k1", "k2", "k3"]
GroupScale = Literal["none", "group_std", "batch_std"]
# Beside a standard deviation of scores, as in common implementations of GRPO: equal scores give advantage 0.
STD_EPSILON = 1e-4


def kl_estimate(logprobs: Tensor, reference: Tensor, kind: KlKind = "k1") -> Tensor:
    """An estimate of KL(policy || reference) for each sampled token, in nats, from its two log-probabilities.

    With d = logprobs - reference and samples from the policy (Schulman, "Approximating KL divergence", 2020):
    k1: d, unbiased, of either sign, the one that belongs in the reward: with it the gradient is that of the KL;
    k2: d^2 / 2, biased, never below 0, the one whose own gradient is, on samples of the policy, that of a token's KL;
    k3: exp(-d) - 1 + d, unbiased, never below 0, little variance while the two are close; overflows for
    d < -88 in fp32 (the result is then inf).
    """
    require_same_shape(logprobs=logprobs, reference=reference)
    d = logprobs - reference
    if kind == "k1":
        return d
    if kind == "k2":
        return 0.5 * d.square()
    if kind == "k3":
        return torch.expm1(-d) + d
    raise ValueError(f"kl estimator '{kind}' is none of k1, k2, k3")


def last_tokens(mask_BT: Tensor) -> Tensor:
    """(B,) int64 index of each answer's last token; raises ValueError for an answer without any."""
    seen_BT = mask_BT != 0
    if not bool(seen_BT.any(-1).all()):
        raise ValueError("an answer has no token")
    steps_T = torch.arange(1, mask_BT.shape[-1] + 1, device=mask_BT.device)
    return (seen_BT * steps_T).argmax(-1)


@torch.no_grad()
def token_rewards(score_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, beta: float) -> Tensor:
    """r_bt = -beta kl_bt, plus score_b on the answer's last token; 0 where the mask is 0. (B, T).

    Summed over an answer this is R = r(x, y) - beta log(pi(y|x) / ref(y|x)) for k1 (arXiv:1909.08593, equation 2).
    Raises ValueError for an answer without a token.
    """
    rewards_BT = -beta * blank(kl_BT, mask_BT)
    last_B1 = last_tokens(mask_BT)[:, None]
    return rewards_BT.scatter_add(1, last_B1, score_B[:, None].to(rewards_BT.dtype))


@torch.no_grad()
def answer_rewards(score_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, beta: float) -> Tensor:
    """R_b = score_b - beta sum_t kl_bt: an answer as one action, for RLOO and GRPO. (B,)."""
    kl_B = masked_row_sums(kl_BT, (mask_BT != 0).to(kl_BT.dtype))
    require_same_shape(score=score_B, kl_sums=kl_B)
    return score_B.to(kl_B.dtype) - beta * kl_B


@torch.no_grad()
def gae(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """(advantages_BT, returns_BT) by generalised advantage estimation (arXiv:1506.02438, equation 16).

    delta_t = r_t + gamma V_(t+1) - V_t,  A_t = delta_t + gamma lam A_(t+1),  return_t = A_t + V_t.
    values_BT: V of the state before token t. After an answer's last token both V and A are 0: the episode is over,
    also where the length limit ended it. Positions with mask 0 are no steps, wherever they stand: t + 1 is the next
    position with a mask. Both results are 0 there.
    """
    require_same_shape(rewards=rewards_BT, values=values_BT, mask=mask_BT)
    rewards_BT, values_BT = blank(rewards_BT, mask_BT), blank(values_BT, mask_BT)
    advantages_BT = torch.zeros_like(values_BT)
    next_value_B = torch.zeros_like(values_BT[:, 0])
    next_advantage_B = torch.zeros_like(next_value_B)
    for t in range(mask_BT.shape[1] - 1, -1, -1):
        seen_B = mask_BT[:, t] != 0
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        next_advantage_B = torch.where(seen_B, delta_B + gamma * lam * next_advantage_B, next_advantage_B)
        next_value_B = torch.where(seen_B, values_BT[:, t], next_value_B)
        advantages_BT[:, t] = torch.where(seen_B, next_advantage_B, torch.zeros_like(next_advantage_B))
    return advantages_BT, advantages_BT + values_BT


@torch.no_grad()
def rloo_advantages(scores_PK: Tensor) -> Tensor:
    """score_pk minus the mean of the other K - 1 answers to the prompt (arXiv:2402.14740). (P, K).

    The baseline of an answer does not depend on it, so it adds no bias. Raises ValueError for K < 2.
    """
    num_answers = _num_answers(scores_PK)
    others_PK = (scores_PK.sum(1, keepdim=True) - scores_PK) / (num_answers - 1)
    return scores_PK - others_PK


@torch.no_grad()
def grpo_advantages(scores_PK: Tensor, scale: GroupScale = "group_std") -> Tensor:
    """(score_pk - mean of the prompt's answers) / scale. (P, K).

    group_std: the prompt's own standard deviation (arXiv:2402.03300, section 4.1.2); batch_std: that of all scores
    (arXiv:2508.08221); none: 1 (arXiv:2503.20783). Deviations have n - 1 below and 1e-4 beside them, so equal scores
    give 0. Raises ValueError for K < 2.
    """
    _num_answers(scores_PK)
    centred_PK = scores_PK - scores_PK.mean(1, keepdim=True)
    if scale == "none":
        return centred_PK
    if scale == "group_std":
        return centred_PK / (scores_PK.std(1, keepdim=True) + STD_EPSILON)
    if scale == "batch_std":
        return centred_PK / (scores_PK.std() + STD_EPSILON)
    raise ValueError(f"scale '{scale}' is none of none, group_std, batch_std")


def spread(advantages_B: Tensor, mask_BT: Tensor) -> Tensor:
    """An answer's advantage on each of its tokens, 0 where the mask is 0. (B, T)."""
    return blank(advantages_B[:, None].expand(mask_BT.shape), mask_BT)


def clip_scores(score_B: Tensor, limit: float) -> Tensor:
    """Scores kept within [-limit, limit]; raises ValueError for a limit that is not above 0."""
    if limit <= 0:
        raise ValueError(f"the limit of scores is {limit}; it must be above 0")
    return score_B.clamp(-limit, limit)


def penalise_missing_end(score_B: Tensor, ended_B: Tensor, penalty: float) -> Tensor:
    """score_b - penalty where the answer ran into its length limit (ended_B False) instead of ending itself."""
    require_same_shape(score=score_B, ended=ended_B)
    return score_B - penalty * (~ended_B.bool()).to(score_B.dtype)


def adapted_kl_coefficient(beta: float, kl: float, target: float, gain: float = 0.1) -> float:
    """The next beta: beta (1 + gain e), e = kl / target - 1 kept within [-0.2, 0.2] (arXiv:1909.08593, section 2.2).

    kl: the iteration's mean KL of an answer to the reference, in nats, in the unit of ``target``. A KL above the
    target raises beta, by 2 % at most with the paper's gain. Raises ValueError for a target or gain not above 0.
    """
    if target <= 0 or gain <= 0:
        raise ValueError(f"the target {target} and the gain {gain} of the KL controller must be above 0")
    return beta * (1 + gain * min(0.2, max(-0.2, kl / target - 1)))


def _num_answers(scores_PK: Tensor) -> int:
    num_answers = scores_PK.shape[1]
    if num_answers < 2:
        raise ValueError("a baseline from the other answers needs at least two answers a prompt")
    return num_answers
