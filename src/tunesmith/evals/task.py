"""Task = data set + solver + scorer: plain values and functions, no framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.randomness import permutation
from tunesmith.records import Message, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question: the messages up to the answer, and what a right answer is."""

    id: str
    messages: tuple[Message, ...]
    target: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


# A solver turns an item into the messages the model is shown.
Solver = Callable[[Item], tuple[Message, ...]]
# A scorer looks at an item and an answer's text.
Scorer = Callable[[Item, str], Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A versioned evaluation; raising the version makes earlier results incomparable, and that is its purpose."""

    name: str
    version: int
    items: tuple[Item, ...]
    solver: Solver
    scorer: Scorer
    metrics: tuple[str, ...]


def bare_prompt(item: Item) -> tuple[Message, ...]:
    """The item as it is."""
    return item.messages


def few_shot(examples: Sequence[Item], num_shots: int, seed: int) -> Solver:
    """Earlier turns with solved examples before the item's own question; the same ones for every item.

    The examples' system messages are dropped, since the item brings its own. Raises ValueError with too few examples.
    """
    if num_shots > len(examples):
        raise ValueError(f"{num_shots} shots need as many examples, there are {len(examples)}")
    chosen = [examples[i] for i in permutation(len(examples), seed, "few_shot")[:num_shots]]
    shots = tuple(
        turn
        for example in chosen
        for turn in (
            *(message for message in example.messages if message.role != "system"),
            Message(role="assistant", content=example.target),
        )
    )

    def solve(item: Item) -> tuple[Message, ...]:
        system = tuple(message for message in item.messages if message.role == "system")
        rest = tuple(message for message in item.messages if message.role != "system")
        return (*system, *shots, *rest)

    return solve
