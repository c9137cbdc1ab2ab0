"""Task = data set + solver + scorer: plain values and functions, no framework, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.randomness import permutation
from tunesmith.records import Message, StopReason, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question: the messages up to the answer, and what a right answer is."""

    id: str
    messages: tuple[Message, ...]
    target: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a solver asks the model about one item."""

    item: Item
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the model said to a request, and whether it came to an end by itself."""

    request: Request
    text: str
    stop_reason: StopReason


# Requests to replies, in their order. A request asked before is answered from the results file.
Generate = Callable[[Sequence[Request]], Sequence[Reply]]
# Items to their final replies, one an item and in their order; it may ask as often as it needs to.
Solver = Callable[[Sequence[Item], Generate], Sequence[Reply]]
# A scorer looks at an item and an answer's text.
Scorer = Callable[[Item, str], Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A versioned evaluation; raising the version makes earlier results incomparable, and that is its purpose.

    metrics: the names of the scorer's values that are reported. Raises ValueError without items or with two of one id.
    """

    name: str
    version: int
    items: tuple[Item, ...]
    solver: Solver
    scorer: Scorer
    metrics: tuple[str, ...]

    def __post_init__(self) -> None:
        ids = [item.id for item in self.items]
        if not ids:
            raise ValueError(f"task '{self.name}' has no items")
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"task '{self.name}' has several items called {', '.join(twice)}")


def items_from_rows(rows: Sequence[Mapping[str, Any]], split: str) -> list[Item]:
    """Rows of the ``messages`` shape as items called <split>-<place>; the last message is the target."""
    items = []
    for i, row in enumerate(rows):
        *asked, answer = row["messages"]
        messages = tuple(Message(role=turn["role"], content=turn["content"]) for turn in asked)
        items.append(Item(id=f"{split}-{i}", messages=messages, target=answer["content"]))
    return items


def subset(items: Sequence[Item], num_items: int | None, seed: int) -> tuple[Item, ...]:
    """The first ``num_items`` of a seeded shuffle, all of them for None; every condition sees the same ones.

    Raises ValueError when there are not that many.
    """
    size = len(items) if num_items is None else num_items
    if not 1 <= size <= len(items):
        raise ValueError(f"a subset of {size} items cannot be taken from {len(items)}")
    return tuple(items[i] for i in permutation(len(items), seed, "eval_subset")[:size])


def bare_prompt(items: Sequence[Item], generate: Generate) -> Sequence[Reply]:
    """Ask each item as it is."""
    return generate([Request(item=item, messages=item.messages) for item in items])


def few_shot(examples: Sequence[Item], num_shots: int, seed: int) -> Solver:
    """Put solved examples before each item's own question as earlier turns; the same ones for every item.

    The examples' system messages are dropped, since the item brings its own. Raises ValueError with too few examples,
    and when a shot is itself among the items asked.
    """
    if not 0 <= num_shots <= len(examples):
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

    def solve(items: Sequence[Item], generate: Generate) -> Sequence[Reply]:
        shown = {example.messages for example in chosen}
        if told := [item.id for item in items if item.messages in shown]:
            raise ValueError(f"items {told} are among the shots, which tell their answers")
        return generate([Request(item=item, messages=_with_shots(item, shots)) for item in items])

    return solve


def _with_shots(item: Item, shots: tuple[Message, ...]) -> tuple[Message, ...]:
    system = tuple(message for message in item.messages if message.role == "system")
    rest = tuple(message for message in item.messages if message.role != "system")
    return (*system, *shots, *rest)
