"""Answers -> numbers: the protocol of whatever rewards an answer, and the weighted sum of several.

A source is a reward model of ours, a plain function, a judge behind an endpoint, or anything that keeps the protocol;
none of them needs torch to be asked. N stands for the answers scored in one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import ConfigError, RewardError
from tunesmith.records import Message, StopReason

NO_IDS = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One answer to be scored.

    messages: the prompt. ids: (T,) the answer's tokens, its end token last where it wrote one; prompt_ids: (P,) the
    rendered prompt before them; both may be empty where only texts are known. sample: the how-manieth answer to its
    row.
    """

    messages: tuple[Message, ...]
    text: str
    stop_reason: StopReason
    row_id: int
    sample: int = 0
    ids: NDArray[np.int64] = field(default_factory=lambda: NO_IDS)
    prompt_ids: NDArray[np.int64] = field(default_factory=lambda: NO_IDS)


class RewardSource(Protocol):
    """Anything that gives every answer one number, higher for better."""

    @property
    def name(self) -> str:
        """Short and unique within a run: it becomes part of the metrics' names."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """What its numbers depend on besides the answers; no secret is among it."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """What it had to note since it was opened, such as answers of a judge that held no number."""
        ...

    def score(self, items: Sequence[Answered]) -> NDArray[np.float64]:
        """(N,) one finite number an answer, in their order. Raises RewardError."""
        ...


@dataclass(frozen=True, slots=True)
class Scores:
    """total: (N,) the weighted sum; parts: name of the source -> (N,) its own numbers, before the weight."""

    total: NDArray[np.float64]
    parts: Mapping[str, NDArray[np.float64]]

    def means(self) -> dict[str, float]:
        """Name of the source -> mean of its own numbers."""
        return {name: float(values.mean()) for name, values in self.parts.items()}


class WeightedSum:
    """Several sources and what each one's number counts; weight 0 only watches.

    Raises ConfigError where two sources bear one name or none counts.
    """

    name = "sum"

    def __init__(self, sources: Sequence[tuple[RewardSource, float]]) -> None:
        names = [source.name for source, _ in sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError("rewards", f"two sources are called '{twice[0]}'.", "Give each one a `name`.")
        if not any(weight for _, weight in sources):
            raise ConfigError("rewards", "no source counts.", "Name one with a weight other than 0.")
        self.sources = tuple(sources)

    @property
    def identity(self) -> Mapping[str, str]:
        """Weight and identity of every source."""
        out: dict[str, str] = {}
        for source, weight in self.sources:
            out[f"{source.name}.weight"] = repr(weight)
            out.update({f"{source.name}.{key}": value for key, value in source.identity.items()})
        return out

    @property
    def counts(self) -> Mapping[str, int]:
        """The counts of every source, its name before them."""
        return {f"{source.name}.{key}": value for source, _ in self.sources for key, value in source.counts.items()}

    def score(self, items: Sequence[Answered]) -> NDArray[np.float64]:
        """(N,) the sum alone."""
        return self.score_parts(items).total

    def score_parts(self, items: Sequence[Answered]) -> Scores:
        """The sum and what every source gave. Raises RewardError."""
        parts = {source.name: checked(source.name, items, source.score(items)) for source, _ in self.sources}
        total = np.zeros(len(items))
        for source, weight in self.sources:
            total = total + weight * parts[source.name]
        return Scores(total, parts)


def checked(name: str, items: Sequence[Answered], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scores as (N,) float64. Raises RewardError for another number of them and for one that is not finite."""
    array = np.asarray(scores, np.float64)
    if array.shape != (len(items),):
        raise RewardError(
            f"reward '{name}'",
            f"gave scores of shape {array.shape} for {len(items)} answers.",
            "Give one number an answer, in their order.",
        )
    if (bad := np.flatnonzero(~np.isfinite(array))).size:
        first = items[int(bad[0])]
        raise RewardError(
            f"reward '{name}': prompt row {first.row_id}",
            f"the score is {array[bad[0]]:g} ({bad.size} of {len(items)} answers have such a one); the answer begins "
            f"{first.text[:60]!r}.",
            "Give every answer a finite number, the empty one too.",
        )
    return array
