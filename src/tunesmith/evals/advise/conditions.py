"""The conditions as solvers: asked plainly, with fixed shots, with retrieved shots, with retrieved passages.

A shot is shown as an earlier turn in the wording of the question itself. No item is ever shown to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tunesmith.evals.advise.prompts import Wording, worded
from tunesmith.evals.task import Generate, Item, Reply, Request, Solver
from tunesmith.randomness import permutation
from tunesmith.records import Message
from tunesmith.retrieval.lexical import Search

Family = Literal["prompt", "shots", "retrieve", "tune", "tune+retrieve"]
# Whether the model can read these messages and still answer.
Fits = Callable[[Sequence[Message]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One way to do the task: a solver, the adapter it runs with (None: the base), and how it was settled on."""

    name: str
    family: Family
    solver: Solver
    adapter: str | None = None
    chosen: str = ""


@dataclass(slots=True)
class Dropped:
    """Shots or passages that were left out because the prompt would not have fitted, over all requests."""

    count: int = 0


def question_of(item: Item) -> str:
    """What a search is asked: what was said so far, without the system message."""
    return "\n".join(message.content for message in item.messages if message.role != "system")


def with_prompt(wording: Wording) -> Solver:
    """Ask each item in a wording."""

    def solve(items: Sequence[Item], generate: Generate) -> Sequence[Reply]:
        return generate([_request(item, worded(item.messages, wording)) for item in items])

    return solve


def with_shots(
    wording: Wording,
    shots_of: Callable[[Item], Sequence[Item]],
    fits: Fits,
    dropped: Dropped,
    *,
    open_book: bool = False,
) -> Solver:
    """Ask each item after solved examples, the last next to the question; the first go where the prompt is too long.

    Raises ValueError where an example asks what the item asks and so tells the answer, unless that is what the index is
    for (open_book).
    """

    def solve(items: Sequence[Item], generate: Generate) -> Sequence[Reply]:
        requests = []
        for item in items:
            shots = list(shots_of(item))
            told = [shot.id for shot in shots if question_of(shot) == question_of(item)]
            if told and not open_book:
                raise ValueError(f"shots {told} tell the answer to {item.id}")
            messages = _after_shots(item, shots, wording)
            while shots and not fits(messages):
                del shots[0]
                dropped.count += 1
                messages = _after_shots(item, shots, wording)
            requests.append(_request(item, messages))
        return generate(requests)

    return solve


def fixed(examples: Sequence[Item], num_shots: int, seed: int) -> Callable[[Item], Sequence[Item]]:
    """The same examples for every item: the first of a seeded shuffle."""
    chosen = [examples[i] for i in permutation(len(examples), seed, "advise_shots")[:num_shots]]
    return lambda item: chosen


def retrieved(examples: Sequence[Item], search: Search, num_shots: int) -> Callable[[Item], Sequence[Item]]:
    """The examples nearest to each item's question, the nearest last; ``search`` gives places in ``examples``."""
    return lambda item: [examples[i] for i in reversed(search(question_of(item), num_shots))]


def with_passages(
    wording: Wording, passages: Sequence[str], search: Search, num_passages: int, fits: Fits, dropped: Dropped
) -> Solver:
    """Ask each item with the passages nearest to its question before it, the nearest first."""

    def solve(items: Sequence[Item], generate: Generate) -> Sequence[Reply]:
        requests = []
        for item in items:
            found = [passages[i] for i in search(question_of(item), num_passages)]
            messages = _after_passages(item, found, wording)
            while found and not fits(messages):
                found.pop()
                dropped.count += 1
                messages = _after_passages(item, found, wording)
            requests.append(_request(item, messages))
        return generate(requests)

    return solve


def requests_of(solver: Solver, items: Sequence[Item]) -> list[Request]:
    """What a solver asks, without anybody answering."""
    asked: list[Request] = []

    def generate(requests: Sequence[Request]) -> list[Reply]:
        asked.extend(requests)
        return [Reply(request=request) for request in requests]

    solver(items, generate)
    return asked


def _request(item: Item, messages: Sequence[Message]) -> Request:
    return Request(item=item, messages=tuple(messages), continuations=item.choices)


def _after_shots(item: Item, shots: Sequence[Item], wording: Wording) -> tuple[Message, ...]:
    asked = worded(item.messages, wording)
    turns = [
        turn
        for shot in shots
        for turn in (
            *(message for message in worded(shot.messages, wording) if message.role != "system"),
            Message(role="assistant", content=shot.target),
        )
    ]
    system = [message for message in asked if message.role == "system"]
    return (*system, *turns, *(message for message in asked if message.role != "system"))


def _after_passages(item: Item, passages: Sequence[str], wording: Wording) -> tuple[Message, ...]:
    asked = list(worded(item.messages, wording))
    if not passages:
        return tuple(asked)
    listed = "\n".join(f"[{number}] {text}" for number, text in enumerate(passages, 1))
    last = max(i for i, message in enumerate(asked) if message.role == "user")
    asked[last] = Message(role="user", content=f"Use these passages:\n{listed}\n\n{asked[last].content}")
    return tuple(asked)
