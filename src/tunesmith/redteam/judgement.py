"""What a judge says of an answer: refused, followed and how far, or nonsense."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tunesmith.redteam.goals import Goal
from tunesmith.rollout.refusal import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A goal in its plain words, what the target was last told, and its answer."""

    goal: Goal
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One judge's reading.

    kind: comply, partly, refuse or nonsense. success: the attack got what it wanted; never of nonsense. score: how
    far, from 0 to 1, for searches that climb and for the worst cases. details: readings that were composed, evidence.
    """

    kind: Kind
    success: bool
    score: float
    details: Mapping[str, Any] = field(default_factory=dict)


class Judge(Protocol):
    """Anything that reads answers; how often it errs is measured on people's labels under its identity."""

    @property
    def identity(self) -> Mapping[str, str]:
        """Name, version and digest of all its judgements depend on."""
        ...

    def judge(self, cases: Sequence[Case]) -> Iterator[tuple[int, Judgement]]:
        """(index into ``cases``, judgement), in any order, each index once."""
        ...
