"""Choices scored by log-likelihood: which is the likeliest, in all or for its length, and how sure the model is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tunesmith.evals.task import Item, Reply, Scorer
from tunesmith.records import Likelihood, Verdict

CHOICE_METRICS = ("acc", "acc_norm", "acc_bytes", "mass")


def choice_scorer() -> Scorer:
    """Score the likelihoods of an item's choices against its target.

    Values: acc (the likeliest choice is right), acc_norm and acc_bytes (the same by nats a character, and a UTF-8
    byte, of the choice without outer blanks), mass (probability of the right ones, were only these choices possible:
    a softmax over them). Right are the choices equal to the target, or those at the places in metadata["gold_places"].
    Choices that tie share the credit, so a model that prefers nothing scores at chance wherever the right one stands.
    Details: probabilities (K,) of the choices, chosen, gold: places. Raises ValueError without one number a choice.
    """

    def score(item: Item, reply: Reply) -> Verdict:
        gold = gold_places(item)
        values, probabilities = score_choices(reply.likelihoods, item.choices, gold)
        chosen = int(probabilities.argmax())
        return Verdict(
            values=values,
            explanation="" if values["acc"] == 1.0 else f"'{item.choices[chosen]}' was likelier",
            details={"probabilities": probabilities.tolist(), "chosen": chosen, "gold": list(gold)},
        )

    return score


def gold_places(item: Item) -> tuple[int, ...]:
    """Places of an item's right choices. Raises ValueError where there is none."""
    named = item.metadata.get("gold_places")
    gold = tuple(i for i, choice in enumerate(item.choices) if choice == item.target) if named is None else tuple(named)
    if not gold or not set(gold) <= set(range(len(item.choices))):
        raise ValueError(f"item {item.id}: the right answer is not among its choices")
    return gold


def score_choices(
    likelihoods: Sequence[Likelihood], choices: Sequence[str], gold: Sequence[int]
) -> tuple[dict[str, float], NDArray[np.float64]]:
    """The values of ``choice_scorer`` and the probabilities (K,) of the choices."""
    logprobs = np.array([one.logprob for one in likelihoods], float)
    if len(logprobs) != len(choices) or not len(choices):
        raise ValueError(f"{len(logprobs)} log-likelihoods for {len(choices)} choices")
    if np.isnan(logprobs).any() or logprobs.max() == -np.inf or logprobs.max() == np.inf:
        raise ValueError(f"log-likelihoods {logprobs.tolist()} cannot be compared")
    words = [choice.strip() for choice in choices]
    characters = np.array([len(word) for word in words], float)
    sizes = np.array([len(word.encode()) for word in words], float)
    weights = np.exp(logprobs - logprobs.max())
    probabilities = weights / weights.sum()
    right = np.isin(np.arange(len(choices)), gold)
    values = {
        "acc": _credit(logprobs, right),
        "acc_norm": _credit(logprobs / characters, right),
        "acc_bytes": _credit(logprobs / sizes, right),
        # Rounding may carry the sum of all choices past 1.
        "mass": min(1.0, float(probabilities[right].sum())),
    }
    return values, probabilities


def _credit(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    best = scores == scores.max()
    return float((best & right).sum() / best.sum())


def choice_chance(items: Sequence[Item]) -> Mapping[str, float]:
    """What blind guessing scores on each metric: the mean share of right ones among an item's choices.

    Exact for a model to which the choices are all alike; by acc for log-likelihoods drawn at random, by acc_norm and
    acc_bytes for such nats a character or byte, since lengths do favour short choices in the one and not the other.
    """
    share = float(np.mean([len(gold_places(item)) / len(item.choices) for item in items]))
    return dict.fromkeys(CHOICE_METRICS, share)
