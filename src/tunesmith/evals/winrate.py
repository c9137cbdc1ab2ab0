"""Win rates: two models' answers to the same prompts, each with a score, prompt by prompt; numpy only.

Shape letters: P prompts, K answers of each model to a prompt, drawn with the same random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.stats import Interval, bootstrap_mean, clustered_proportion, exact_mcnemar


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRate:
    """How often the first model's answer is scored higher; a tie counts one half.

    rate: score interval that knows which answers share a prompt. difference: of the scores, bootstrapped over prompts.
    p: exact two-sided sign test over prompts. Counts are of answers.
    """

    num_prompts: int
    num_samples: int
    wins: int
    ties: int
    losses: int
    rate: Interval
    difference: Interval
    p: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON; intervals as value, low and high."""
        return asdict(self)


def win_rate(first_PK: NDArray[np.float64], second_PK: NDArray[np.float64], seed: int) -> WinRate:
    """Compare scores answer by answer; what the intervals are about is which prompts were drawn.

    Answers to one prompt are no independent evidence: all three statistics are clustered by prompt. Raises ValueError
    for shapes that differ or hold no answer.
    """
    if first_PK.shape != second_PK.shape or first_PK.ndim != 2 or not first_PK.size:
        raise ValueError(f"scores of shape {first_PK.shape} cannot be compared with {second_PK.shape}")
    outcome_PK = np.where(first_PK > second_PK, 1.0, np.where(first_PK < second_PK, 0.0, 0.5))
    first_P, second_P = first_PK.mean(1), second_PK.mean(1)
    prompts = np.repeat(np.arange(first_PK.shape[0]), first_PK.shape[1])
    return WinRate(
        num_prompts=first_PK.shape[0],
        num_samples=first_PK.shape[1],
        wins=int((outcome_PK == 1).sum()),
        ties=int((outcome_PK == 0.5).sum()),
        losses=int((outcome_PK == 0).sum()),
        rate=clustered_proportion(outcome_PK.ravel().tolist(), prompts.tolist()),
        difference=bootstrap_mean((first_P - second_P).tolist(), seed),
        p=exact_mcnemar(second_P.tolist(), first_P.tolist()).p,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """How far a model is from its reference on its own answers, KL(model || reference) in nats.

    sequence: mean over answers of sum_t log p(t) - log q(t), an unbiased estimate (k1), bootstrapped over prompts.
    token: the same by token, the total over the number of tokens.
    """

    sequence: Interval
    token: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the interval as value, low and high."""
        return asdict(self)


def divergence(log_ratios: Sequence[NDArray[np.float64]], prompt_of: Sequence[int], seed: int) -> Divergence:
    """KL from log p - log q (T,) of each answer's tokens, the answers drawn from p itself; prompt_of: whose each is."""
    sums = np.array([float(ratio.sum()) for ratio in log_ratios])
    prompts = np.asarray(prompt_of)
    by_prompt = [float(sums[prompts == prompt].mean()) for prompt in np.unique(prompts)]
    return Divergence(
        sequence=bootstrap_mean(by_prompt, seed), token=float(sums.sum() / sum(len(ratio) for ratio in log_ratios))
    )
