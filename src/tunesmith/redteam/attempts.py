"""The record of one attempt: a goal, an attack, a chain of converters, a draw, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.records import Message
from tunesmith.redteam.attack import Family
from tunesmith.redteam.goals import Goal
from tunesmith.redteam.judgement import Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One answer of the target that counts: the messages it answered, the answer, and the judgement of it."""

    messages: tuple[Message, ...]
    answer: str
    stop_reason: str
    judgement: Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attack on one goal, once.

    key: digest of all it depends on: goal, attack and version, converters, draw, sampling, target, attacker, judge.
    request: the goal's after the converters. tries: in the order they were made; none where it was skipped, and
    ``skipped`` says why, such as a prompt beyond the target's context. target: identity of the model that was attacked.
    """

    key: str
    goal: Goal
    attack: str
    family: Family
    converters: tuple[str, ...]
    index: int
    seed: int
    request: str
    tries: tuple[Try, ...]
    target: Mapping[str, str]
    judge: Mapping[str, str]
    skipped: str = ""
    details: Mapping[str, Any] | None = None

    @property
    def success(self) -> bool:
        """Whether any answer gave what was wanted."""
        return any(one.judgement.success for one in self.tries)

    @property
    def best(self) -> Try | None:
        """The try that went furthest: first by success, then by score, then the earliest."""
        order = sorted(self.tries, key=lambda one: (one.judgement.success, one.judgement.score), reverse=True)
        return order[0] if order else None
