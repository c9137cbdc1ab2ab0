"""Which tokens are to become likelier and by how much: from one score an answer to an advantage a token.

Shape letters: B answers, T tokens of the longest one, P prompts, K answers a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from tunesmith.config import Config
from tunesmith.losses.advantages import (
    GroupScale,
    KlKind,
    adapted_kl_coefficient,
    answer_rewards,
    clip_scores,
    gae,
    grpo_advantages,
    kl_estimate,
    penalise_missing_end,
    rloo_advantages,
    spread,
    token_rewards,
)
from tunesmith.losses.masked import masked_row_sums, whiten
from tunesmith.rollout.experience import Experience


class CreditConfig(Config):
    """How an answer's score is shaped, what straying from the reference costs, and who gets the credit."""

    algorithm: Literal["ppo", "rloo", "grpo"] = "ppo"
    """ppo: a value role judges every token (arXiv:1707.06347); rloo, grpo: answers to one prompt judge each other."""
    num_generations: int = Field(1, ge=1)
    """Answers to each prompt; rloo and grpo need two at least."""
    kl_coef: float = Field(0.05, ge=0)
    """What one nat of KL to the reference costs, in units of the score."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Where the KL is paid: in each token's reward, or as a term of the policy loss."""
    kl_estimator: KlKind = "k1"
    """k1, k2 or k3 (docs/ppo.md); in the reward only k1, in the loss only k2 has the exact gradient."""
    kl_target: float | None = Field(None, gt=0)
    """Mean KL of an answer, in nats, that kl_coef is adapted to every iteration; empty keeps kl_coef."""
    kl_gain: float = Field(0.1, gt=0, le=5)
    """How fast it is adapted: by at most 20 % of this an iteration (arXiv:1909.08593, section 2.2)."""
    missing_eos_penalty: float | None = Field(None, ge=0)
    """Taken off the score of an answer that ran into max_new_tokens instead of ending."""
    score_clip: float | None = Field(None, gt=0)
    """Scores are kept within plus and minus this."""
    whiten_scores: bool = False
    """Divide scores, less their mean, by their standard deviation over all answers of the run so far."""
    whiten_rewards: bool = False
    """ppo: divide the tokens' rewards by their standard deviation over the iteration, keeping their mean."""
    gamma: float = Field(1.0, gt=0, le=1)
    """ppo: discount of a reward one token later."""
    lam: float = Field(0.95, ge=0, le=1)
    """ppo: lambda of the advantage estimate (arXiv:1506.02438); 1 trusts the returns, 0 the values."""
    whiten_advantages: bool = True
    """ppo: advantages get mean 0 and deviation 1 over the iteration; false where the exact optimum is asked for."""
    scale_rewards: GroupScale = "group_std"
    """grpo: what a prompt's centred scores are divided by."""

    @model_validator(mode="after")
    def _fits_the_algorithm(self) -> CreditConfig:
        if self.algorithm != "ppo" and self.num_generations < 2:
            raise ValueError(f"{self.algorithm} compares answers to one prompt: set num_generations to 2 or more")
        if self.kl_in == "loss" and self.kl_estimator == "k1" and self.kl_coef > 0:
            raise ValueError("k1 in the loss has a gradient of mean 0: set kl_estimator: k2 or k3, or kl_in: reward")
        if self.algorithm == "ppo" and self.scale_rewards != "group_std":
            raise ValueError("scale_rewards is grpo's; ppo has whiten_advantages")
        return self


@dataclass(slots=True)
class CreditState:
    """What outlives an iteration: the KL's price, and mean and squared deviations of all scores so far (Welford)."""

    kl_coef: float
    num_scores: int = 0
    score_mean: float = 0.0
    score_m2: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For a resume state."""
        return asdict(self)

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> CreditState:
        """Back from a resume state."""
        return cls(**saved)

    def take_in(self, scores_B: NDArray[np.float64]) -> None:
        """Add scores to mean and deviation (Chan, Golub & LeVeque 1983)."""
        count, mean = len(scores_B), float(scores_B.mean())
        delta, total = mean - self.score_mean, self.num_scores + count
        self.score_m2 += float(np.square(scores_B - mean).sum()) + delta**2 * self.num_scores * count / total
        self.score_mean += delta * count / total
        self.num_scores = total

    @property
    def score_std(self) -> float:
        """Of all scores so far, with n below; 0 before there are two different ones."""
        return math.sqrt(self.score_m2 / self.num_scores) if self.num_scores else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """advantages_BT; returns_BT for the value role (None without one); the iteration's metrics under TRL's names."""

    advantages_BT: Tensor
    returns_BT: Tensor | None
    metrics: dict[str, float]


def assign_credit(
    seen: Experience,
    scores_B: NDArray[np.float64],
    ended_B: NDArray[np.bool_],
    config: CreditConfig,
    state: CreditState,
) -> Credit:
    """Advantages of an iteration's answers; ``state`` takes the scores in, and its KL price is left as it is.

    scores_B: as the reward source gave them. ended_B: whether the answer ended itself.
    """
    shaped_B = _shape(scores_B, ended_B, config, state).to(seen.logprobs_BT)
    kl_BT = kl_estimate(seen.logprobs_BT, seen.reference_BT, config.kl_estimator)
    beta = state.kl_coef if config.kl_in == "reward" else 0.0
    answers_B = answer_rewards(shaped_B, kl_BT, seen.mask_BT, beta)
    metrics = _objective(seen, scores_B, ended_B, answers_B, shaped_B)
    returns_BT = None
    if config.algorithm == "ppo":
        assert seen.values_BT is not None
        rewards_BT = token_rewards(shaped_B, kl_BT, seen.mask_BT, beta)
        if config.whiten_rewards:
            rewards_BT = whiten(rewards_BT, seen.mask_BT, shift_mean=False)
        advantages_BT, returns_BT = gae(rewards_BT, seen.values_BT, seen.mask_BT, config.gamma, config.lam)
        if config.whiten_advantages:
            advantages_BT = whiten(advantages_BT, seen.mask_BT)
    else:
        answers_PK = answers_B.view(-1, seen.num_samples)
        if config.algorithm == "rloo":
            advantages_PK = rloo_advantages(answers_PK)
        else:
            advantages_PK = grpo_advantages(answers_PK, config.scale_rewards)
        # Rounding must not make a signal where all answers are worth the same.
        equal_P1 = (answers_PK == answers_PK[:, :1]).all(1, keepdim=True)
        advantages_PK = advantages_PK.masked_fill(equal_P1, 0.0)
        metrics["objective/prompts_without_signal"] = float(equal_P1.sum())
        advantages_BT = spread(advantages_PK.flatten(), seen.mask_BT)
    return Credit(advantages_BT=advantages_BT, returns_BT=returns_BT, metrics=metrics)


def adapt_kl(config: CreditConfig, state: CreditState, kl: float) -> None:
    """Move the KL's price towards what keeps the iteration's mean KL of an answer at ``kl_target``."""
    if config.kl_target is not None:
        state.kl_coef = adapted_kl_coefficient(state.kl_coef, kl, config.kl_target, config.kl_gain)


def _shape(
    scores_B: NDArray[np.float64], ended_B: NDArray[np.bool_], config: CreditConfig, state: CreditState
) -> Tensor:
    """Clip, whiten, then charge answers without an end, so that the charge is in the unit the policy sees."""
    scores = torch.from_numpy(scores_B)
    if config.score_clip is not None:
        scores = clip_scores(scores, config.score_clip)
    state.take_in(scores.numpy())
    if config.whiten_scores:
        scores = (scores - state.score_mean) / (state.score_std + 1e-8)
    if config.missing_eos_penalty is not None:
        scores = penalise_missing_end(scores, torch.from_numpy(ended_B), config.missing_eos_penalty)
    return scores


def _objective(
    seen: Experience,
    scores_B: NDArray[np.float64],
    ended_B: NDArray[np.bool_],
    answers_B: Tensor,
    shaped_B: Tensor,
) -> dict[str, float]:
    mask_BT = seen.mask_BT
    return {
        "objective/kl": float(masked_row_sums(seen.logprobs_BT - seen.reference_BT, mask_BT).mean()),
        "objective/entropy": float(masked_row_sums(-seen.logprobs_BT, mask_BT).mean()),
        "objective/non_score_reward": float((answers_B - shaped_B).mean()),
        "objective/rlhf_reward": float(answers_B.mean()),
        "objective/scores": float(scores_B.mean()),
        "objective/scores_std": float(scores_B.std()),
        "objective/length": float(mask_BT.sum(1).mean()),
        "val/num_eos_tokens": float(ended_B.sum()),
    }
