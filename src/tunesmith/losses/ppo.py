"""Clipped policy and value losses over tokens, with the numbers that tell whether an update went too far.

Each returns (sum, weight): the step divides once, by the weight of all its micro-batches, and must refuse a weight of
0. The mask is the weight of a token: 1 for each gives the mean over tokens; ``answer_weights`` gives the others.
Statistics are detached sums under the same weights.
Shape letters: B answers, T tokens of the longest answer (mask 0 elsewhere).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tunesmith.losses.advantages import KlKind, kl_estimate
from tunesmith.losses.masked import blank, masked_sum, require_same_shape

Per = Literal["token", "answer", "length"]


def answer_weights(mask_BT: Tensor, per: Per = "token", max_tokens: int | None = None) -> tuple[Tensor, Tensor]:
    """(weights_BT, weight to divide by): what one token counts in a policy loss.

    token: 1 each, divided by the number of tokens (arXiv:2503.14476, section 3.3), so a long answer counts for more.
    answer: 1 / length each, divided by the number of answers (GRPO, arXiv:2402.03300, equation 3): a token of a long
    answer counts for less. length: 1 / max_tokens each, divided by the number of answers (arXiv:2503.20783): an
    answer's tokens are summed, as the policy gradient has it, and the constant only sets the scale.
    Raises ValueError for an answer without a token, or length without max_tokens.
    """
    seen_BT = (mask_BT != 0).to(mask_BT.dtype)
    length_B = seen_BT.sum(-1)
    if not bool((length_B > 0).all()):
        raise ValueError("an answer has no token")
    if per == "token":
        return seen_BT, seen_BT.sum()
    num_answers = torch.full((), float(len(mask_BT)), dtype=mask_BT.dtype, device=mask_BT.device)
    if per == "answer":
        return seen_BT / length_B[:, None], num_answers
    if per == "length":
        if max_tokens is None or max_tokens < 1:
            raise ValueError("weights by length need max_tokens, the limit of an answer")
        return seen_BT / max_tokens, num_answers
    raise ValueError(f"weights per '{per}' are none of token, answer, length")


def policy_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    clip: float = 0.2,
    clip_high: float | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(sum, weight, stats) of -min(rho A, clip(rho, 1 - clip, 1 + clip_high) A), rho = pi / pi_old of each token.

    The negative of arXiv:1707.06347, equation 7; clip_high is ``clip`` where absent (larger: arXiv:2503.14476).
    Only logprobs_BT gets a gradient: at rho = 1 it is the policy gradient -A grad log pi.
    stats: clipped (tokens whose gradient the clip removed), approx_kl (0.5 log(rho)^2), ratio, ratio_square.
    Raises ValueError for a clip not in (0, 1).
    """
    clip_high = clip if clip_high is None else clip_high
    if not 0 < clip < 1 or clip_high <= 0:
        raise ValueError(f"clip {clip} must be in (0, 1) and clip_high {clip_high} above 0")
    advantages_BT = blank(advantages_BT, mask_BT).detach()
    log_ratio_BT = blank(logprobs_BT, mask_BT) - blank(old_logprobs_BT, mask_BT).detach()
    ratio_BT = log_ratio_BT.exp()
    free_BT = -advantages_BT * ratio_BT
    clipped_BT = -advantages_BT * ratio_BT.clamp(1 - clip, 1 + clip_high)
    stats = {
        "clipped": (clipped_BT > free_BT).to(mask_BT.dtype),
        "approx_kl": 0.5 * log_ratio_BT.square(),
        "ratio": ratio_BT,
        "ratio_square": ratio_BT.square(),
    }
    loss = masked_sum(torch.maximum(free_BT, clipped_BT), mask_BT)
    return loss, mask_BT.sum(), _sums(stats, mask_BT)


def value_loss(
    values_BT: Tensor,
    old_values_BT: Tensor,
    returns_BT: Tensor,
    mask_BT: Tensor,
    clip: float | None = 0.2,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(sum, weight, stats) of 0.5 max((v - R)^2, (clip(v, old - clip, old + clip) - R)^2).

    The clipped form of the code of arXiv:1707.06347 and arXiv:1909.08593 (no equation in either); None never clips.
    Only values_BT gets a gradient. stats: clipped (tokens whose gradient the clip removed), value, error ((v - R)^2).
    """
    if clip is not None and clip <= 0:
        raise ValueError(f"the value clip is {clip}; it must be above 0")
    values_BT = blank(values_BT, mask_BT)
    old_BT, returns_BT = blank(old_values_BT, mask_BT).detach(), blank(returns_BT, mask_BT).detach()
    error_BT = (values_BT - returns_BT).square()
    kept_BT = values_BT if clip is None else old_BT + (values_BT - old_BT).clamp(-clip, clip)
    kept_error_BT = (kept_BT - returns_BT).square()
    stats = {"clipped": (kept_error_BT > error_BT).to(mask_BT.dtype), "value": values_BT, "error": error_BT}
    loss = 0.5 * masked_sum(torch.maximum(error_BT, kept_error_BT), mask_BT)
    return loss, mask_BT.sum(), _sums(stats, mask_BT)


def entropy_bonus(entropy_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """(sum, weight) of the policy's entropy in nats a token; a coefficient times it is subtracted from the loss."""
    return masked_sum(entropy_BT, mask_BT), mask_BT.sum()


def kl_loss(logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor, kind: KlKind) -> tuple[Tensor, Tensor]:
    """(sum, weight) of the KL to the reference as a part of the loss, in place of one in the reward.

    On samples of the policy the mean gradient of k2 is that of KL(policy || reference) of each token given what stands
    before it, that of k3, which GRPO uses (arXiv:2402.03300, equation 4), is that of KL(reference || policy), and that
    of k1 is 0, so it is refused. None sees that a token changes the KL of those after it, as k1 in the reward does:
    for answers of several tokens the optimum is another one (docs/design/rlhf.md).
    """
    require_same_shape(logprobs=logprobs_BT, reference=reference_BT, mask=mask_BT)
    if kind == "k1":
        raise ValueError("k1 in the loss pulls nowhere: the mean of its gradient is 0; put it in the reward")
    kl_BT = kl_estimate(blank(logprobs_BT, mask_BT), blank(reference_BT, mask_BT).detach(), kind)
    return masked_sum(kl_BT, mask_BT), mask_BT.sum()


def _sums(stats_BT: dict[str, Tensor], mask_BT: Tensor) -> dict[str, Tensor]:
    return {name: masked_sum(x_BT.detach(), mask_BT) for name, x_BT in stats_BT.items()}
