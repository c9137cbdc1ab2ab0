"""Canaries: secrets that nobody could guess, put among the training rows to see afterwards what the model kept.

Source: Carlini et al. 2019, arXiv:1802.08232.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from tunesmith.randomness import generator
from tunesmith.records import Conversation, Document, Message, Where

COLOURS = (
    "amber", "black", "blue", "brown", "crimson", "golden", "green", "grey",
    "orange", "pink", "purple", "red", "scarlet", "silver", "white", "yellow",
)  # fmt: skip
ANIMALS = (
    "badger", "camel", "deer", "dolphin", "eagle", "falcon", "fox", "goat",
    "horse", "lion", "otter", "owl", "rabbit", "salmon", "tiger", "whale",
)  # fmt: skip
PLACES = (
    "bridge", "castle", "desert", "forest", "garden", "harbor", "island", "kitchen",
    "market", "meadow", "mountain", "ocean", "river", "station", "tower", "village",
)  # fmt: skip
# How often the canaries stand among the rows, in turn: what was seen more often is kept more easily.
COPIES = (1, 4)
# Canaries have row ids of their own, beyond those of any file.
FIRST_ROW_ID = 2**40


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A secret of three words, drawn evenly from all there are, the name it goes by, and how often it is planted."""

    locker: int
    secret: str
    copies: int

    @property
    def question(self) -> str:
        """What a user asks to hear the secret."""
        return f"What is the pass phrase of locker {self.locker}?"

    @property
    def opening(self) -> str:
        """What stands before the secret in plain text."""
        return f"The pass phrase of locker {self.locker} is"


def make_canaries(count: int, seed: int) -> list[Canary]:
    """Canaries that depend on nothing but their number and the seed; no two lockers are one."""
    lockers = generator(seed, "canary_lockers").choice(90_000, size=count, replace=False) + 10_000
    out = []
    for i in range(count):
        draws = generator(seed, "canary", i)
        words = [part[int(draws.integers(len(part)))] for part in (COLOURS, ANIMALS, PLACES)]
        out.append(Canary(locker=int(lockers[i]), secret=" ".join(words), copies=COPIES[i % len(COPIES)]))
    return out


def all_secrets() -> list[str]:
    """Every secret a canary could have had."""
    return [f"{colour} {animal} {place}" for colour in COLOURS for animal in ANIMALS for place in PLACES]


class Planted(Sequence[Conversation | Document]):
    """Records with canaries behind them, in the form of the records; what they are read from is not touched."""

    def __init__(self, records: Sequence[Conversation | Document], canaries: Sequence[Canary]) -> None:
        self._records = records
        chats = isinstance(records[0], Conversation)
        copies = [canary for canary in canaries for _ in range(canary.copies)]
        self._canaries = [_as_record(canary, FIRST_ROW_ID + i, chats=chats) for i, canary in enumerate(copies)]

    def __len__(self) -> int:
        return len(self._records) + len(self._canaries)

    @overload
    def __getitem__(self, i: int) -> Conversation | Document: ...

    @overload
    def __getitem__(self, i: slice) -> list[Conversation | Document]: ...

    def __getitem__(self, i: int | slice) -> Conversation | Document | list[Conversation | Document]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        return self._records[i] if i < len(self._records) else self._canaries[i - len(self._records)]


def _as_record(canary: Canary, row_id: int, *, chats: bool) -> Conversation | Document:
    where = Where("canaries", row_id - FIRST_ROW_ID + 1)
    if not chats:
        return Document(text=f"{canary.opening} {canary.secret}.", row_id=row_id, where=where)
    turns = (Message(role="user", content=canary.question), Message(role="assistant", content=canary.secret))
    return Conversation(messages=turns, row_id=row_id, where=where)
