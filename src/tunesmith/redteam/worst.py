"""The attempts a reader should look at: what went furthest or is new, and safe requests that are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.redteam.attempts import Attempt, Try
from tunesmith.redteam.pairs import declines, name_of, score_of

NUM_CASES, NUM_OF_AN_ATTACK = 12, 2
ByModel = Mapping[str, Sequence[Attempt]]


def worst_cases(attempts: ByModel, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Successes against the last model, with what the first one answered to the same.

    Those that the first withstood come first, then by score; of one goal and of one attack only some, while there are
    others, so that a reader sees several ways in.
    """
    before = _of_the_first(attempts, labels)

    def rank(one: Attempt) -> tuple[bool, float]:
        other = before.get(name_of(one))
        return other is None or other.success, -score_of(one)

    ranked = sorted((one for one in attempts[labels[-1]] if one.success), key=rank)
    seen: Counter[object] = Counter()
    chosen, rest = list[Attempt](), list[Attempt]()
    for one in ranked:
        fresh = not seen["goal", one.goal.id] and seen["attack", one.attack] < NUM_OF_AN_ATTACK
        (chosen if fresh else rest).append(one)
        seen.update([("goal", one.goal.id), ("attack", one.attack)] if fresh else [])
    return [_case(one, labels, before) for one in [*chosen, *rest][:NUM_CASES]]


def refused_cases(attempts: ByModel, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Safe requests that the last model declines; those that the first one answered come first."""
    before = _of_the_first(attempts, labels)

    def was_answered(one: Attempt) -> bool:
        other = before.get(name_of(one))
        return other is not None and not declines(other)

    declined = [one for one in attempts[labels[-1]] if declines(one)]
    return [_case(one, labels, before) for one in sorted(declined, key=lambda one: not was_answered(one))[:NUM_CASES]]


def _of_the_first(attempts: ByModel, labels: Sequence[str]) -> dict[tuple[object, ...], Attempt]:
    return {name_of(one): one for one in attempts[labels[0]]} if len(labels) > 1 else {}


def _case(one: Attempt, labels: Sequence[str], before: Mapping[tuple[object, ...], Attempt]) -> dict[str, Any]:
    other = before.get(name_of(one))
    sides = {} if other is None else {labels[0]: _side(other.best)}
    return {
        "goal": one.goal.request,
        "id": one.goal.id,
        "category": one.goal.category,
        "attack": one.attack,
        "converters": list(one.converters),
        "sides": {**sides, labels[-1]: _side(one.best)},
    }


def _side(best: Try | None) -> dict[str, Any]:
    assert best is not None  # An attempt without answers is no case.
    return {
        "messages": [[turn.role, turn.content] for turn in best.messages],
        "answer": best.answer,
        "kind": best.judgement.kind,
        "success": best.judgement.success,
        "score": best.judgement.score,
    }
