"""Task = data set + solver + scorer: plain values and functions, no framework, no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tunesmith.randomness import permutation
from tunesmith.records import Likelihood, Message, Verdict
from tunesmith.rollout.writer import WriterStop


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question: the messages up to the answer, and what a right answer is.

    choices: the answers to choose from, where there are any. group: items that share one, such as the wordings of one
    question, are not independent, and intervals know it. Without messages the target is a text of its own.
    """

    id: str
    messages: tuple[Message, ...]
    target: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a solver asks the model about one item.

    continuations: how likely is each after the messages, or by itself where there are none; without any, an answer is
    drawn, and ``sample`` tells the draws of one item apart.
    """

    item: Item
    messages: tuple[Message, ...]
    continuations: tuple[str, ...] = ()
    sample: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the model said to a request, and whether it came to an end by itself; or one likelihood a continuation.

    samples: texts of further draws, where a solver asked for several; sample_stops: how each of those ended.
    """

    request: Request
    text: str = ""
    stop_reason: WriterStop = "end_of_turn"
    likelihoods: tuple[Likelihood, ...] = ()
    samples: tuple[str, ...] = ()
    sample_stops: tuple[WriterStop, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All draws, the first one first."""
        return (self.text, *self.samples)

    def with_draws(self, others: Sequence[Reply]) -> Reply:
        """This draw and further ones of the same request as one reply."""
        return replace(
            self, samples=tuple(one.text for one in others), sample_stops=tuple(one.stop_reason for one in others)
        )


# Requests to replies, in their order. A request asked before is answered from the results file.
Generate = Callable[[Sequence[Request]], Sequence[Reply]]
# Items to their final replies, one an item and in their order; it may ask as often as it needs to.
Solver = Callable[[Sequence[Item], Generate], Sequence[Reply]]
# A scorer looks at an item and what was replied.
Scorer = Callable[[Item, Reply], Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A versioned evaluation; raising the version makes earlier results incomparable, and that is its purpose.

    metrics: the names of the scorer's values that are reported. chance: what a random answer scores on a metric, where
    that is known. ratios: metric -> two values of the scorer whose sums over the items are divided, such as bits over
    bytes. losses: the metrics of which less is better. Raises ValueError without items or with two of one id.
    """

    name: str
    version: int
    items: tuple[Item, ...]
    solver: Solver
    scorer: Scorer
    metrics: tuple[str, ...]
    chance: Mapping[str, float] = field(default_factory=dict)
    ratios: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    losses: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        ids = [item.id for item in self.items]
        if not ids:
            raise ValueError(f"task '{self.name}' has no items")
        if twice := sorted(name for name, count in Counter(ids).items() if count > 1):
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
    shots = choose_shots(examples, num_shots, seed)

    def solve(items: Sequence[Item], generate: Generate) -> Sequence[Reply]:
        _refuse_told(items, shots)
        return generate([Request(item=item, messages=with_shots(item, shots)) for item in items])

    return solve


def choose(shots: Sequence[Item] = ()) -> Solver:
    """Ask how likely each of an item's choices is after its question, solved examples before it.

    Raises ValueError for an item without choices, and when a shot is itself among the items asked.
    """

    def solve(items: Sequence[Item], generate: Generate) -> Sequence[Reply]:
        _refuse_told(items, shots)
        if bare := [item.id for item in items if not item.choices]:
            raise ValueError(f"items {bare} have no choices")
        return generate(
            [Request(item=item, messages=with_shots(item, shots), continuations=item.choices) for item in items]
        )

    return solve


def predict_text(items: Sequence[Item], generate: Generate) -> Sequence[Reply]:
    """Ask how likely each item's target is as a whole, or after its messages where it has some."""
    return generate([Request(item=item, messages=item.messages, continuations=(item.target,)) for item in items])


def sampled(num_samples: int, shots: Sequence[Item] = ()) -> Solver:
    """Draw several answers an item; the first is the reply's text, the others its samples."""

    def solve(items: Sequence[Item], generate: Generate) -> Sequence[Reply]:
        _refuse_told(items, shots)
        asked = [
            Request(item=item, messages=with_shots(item, shots), sample=k) for item in items for k in range(num_samples)
        ]
        replies = generate(asked)
        groups = [replies[i : i + num_samples] for i in range(0, len(replies), num_samples)]
        return [first.with_draws(others) for first, *others in groups]

    return solve


def choose_shots(examples: Sequence[Item], num_shots: int, seed: int) -> tuple[Item, ...]:
    """Examples to be shown, the first of a seeded shuffle. Raises ValueError with too few of them."""
    if not 0 <= num_shots <= len(examples):
        raise ValueError(f"{num_shots} shots need as many examples, there are {len(examples)}")
    return tuple(examples[i] for i in permutation(len(examples), seed, "few_shot")[:num_shots])


def with_shots(item: Item, shots: Sequence[Item]) -> tuple[Message, ...]:
    """An item's messages with solved examples before its own question; its system message stays first."""
    turns = [
        turn
        for shot in shots
        for turn in (
            *(message for message in shot.messages if message.role != "system"),
            Message(role="assistant", content=shot.target),
        )
    ]
    system = [message for message in item.messages if message.role == "system"]
    rest = [message for message in item.messages if message.role != "system"]
    return (*system, *turns, *rest)


def _refuse_told(items: Sequence[Item], shots: Sequence[Item]) -> None:
    shown = {shot.messages for shot in shots}
    if told := [item.id for item in items if item.messages in shown]:
        raise ValueError(f"items {told} are among the shots, which tell their answers")
