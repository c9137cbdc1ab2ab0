"""How good a reward model is on pairs it never saw, and whether it is more than a ruler of lengths.

A pair is right where the better answer has the higher reward, half right where both have the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.calibration import calibration
from tunesmith.stats import (
    Interval,
    bootstrap_paired_difference,
    clustered_proportion,
    exact_mcnemar,
    newcombe_difference,
    newcombe_paired_difference,
)
from tunesmith.tokens.preference import RenderedGroup

NUM_BINS, NUM_BINS_OF_VALUES, NUM_SCORE_BINS = 10, 4, 24
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Pairs of several prompts, flat: better_P, worse_P rewards; gap_P: tokens by which the better answer is longer."""

    better_P: Floats
    worse_P: Floats
    gap_P: Floats
    prompt_P: NDArray[np.int64]

    @property
    def margin_P(self) -> Floats:
        return self.better_P - self.worse_P

    @property
    def right_P(self) -> Floats:
        return _right(self.margin_P)


def pairs_of(groups: Sequence[RenderedGroup], rewards: Sequence[Floats]) -> Pairs:
    """The pairs of rendered groups with the rewards (K,) of each."""
    rows = [
        (
            rewards_K[pair.better],
            rewards_K[pair.worse],
            group.examples[pair.better].num_loss_tokens - group.examples[pair.worse].num_loss_tokens,
            number,
        )
        for number, (group, rewards_K) in enumerate(zip(groups, rewards, strict=True))
        for pair in group.pairs
    ]
    table = np.array(rows, float).reshape(-1, 4)
    better_P, worse_P, gap_P, prompt_P = table.T
    return Pairs(better_P=better_P, worse_P=worse_P, gap_P=gap_P, prompt_P=prompt_P.astype(np.int64))


def longer_wins(groups: Sequence[RenderedGroup]) -> bool:
    """Which side a guess by length alone takes: the one that wins more of the training pairs, longer at a draw."""
    gaps = pairs_of(groups, [np.zeros(len(group.examples)) for group in groups]).gap_P
    return bool((gaps > 0).sum() >= (gaps < 0).sum())


def measure_reward(pairs: Pairs, *, longer: bool, seed: int) -> dict[str, Any]:
    """Everything the report shows of held-out pairs, as plain values; ``longer``: what the length-only guess takes."""
    right_P, margin_P = pairs.right_P, pairs.margin_P
    guess_P = _right(pairs.gap_P if longer else -pairs.gap_P)
    accuracy = _proportion(right_P, pairs.prompt_P)
    confidence_P = 1 / (1 + np.exp(-np.abs(margin_P)))
    curve = calibration(confidence_P.tolist(), right_P.tolist(), seed, num_bins=NUM_BINS)
    baseline = _against(right_P, guess_P, pairs.prompt_P, seed)
    facts = {
        "pairs": len(right_P),
        "prompts": len(np.unique(pairs.prompt_P)),
        "accuracy": _as_list(accuracy),
        "mean_margin": float(margin_P.mean()),
        "length_only": {
            "takes": "the longer answer" if longer else "the shorter answer",
            "accuracy": _as_list(_proportion(guess_P, pairs.prompt_P)),
            **baseline,
        },
        "ece": curve.ece,
        "ece_if_calibrated": curve.expected_ece,
        "calibration": [{"pairs": b.count, "confidence": b.confidence, "accuracy": b.accuracy} for b in curve.bins],
        "by_margin": _accuracy_by(np.abs(margin_P), pairs),
        "by_length_gap": _accuracy_by(pairs.gap_P, pairs),
        "length_bias": _length_bias(pairs),
        "scores": _histogram(pairs),
    }
    return facts | {"warnings": _warnings(facts)}


def measure_grades(groups: Sequence[RenderedGroup], rewards: Sequence[Floats], mean_grade: float) -> dict[str, Any]:
    """Root mean squared error of predicted grades beside that of always saying the training answers' mean."""
    pairs = [
        (reward, rating)
        for group, rewards_K in zip(groups, rewards, strict=True)
        for reward, rating in zip(rewards_K, group.ratings, strict=True)
        if rating is not None
    ]
    predicted_N, grade_N = np.array(pairs, float).T
    error, of_mean = ((x - grade_N) ** 2 for x in (predicted_N, mean_grade))
    return {"answers": len(pairs), "rmse": float(error.mean() ** 0.5), "rmse_of_mean": float(of_mean.mean() ** 0.5)}


def _right(margin_P: Floats) -> Floats:
    return np.where(margin_P > 0, 1.0, np.where(margin_P == 0, 0.5, 0.0))


def _proportion(right_P: Floats, prompt_P: NDArray[np.int64]) -> Interval:
    return clustered_proportion(right_P.tolist(), prompt_P.tolist())


def _against(right_P: Floats, guess_P: Floats, prompt_P: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """The model beside the guess on the same prompts: mean difference with its interval, and their sign test."""
    _, which = np.unique(prompt_P, return_inverse=True)
    count = np.bincount(which)
    model, guess = (np.bincount(which, weights=x_P) / count for x_P in (right_P, guess_P))
    if set(guess) | set(model) <= {0.0, 1.0}:
        # Unlike the bootstrap's, this interval keeps a width where all prompts agree.
        difference = newcombe_paired_difference(guess.astype(bool).tolist(), model.astype(bool).tolist())
    else:
        difference = bootstrap_paired_difference(guess.tolist(), model.tolist(), seed)
    test = exact_mcnemar(guess.tolist(), model.tolist())
    return {
        "difference": _as_list(difference),
        "prompts_only_guess": test.only_first,
        "prompts_only_model": test.only_second,
        "p": test.p,
    }


def _accuracy_by(values_P: Floats, pairs: Pairs) -> list[dict[str, Any]]:
    """Accuracy over bins of equal mass of a value of each pair, lowest first."""
    order = np.argsort(values_P, kind="stable")
    out = []
    for cut in np.array_split(order, min(NUM_BINS_OF_VALUES, len(order))):
        accuracy = _proportion(pairs.right_P[cut], pairs.prompt_P[cut])
        low, high = float(values_P[cut[0]]), float(values_P[cut[-1]])
        out.append({"from": low, "to": high, "pairs": len(cut), "accuracy": _as_list(accuracy)})
    return out


def _length_bias(pairs: Pairs) -> dict[str, Any]:
    """Whether the model is right more often where the better answer is the longer one; None where a side is empty."""
    sides = {"longer": pairs.gap_P > 0, "shorter": pairs.gap_P < 0}
    counts = {name: [int((pairs.margin_P[side] > 0).sum()), int(side.sum())] for name, side in sides.items()}
    difference = None
    if all(side.any() for side in sides.values()):
        one, two = (_proportion(pairs.right_P[side], pairs.prompt_P[side]) for side in sides.values())
        difference = _as_list(newcombe_difference(one, two))
    return {**{f"right_of_better_{name}": count for name, count in counts.items()}, "difference": difference}


def _histogram(pairs: Pairs) -> dict[str, Any]:
    both = np.concatenate([pairs.better_P, pairs.worse_P])
    low, high = float(both.min()), float(both.max())
    edges = np.linspace(low, high if high > low else low + 1.0, NUM_SCORE_BINS + 1)
    sides = {"chosen": pairs.better_P, "rejected": pairs.worse_P}
    counts = {name: np.histogram(side, edges)[0].tolist() for name, side in sides.items()}
    return {"edges": edges.tolist(), **counts}


def _warnings(facts: dict[str, Any]) -> list[str]:
    out = []
    only = facts["length_only"]
    # Both: an interval over a handful of prompts is no evidence by itself.
    if only["difference"][1] <= 0 or only["p"] >= 0.05:
        out.append(
            f"not shown to be better than taking {only['takes']}: difference {100 * only['difference'][0]:.1f} points "
            f"[{100 * only['difference'][1]:.1f}, {100 * only['difference'][2]:.1f}]."
        )
    bias = facts["length_bias"]["difference"]
    if bias is not None and (bias[1] > 0 or bias[2] < 0):
        way = "longer" if bias[0] > 0 else "shorter"
        out.append(
            f"length bias: right more often where the better answer is the {way} one, by {100 * abs(bias[0]):.1f} "
            f"points [{100 * bias[1]:.1f}, {100 * bias[2]:.1f}]; a policy trained on it will drift to {way} answers."
        )
    return out


def _as_list(interval: Interval) -> list[float]:
    """[value, low, high]."""
    return [interval.value, interval.low, interval.high]
