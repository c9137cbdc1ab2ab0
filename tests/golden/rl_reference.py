"""Advantages and clipped losses in NumPy, one token at a time, written from the papers' formulas.

Nothing here knows the package; masks are lists of which tokens there are. Run as a script it prints a worked example.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def real_tokens(mask_row: Array) -> list[int]:
    return [t for t, m in enumerate(mask_row) if m != 0]


def kl(logp: float, logref: float, kind: str) -> float:
    """Schulman's three estimators, as he writes them: r = p(x) / q(x), x drawn from q = the policy."""
    r = math.exp(logref) / math.exp(logp)
    return {"k1": -math.log(r), "k2": 0.5 * math.log(r) ** 2, "k3": (r - 1) - math.log(r)}[kind]


def token_rewards(score: Array, kl_bt: Array, mask: Array, beta: float) -> Array:
    rewards = np.zeros_like(mask)
    for b in range(len(mask)):
        tokens = real_tokens(mask[b])
        for t in tokens:
            rewards[b, t] = -beta * kl_bt[b, t]
        rewards[b, tokens[-1]] += score[b]
    return rewards


def gae_as_a_sum(rewards: Array, values: Array, mask: Array, gamma: float, lam: float) -> tuple[Array, Array]:
    """Equation 16 of arXiv:1506.02438 as the double sum it is: A_t = sum_l (gamma lam)^l delta_(t+l)."""
    advantages, returns = np.zeros_like(mask), np.zeros_like(mask)
    for b in range(len(mask)):
        tokens = real_tokens(mask[b])
        r, v = [rewards[b, t] for t in tokens], [values[b, t] for t in tokens] + [0.0]
        deltas = [r[i] + gamma * v[i + 1] - v[i] for i in range(len(tokens))]
        for i, t in enumerate(tokens):
            advantages[b, t] = sum((gamma * lam) ** k * deltas[i + k] for k in range(len(tokens) - i))
            returns[b, t] = advantages[b, t] + values[b, t]
    return advantages, returns


def whiten(x: Array, mask: Array, shift_mean: bool) -> Array:
    chosen = [float(v) for v, m in zip(x.ravel(), mask.ravel(), strict=True) if m != 0]
    mean = sum(chosen) / len(chosen)
    variance = sum((v - mean) ** 2 for v in chosen) / len(chosen)
    out = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        if mask[place] != 0:
            out[place] = (x[place] - mean) / math.sqrt(variance + 1e-8) + (0.0 if shift_mean else mean)
    return out


def rloo(scores: Array) -> Array:
    out = np.zeros_like(scores)
    for p, k in np.ndindex(*scores.shape):
        others = [scores[p, j] for j in range(scores.shape[1]) if j != k]
        out[p, k] = scores[p, k] - sum(others) / len(others)
    return out


def deviation(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def grpo(scores: Array, scale: str) -> Array:
    out = np.zeros_like(scores)
    for p in range(len(scores)):
        group = [float(s) for s in scores[p]]
        below = {"none": 1.0, "group_std": deviation(group) + 1e-4}
        below["batch_std"] = deviation([float(s) for s in scores.ravel()]) + 1e-4
        for k, score in enumerate(group):
            out[p, k] = (score - sum(group) / len(group)) / below[scale]
    return out


def policy_loss(logp: Array, old: Array, advantages: Array, mask: Array, low: float, high: float) -> tuple[float, int]:
    """The negative of arXiv:1707.06347, equation 7, summed; and how many tokens it holds still by clipping."""
    total, held = 0.0, 0
    for place in np.ndindex(*mask.shape):
        if mask[place] == 0:
            continue
        ratio, a = math.exp(logp[place]) / math.exp(old[place]), advantages[place]
        inside = min(max(ratio, 1 - low), 1 + high)
        total -= min(ratio * a, inside * a)
        # The objective no longer rises with the ratio: too far up with a gain, too far down with a loss.
        held += (a > 0 and ratio > 1 + high) or (a < 0 and ratio < 1 - low)
    return total, held


def value_loss(values: Array, old: Array, returns: Array, mask: Array, clip: float) -> float:
    total = 0.0
    for place in np.ndindex(*mask.shape):
        if mask[place] != 0:
            near = min(max(values[place], old[place] - clip), old[place] + clip)
            total += 0.5 * max((values[place] - returns[place]) ** 2, (near - returns[place]) ** 2)
    return total


if __name__ == "__main__":
    mask = np.array([[1.0, 1, 1, 0]])
    rewards = token_rewards(np.array([2.0]), np.array([[0.1, -0.2, 0.3, 9.0]]), mask, 0.5)
    advantages, returns = gae_as_a_sum(rewards, np.array([[0.5, 1.0, 1.5, 9.0]]), mask, 1.0, 0.95)
    print("rewards   ", rewards.round(5))
    print("advantages", advantages.round(5))
    print("returns   ", returns.round(5))
    print("rloo      ", rloo(np.array([[1.8, 1.2, 0.4]])).round(5))
    print("grpo      ", grpo(np.array([[1.8, 1.2, 0.4]]), "group_std").round(5))
