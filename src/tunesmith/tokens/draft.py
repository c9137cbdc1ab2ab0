"""What the template writes for a conversation: the whole text, and what stands before each assistant turn.

Many conversations are drafted and encoded in one call each, which a fast tokenizer spreads over the cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.records import Conversation, Message
from tunesmith.tokens.template import SPELLED, apply_template, apply_template_many, chat_format, encode


@dataclass(frozen=True, slots=True)
class Draft:
    """The texts of one conversation.

    assistant: places of the assistant's messages. full: the text through the last of them. before: up to where each is
    to speak, as in use. through: to the end of each, as in training.
    """

    record: Conversation
    assistant: tuple[int, ...]
    full: str
    before: tuple[str, ...]
    through: tuple[str, ...]


def draft(record: Conversation, tokenizer: Any) -> Draft:
    """One conversation's texts. Raises DataError when the template refuses it."""
    where, tools, messages = record.where, record.tools, record.messages
    assistant = _assistant(record)
    full = apply_template(tokenizer, messages[: assistant[-1] + 1], where, tools=tools)
    before = [apply_template(tokenizer, messages[:i], where, generation=True, tools=tools) for i in assistant]
    through = [apply_template(tokenizer, messages[: i + 1], where, tools=tools) for i in assistant[:-1]]
    return Draft(record, assistant, full, tuple(before), (*through, full))


def draft_many(records: Sequence[Conversation], tokenizer: Any) -> list[Draft] | None:
    """The same for many; None where one of them must be drafted alone: it has tools, or the template refuses it."""
    if any(record.tools for record in records):
        return None
    places = [_assistant(record) for record in records]
    fulls: list[Sequence[Message]] = []
    befores: list[Sequence[Message]] = []
    for record, assistant in zip(records, places, strict=True):
        fulls += [record.messages[: i + 1] for i in assistant]
        befores += [record.messages[:i] for i in assistant]
    where = [record.where for record, assistant in zip(records, places, strict=True) for _ in assistant]
    through = apply_template_many(tokenizer, fulls, where, generation=False)
    before = apply_template_many(tokenizer, befores, where, generation=True)
    if through is None or before is None:
        return None
    out, at = [], 0
    for record, assistant in zip(records, places, strict=True):
        own = slice(at, at + len(assistant))
        at += len(assistant)
        out.append(Draft(record, assistant, through[at - 1], tuple(before[own]), tuple(through[own])))
    return out


def _assistant(record: Conversation) -> tuple[int, ...]:
    return tuple(i for i, message in enumerate(record.messages) if message.role == "assistant")


def prompt_tokens(before: str, ids: Sequence[int], tokenizer: Any, record: Conversation) -> int | None:
    """How many of a whole text's ``ids`` are those of ``before``, which begins it; None where they are others.

    A tokenizer cuts a text at its control tokens before anything else, so up to the last one in ``before`` both texts
    have the same tokens; what stands behind it is the same few letters in every row, and is encoded once.
    """
    form = chat_format(tokenizer)
    controls = [] if SPELLED in before else list(form.spelled.finditer(before))
    if not controls:
        prompt = encode(before, tokenizer, record.where)
        return len(prompt) if list(ids[: len(prompt)]) == prompt else None
    last = controls[-1]
    key = (last[0], before[last.end() :])
    if key not in form.tails:
        form.tails[key] = encode("".join(key), tokenizer, record.where)
    tail = form.tails[key]
    at = _place_of(ids, form.control_set, len(controls))
    if at is None or list(ids[at : at + len(tail)]) != tail:
        return None
    return at + len(tail)


def _place_of(ids: Sequence[int], wanted: frozenset[int], count: int) -> int | None:
    """Where the ``count``-th of the wanted ids stands."""
    for place, token in enumerate(ids):
        if token in wanted:
            count -= 1
            if count == 0:
                return place
    return None
