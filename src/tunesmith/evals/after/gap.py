"""Rows that were trained on against rows that were not: how far apart the model finds them, before and after tuning.

Held-out rows may be harder or easier by nature; the base, which saw neither, tells by how much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.evals.after.scores import RowScore
from tunesmith.randomness import generator
from tunesmith.stats import Interval

NUM_RESAMPLES = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Losses are in nats a token, each with a bootstrap interval over rows.

    gap: unseen minus seen rows' loss, of the base and of the tuned model; widened: how much the gap grew. membership:
    how often a seen row gained more by tuning than an unseen one (0.5: nobody could tell them apart), an attack after
    Yeom et al. 2018, arXiv:1709.01604, calibrated by the base; p: Mann-Whitney's, two-sided.
    """

    num_seen: int
    num_unseen: int
    seen: dict[str, Interval]
    unseen: dict[str, Interval]
    gap: dict[str, Interval]
    widened: Interval
    membership: Interval
    p: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON; intervals as value, low and high."""
        return asdict(self)


def seen_against_unseen(
    base_seen: Sequence[RowScore],
    tuned_seen: Sequence[RowScore],
    base_unseen: Sequence[RowScore],
    tuned_unseen: Sequence[RowScore],
    seed: int,
) -> Gap:
    """The same rows under both models, in the same order. Raises ValueError where a side has no row."""
    from scipy.stats import mannwhitneyu

    if not base_seen or not base_unseen:
        raise ValueError("seen and unseen rows are compared, and one side has none")
    # Losses of a side are (base, tuned) nats a row over tokens a row, resampled together.
    sides = {"seen": (base_seen, tuned_seen), "unseen": (base_unseen, tuned_unseen)}
    point: dict[str, NDArray[np.float64]] = {}
    drawn: dict[str, NDArray[np.float64]] = {}
    for name, (base, tuned) in sides.items():
        nats_2N = np.array([[score.nats for score in base], [score.nats for score in tuned]])
        tokens_N = np.array([score.num_tokens for score in base], float)
        rows = generator(seed, "after_gap", name).integers(len(base), size=(NUM_RESAMPLES, len(base)))
        point[name] = nats_2N.sum(1) / tokens_N.sum()
        drawn[name] = nats_2N[:, rows].sum(2) / tokens_N[rows].sum(1)
    gap, gaps = point["unseen"] - point["seen"], drawn["unseen"] - drawn["seen"]
    models = ("base", "tuned")
    gains = [_gains(*side) for side in sides.values()]
    test = mannwhitneyu(*gains, alternative="two-sided")
    auc = float(test.statistic) / (len(gains[0]) * len(gains[1]))
    return Gap(
        num_seen=len(base_seen),
        num_unseen=len(base_unseen),
        seen={m: _interval(point["seen"][i], drawn["seen"][i]) for i, m in enumerate(models)},
        unseen={m: _interval(point["unseen"][i], drawn["unseen"][i]) for i, m in enumerate(models)},
        gap={m: _interval(gap[i], gaps[i]) for i, m in enumerate(models)},
        widened=_interval(gap[1] - gap[0], gaps[1] - gaps[0]),
        membership=auc_interval(auc, len(gains[0]), len(gains[1])),
        p=float(test.pvalue),
    )


def _gains(base: Sequence[RowScore], tuned: Sequence[RowScore]) -> list[float]:
    """Nats a token by which tuning made each row likelier."""
    return [(b.nats - t.nats) / b.num_tokens for b, t in zip(base, tuned, strict=True)]


def _interval(value: float, draws: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))


def auc_interval(auc: float, num_first: int, num_second: int, confidence: float = 0.95) -> Interval:
    """The values whose standard error (Hanley and McNeil 1982, Radiology 143:29) does not exclude the estimate.

    Solved for the true value, as Wilson's interval is, so that it keeps a width where the two sides do not overlap.
    Raises ValueError without values on both sides.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    if num_first < 1 or num_second < 1 or not 0 <= auc <= 1:
        raise ValueError(f"an area of {auc} over {num_first} and {num_second} values")
    z = float(ndtri(0.5 + confidence / 2))

    def outside(true: float) -> float:
        spread = 1 + (num_first - 1) * (1 - true) / (2 - true) + (num_second - 1) * true / (1 + true)
        return abs(auc - true) - z * math.sqrt(true * (1 - true) * spread / (num_first * num_second))

    # At the ends the error of the estimate itself is 0; the limit lies a little inside.
    low = 0.0 if auc == 0 else float(brentq(outside, 0.0, min(auc, 1 - 1e-12)))
    high = 1.0 if auc == 1 else float(brentq(outside, max(auc, 1e-12), 1.0))
    return Interval(auc, low, high)
