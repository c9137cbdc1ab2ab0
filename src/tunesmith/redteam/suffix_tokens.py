"""A request with a suffix as token ids: what stands before it, behind it, and the opening that is wanted of the answer.

A suffix is text in the end, so only ids count that its text is read as again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import DataError
from tunesmith.records import Where
from tunesmith.redteam.attack_suffix import suffix_messages
from tunesmith.redteam.goals import Goal
from tunesmith.tokens.continuation import continuation_examples
from tunesmith.tokens.render import render_prompt
from tunesmith.tokens.template import chat_format

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """Where a suffix goes: the prompt is before + suffix + after, the answer is to begin with ``opening``."""

    goal: Goal
    tokenizer: Any
    before: Ids
    after: Ids
    opening: Ids
    start: Ids

    def text(self, suffix: Ids) -> str:
        """What is typed behind the request."""
        return str(self.tokenizer.decode(list(suffix), clean_up_tokenization_spaces=False))

    def reads_back(self, suffix: Ids) -> bool:
        """Whether the suffix's text, typed behind the request, becomes these ids again."""
        ids = render_prompt(suffix_messages(self.goal, self.text(suffix)), self.tokenizer)
        return bool(tuple(ids.tolist()) == (*self.before, *suffix, *self.after))

    @property
    def num_tokens(self) -> int:
        """Of prompt and opening."""
        return len(self.before) + len(self.start) + len(self.after) + len(self.opening)


def slots_of(goal: Goal, tokenizer: Any, *, num_suffix_tokens: int, max_opening_tokens: int | None = None) -> Slots:
    """The slots of a goal, with a start suffix of exclamation marks as in the paper.

    max_opening_tokens: only so many tokens of the opening are asked for. Raises DataError for a goal without an
    opening, and for a request whose end takes no suffix without being read differently.
    """
    where = goal.where or Where(f"goal {goal.id}")
    if not goal.opening.strip():
        raise DataError(where, "has no opening that the answer is to begin with.", "Give it one, or leave it out.")
    # Vocabularies in which an exclamation mark takes more than one token give more of them than are wanted.
    marked = render_prompt(suffix_messages(goal, " !" * num_suffix_tokens), tokenizer)
    plain = render_prompt(suffix_messages(goal, ""), tokenizer)
    shorter = min(len(marked), len(plain))
    differs = np.flatnonzero(marked[:shorter] != plain[:shorter])
    begin = int(differs[0]) if len(differs) else shorter
    slots = Slots(
        goal=goal,
        tokenizer=tokenizer,
        before=_ids(plain[:begin]),
        after=_ids(plain[begin:]),
        opening=_opening(goal, tokenizer, where)[:max_opening_tokens],
        start=_ids(marked[begin : begin + num_suffix_tokens]),
    )
    if len(slots.start) != num_suffix_tokens or not slots.reads_back(slots.start):
        raise DataError(where, "its request is read differently with a suffix.", "End it with a word or a full stop.")
    return slots


def _opening(goal: Goal, tokenizer: Any, where: Where) -> Ids:
    """The opening's tokens as an answer would hold them."""
    messages = suffix_messages(goal, "")
    num_prompt = len(render_prompt(messages, tokenizer))
    (whole,) = continuation_examples(messages, [goal.opening], tokenizer, chat_template=True, where=where)
    if int(np.flatnonzero(whole.loss_weight)[0]) != num_prompt:
        raise DataError(where, "its opening grows together with the prompt.", "Begin it with a letter.")
    return _ids(whole.ids[num_prompt:])


def allowed_tokens(tokenizer: Any, num_rows: int) -> NDArray[np.int64]:
    """Ids below num_rows that a suffix may hold: printable ASCII of their own, and no control token."""
    control = {*chat_format(tokenizer).control_set, *tokenizer.all_special_ids}
    ids = range(min(num_rows, len(tokenizer)))
    texts = tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    kept = [i for i, text in zip(ids, texts, strict=True) if i not in control and _typed(text)]
    return np.array(kept, np.int64)


def _typed(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable()


def _ids(values: Sequence[int] | NDArray[np.int64]) -> Ids:
    return tuple(int(value) for value in values)
