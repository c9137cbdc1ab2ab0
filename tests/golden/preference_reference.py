"""Preference losses in NumPy, one pair and one answer at a time, written from the papers' formulas.

Nothing here knows the package. Run as a script it prints the numbers the issue and the docs quote.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

SCORES = {"A": 0.4, "B": 1.8, "C": 1.2}
RANKING = "BCA"


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return math.exp(log_sigmoid(x))


def pair_loss(better: float, worse: float, margin: float = 0.0) -> float:
    """Llama 2, equation 2; margin 0: Bradley and Terry's negative log-likelihood."""
    return -log_sigmoid(better - worse - margin)


def ranking_losses(scores: dict[str, float], ranking: Sequence[str]) -> list[tuple[str, float]]:
    """All pairs of a strict ranking, the best first."""
    pairs = [(better, worse) for i, better in enumerate(ranking) for worse in ranking[i + 1 :]]
    return [(f"{better} > {worse}", pair_loss(scores[better], scores[worse])) for better, worse in pairs]


def instruct_gpt_loss(scores: dict[str, float], ranking: Sequence[str]) -> float:
    """InstructGPT, equation 1: 1 / C(K, 2) times the sum over all pairs of the K answers."""
    return sum(loss for _, loss in ranking_losses(scores, ranking)) / math.comb(len(ranking), 2)


def dpo(
    better: float, worse: float, ref_better: float, ref_worse: float, beta: float, kind: str, smoothing: float = 0.0
) -> float:
    """DPO, equation 7, with flipped labels at rate ``smoothing``; or IPO, equation 17."""
    h = (better - ref_better) - (worse - ref_worse)
    if kind == "ipo":
        return (h - 1 / (2 * beta)) ** 2
    kept, flipped = log_sigmoid(beta * h), log_sigmoid(-beta * h)
    return -((1 - smoothing) * kept + smoothing * flipped)


def kto(gain: float, desirable: bool, z: float, beta: float, lambda_up: float, lambda_down: float) -> float:
    """KTO, equation 8: lambda_y - v(x, y)."""
    if desirable:
        return lambda_up - lambda_up * sigmoid(beta * (gain - z))
    return lambda_down - lambda_down * sigmoid(beta * (z - gain))


def kto_point(policy: np.ndarray, reference: np.ndarray) -> float:
    total = 0.0
    for p, r in zip(policy, reference, strict=True):
        total += p - r
    return max(0.0, total / len(policy))


if __name__ == "__main__":
    pairs = ranking_losses(SCORES, RANKING)
    for name, loss in pairs:
        print(f"{name}  {loss:.5f}")
    print(f"sum    {sum(loss for _, loss in pairs):.5f}")
    print(f"mean   {instruct_gpt_loss(SCORES, RANKING):.5f}")
