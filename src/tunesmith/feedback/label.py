"""The labeller: a state machine that a function giving keys drives; every judgement is committed at its key.

It knows no terminal: ``read_key`` gives a key (empty at the end of the input), ``show`` takes a screen, ``edit`` opens
an editor. So a test drives it with a list of keys, and the command line with a terminal.
"""

from __future__ import annotations

import string
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tunesmith.data.check import RowError
from tunesmith.data.ranking import parse_ranking
from tunesmith.feedback.judgements import (
    Answer,
    Compared,
    Edited,
    Flagged,
    Judgement,
    Kind,
    Outcome,
    Ranked,
    Rated,
    Thumbed,
    Value,
    check_judgement,
)
from tunesmith.feedback.queue import Item, open_items
from tunesmith.feedback.screen import REASONS, screen, visible
from tunesmith.feedback.store import FeedbackStore
from tunesmith.progress import clock
from tunesmith.records import Where

OUTCOMES: dict[str, Outcome] = {"a": "A", "b": "B", "t": "tie", "x": "both bad"}
ENTER, ESCAPE, BACKSPACES = "\r\n", "\x1b", "\x7f\b"
HELP = (
    "One key is one judgement and is saved at once. u takes the last one of this session back, s leaves an item for\n"
    "the next session, q ends; Ctrl-C ends too. Any key goes on."
)


@dataclass(slots=True, kw_only=True)
class Session:
    """What one sitting came to."""

    judged: int = 0
    undone: int = 0
    skipped: int = 0
    left: int = 0
    quit: bool = False


@dataclass(frozen=True, slots=True)
class _Done:
    """A step that undo takes back: the item's place, and its judgement unless it was skipped."""

    place: int
    judgement: str | None


class _Quit(Exception):
    """The annotator, or the end of the input, ends the sitting."""


@dataclass(slots=True, kw_only=True)
class Labeller:
    """Asks one annotator about the items of a queue. ``clock`` gives seconds, for the pace."""

    store: FeedbackStore
    kind: Kind
    annotator: str
    queue: Sequence[Item]
    read_key: Callable[[], str]
    show: Callable[[str], None]
    edit: Callable[[str], str | None] | None = None
    clock: Callable[[], float] = time.monotonic
    session: Session = field(default_factory=Session)
    _first: dict[tuple[str, ...], str] = field(default_factory=dict, init=False)
    """Item -> this annotator's judgement of it, repetitions apart."""
    _done: list[_Done] = field(default_factory=list, init=False)

    def run(self) -> Session:
        """Ask until nothing is open or the annotator quits. Raises what the store raises; all before is committed."""
        made = self._made()
        self._first = {tuple(sorted(one.candidates)): one.id for one in made if one.asked_again_of is None}
        items, message, place, began = open_items(self.queue, made), "", 0, self.clock()
        try:
            while place < len(items):
                item = items[place]
                if item.again and item.key not in self._first:
                    # Its first time was skipped, so there is nothing to compare a second answer with.
                    place += 1
                    continue
                self.show(screen(item, self.kind, self._progress(len(items) - place, began), message))
                said = self._ask(item)
                message = ""
                if said == "undo":
                    place, message = self._undo(items, place)
                elif said == "skip":
                    self._done.append(_Done(place, None))
                    self.session.skipped += 1
                    place += 1
                elif isinstance(said, str):
                    message = said
                else:
                    message = self._commit(item, said, place)
                    place += not message
        except (_Quit, KeyboardInterrupt):
            self.session.quit = True
        self.session.left = len(open_items(self.queue, self._made()))
        return self.session

    def _made(self) -> list[Judgement]:
        return list(self.store.judgements(kind=self.kind, annotator=self.annotator))

    def _progress(self, left: int, began: float) -> str:
        judged, total = self.session.judged, len(self.queue)
        pace = (self.clock() - began) / judged if judged else 0.0
        time_left = f", about {clock(pace * left)} left" if judged else ""
        return f"{self.kind} {total - left + 1} of {total}, {visible(self.annotator)}: {judged} judged now{time_left}"

    def _commit(self, item: Item, value: Value, place: int) -> str:
        """Put the judgement into the store; returns what is wrong with it, or nothing."""
        ids = [candidate.id for candidate in item.candidates]
        try:
            check_judgement(value, item.prompt.id, ids, self.annotator, 1.0)
        except ValueError as error:
            return f"not saved: {error}."
        again = self._first[item.key] if item.again else None
        key = self.store.add_judgement(item.prompt.id, ids, value, annotator=self.annotator, asked_again_of=again)
        if not item.again:
            self._first[item.key] = key
        self._done.append(_Done(place, key))
        self.session.judged += 1
        return ""

    def _undo(self, items: Sequence[Item], place: int) -> tuple[int, str]:
        """Take the last step of this session back; returns the place to go on at and what to say."""
        if not self._done:
            return place, "nothing of this session to undo."
        last = self._done.pop()
        if last.judgement is None:
            self.session.skipped -= 1
            return last.place, "the skipped item again."
        self.store.withdraw(last.judgement)
        if not items[last.place].again:
            del self._first[items[last.place].key]
        self.session.judged -= 1
        self.session.undone += 1
        return last.place, "undone; judge it again."

    def _ask(self, item: Item) -> Value | str:
        """A judgement, "undo", "skip", or what to tell the annotator. Raises _Quit."""
        if self.kind == "ranking":
            return self._ranking(item)
        key = self._key()
        if key == "?":
            self.show(HELP + "\n")
            self._key()
            return ""
        common = {"u": "undo", "s": "skip"}
        if key in common:
            return common[key]
        if key == "q":
            raise _Quit
        # An arrow key comes as several characters, which mean nothing one by one.
        return (self._judged(item, key) if len(key) == 1 else None) or f"'{visible(key)}' is no key here."

    def _judged(self, item: Item, key: str) -> Value | str | None:
        """The judgement a key stands for, a message, or None for a key of no meaning."""
        match self.kind:
            case "comparison" if key in OUTCOMES:
                return Compared(OUTCOMES[key])
            case "thumb" if key in "yn":
                return Thumbed(key == "y")
            case "rating" if key in "12345":
                return Rated(int(key))
            case "flag" if key == "n":
                return Flagged(False)
            case "flag" if key in REASONS:
                return Flagged(True, REASONS[key])
            case "flag" if key == "f":
                reason = self._line("reason: ")
                return Flagged(True, reason.strip()) if reason and reason.strip() else "no reason, not saved."
            case "edit" if key == "e":
                return self._edited(item)
        return None

    def _edited(self, item: Item) -> Value | str:
        """The last turn rewritten, in the editor or as a line."""
        answer: Answer = item.candidates[0].answer
        before = answer[-1].content
        after = self.edit(before) if self.edit is not None else self._line("new answer: ")
        if after is None or not after.strip():
            return "no text, not saved."
        # Editors end a file with a line break that the answer did not have.
        after = after if before.endswith("\n") else after.rstrip("\n")
        if after == before:
            return "unchanged, not saved; s leaves it as it is."
        try:
            return Edited((*answer[:-1], replace(answer[-1], content=after)))
        except ValueError as error:
            return f"not saved: {error}."

    def _ranking(self, item: Item) -> Value | str:
        line = self._line("ranking: ")
        text = (line or "").strip()
        if text.lower() in ("q", "quit"):
            raise _Quit
        if text.lower() in ("u", "undo"):
            return "undo"
        if text.lower() in ("s", "skip"):
            return "skip"
        if text == "?":
            self.show(HELP + "\n")
            self._key()
            return ""
        letters = string.ascii_uppercase[: len(item.candidates)]
        try:
            tiers = parse_ranking(text.upper(), letters, Where("ranking"))
        except RowError as error:
            detail = f" ({error.fault.detail})" if error.fault.detail else ""
            return f"{error.fault.cause.rstrip('.')}{detail}. Such as: {' > '.join(letters)}"
        return Ranked(tuple(tuple(letters.index(name) for name in tier) for tier in tiers))

    def _key(self) -> str:
        """The next key, letters in lower case. Raises _Quit at the end of the input."""
        key = self.read_key()
        if not key:
            raise _Quit
        return key.lower()

    def _line(self, prompt: str) -> str | None:
        """A line typed key by key; None where Escape gives it up. Raises _Quit at the end of the input."""
        text = ""
        self.show(prompt)
        while True:
            key = self.read_key()
            if not key:
                raise _Quit
            if key in ENTER:
                self.show("\n")
                return text
            if key == ESCAPE:
                self.show("\n")
                return None
            if key in BACKSPACES:
                self.show("\b \b" if text else "")
                text = text[:-1]
            elif key.isprintable():
                text += key
                self.show(key)
