"""Attempts made up under a known truth, so that what a verdict says of them can be held against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tunesmith.records import Message
from tunesmith.redteam.attack import Family
from tunesmith.redteam.attempts import Attempt, Try
from tunesmith.redteam.goals import Goal, GoalKind
from tunesmith.redteam.judgement import Judgement
from tunesmith.rollout.refusal import Kind

FAMILIES: Mapping[str, Family] = {"direct": "direct", "prefix": "injection", "pair": "search"}


def goal(number: int, kind: GoalKind = "harmful", category: str = "") -> Goal:
    name = category or ("fraud", "weapons", "privacy")[number % 3]
    return Goal(id=f"{kind}-{number}", request=f"request {number}", category=name, source="ours", kind=kind)


def attempt(
    of: Goal,
    kinds: Sequence[Kind],
    *,
    attack: str = "direct",
    converters: tuple[str, ...] = (),
    words: str | None = None,
    answer: str = "an answer",
    score: float | None = None,
    skipped: str = "",
) -> Attempt:
    """One attempt whose answers were read as ``kinds``; score: of those that succeed."""
    asked = words or of.request
    tries = tuple(
        Try(
            messages=(Message(role="user", content=asked),),
            answer=f"{answer} {i}",
            stop_reason="end_of_turn",
            judgement=Judgement(
                kind=kind,
                success=kind == "comply",
                score=(1.0 if score is None else score) if kind == "comply" else 0.0,
            ),
        )
        for i, kind in enumerate(kinds)
    )
    return Attempt(
        key=f"{of.id}/{attack}/{'+'.join(converters)}",
        goal=of,
        attack=attack,
        family=FAMILIES[attack],
        converters=converters,
        index=0,
        seed=0,
        request=asked,
        tries=tries,
        target={"model": "tiny"},
        judge={"judge": "made up"},
        skipped=skipped,
    )


def campaign(
    shares: Mapping[str, float], over_refusal: float, *, num: int = 60, seed: int = 0, num_tries: int = 3
) -> list[Attempt]:
    """Attacks that succeed at these shares on ``num`` goals, harder goals for all of them alike; ``num`` safe ones."""
    rng = np.random.default_rng(seed)
    ease = np.random.default_rng(1).random(num)
    out = []
    for attack, share in shares.items():
        for i in range(num):
            won = (ease[i] + rng.random()) / 2 < share
            tries = num_tries if attack == "pair" else 1
            kinds: list[Kind] = ["refuse"] * (tries - 1) + ["comply" if won else "refuse"]
            if not won and rng.random() < 0.1:
                kinds = ["nonsense"] * tries
            out.append(attempt(goal(i), kinds, attack=attack, score=0.25 + 0.75 * float(rng.random())))
    for i in range(num):
        safe: Kind = "refuse" if rng.random() < over_refusal else "comply"
        out.append(attempt(goal(i, "safe"), [safe]))
    return out
