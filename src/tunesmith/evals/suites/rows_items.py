"""One's own rows as items: a question with choices, a chat, a pair of answers, a text, or columns and a prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.data.check import RowError, shown
from tunesmith.data.feedback import FeedbackRow, read_feedback
from tunesmith.data.parse import json_type
from tunesmith.data.shape import detect_shape, filled_text, to_record
from tunesmith.data.templates import Template, with_options
from tunesmith.errors import DataError
from tunesmith.evals.task import Item
from tunesmith.records import Conversation, Message, Preference, Where

PlacedRow = tuple[Mapping[str, Any], Where]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How rows become items.

    template: prompt and target made of a row's columns; without one the columns tell. choices: those of every row, or
    the column that holds a row's own. id, group: columns.
    """

    template: Template | None = None
    choices: tuple[str, ...] | str | None = None
    id: str | None = None
    group: str | None = None


def read_items(name: str, rows: Sequence[PlacedRow], reading: Reading) -> list[Item]:
    """An item a row, in order; its id is the row's own, else a digest of what is asked.

    Raises DataError naming file:line:field for the first faulty row, such as one without gold, and saying how many
    there are; for rows of one id, naming both.
    """
    items, faults = list[Item](), list[RowError]()
    places: dict[str, Where] = {}
    for row, where in rows:
        try:
            item = _item(name, row, where, reading)
            if item.id in places:
                what = f"has the id '{shown(item.id)}'" if reading.id else "asks the same"
                fix = "Remove one, or give each row its own id in a column and name it with id."
                raise RowError(where, f"the row {what} as {places[item.id]}.", fix)
        except RowError as error:
            faults.append(error)
            continue
        places[item.id] = where
        items.append(item)
    if faults:
        first = faults[0].fault
        more = f" {len(faults) - 1} more of {len(rows)} rows are faulty." if len(faults) > 1 else ""
        raise RowError(first.where, f"{first.cause}{more}", first.fix, detail=first.detail)
    if not items:
        raise DataError(name, "there is no row to measure on.", "Give the suite rows.")
    return items


def _item(name: str, row: Mapping[str, Any], where: Where, reading: Reading) -> Item:
    messages, target, choices = _question(row, where, reading)
    said = "\x1f".join(message.content for message in messages) or target
    own = _column(row, reading.id, where) if reading.id else f"{name}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"
    group = _column(row, reading.group, where) if reading.group else None
    # The scorers that need more than a target, such as references or a database, find the row's other columns here.
    return Item(id=own, messages=messages, target=target, choices=choices, group=group, metadata=dict(row))


def _question(
    row: Mapping[str, Any], where: Where, reading: Reading
) -> tuple[tuple[Message, ...], str, tuple[str, ...]]:
    choices = _choices(row, where, reading.choices)
    if reading.template is not None:
        fields = with_options(row, list(choices) or None, where)
        filled = reading.template.fill(fields, where)
        target = _gold(filled.target, choices, where) if choices else filled.target
        return (Message(role="user", content=filled.input),), target, choices
    if "question" in row and "answer" in row:
        asked = (Message(role="user", content=filled_text(row["question"], where.at("question"))),)
        place = where.at("answer")
        if choices:
            return asked, _gold(row["answer"], choices, place), choices
        return asked, filled_text(_as_text(row["answer"]), place), ()
    if "chosen" in row and "rejected" in row:
        return _pair(row, where)
    record = to_record(row, detect_shape(row, where), where, 0)
    if not isinstance(record, Conversation):
        return (), record.text, ()
    *asked_before, answer = record.messages
    target = _gold(answer.content, choices, where) if choices else answer.content
    return tuple(asked_before), target, choices


def _pair(row: Mapping[str, Any], where: Where) -> tuple[tuple[Message, ...], str, tuple[str, ...]]:
    """Two answers, the first liked better: does the model find it likelier too?"""
    pair = read_feedback(FeedbackRow(row, where, 0, {}, False, set()), "preference")
    assert isinstance(pair, Preference)
    if len(pair.chosen) != 1 or len(pair.rejected) != 1:
        raise RowError(where, "an answer goes on over several turns.", "Keep pairs whose answers are one turn.")
    choices = (pair.chosen[0].content, pair.rejected[0].content)
    return pair.prompt, choices[0], choices


def _choices(row: Mapping[str, Any], where: Where, choices: tuple[str, ...] | str | None) -> tuple[str, ...]:
    if isinstance(choices, tuple):
        return choices
    name = choices or "choices"
    if choices is None and name not in row:
        return ()
    values = row.get(name)
    texts = [_as_text(value) for value in values] if isinstance(values, list) else []
    fine = len(texts) > 1 and all(isinstance(text, str) and text.strip() for text in texts)
    if not fine or len({str(text).strip() for text in texts}) < len(texts):
        fix = 'Write for example ["yes", "no"].'
        detail = f"it is {json_type(values)}" if name in row else "it is missing"
        raise RowError(where.at(shown(name)), "a list of two or more different texts is expected.", fix, detail=detail)
    return tuple(str(text) for text in texts)


def _gold(answer: Any, choices: tuple[str, ...], where: Where) -> str:
    """The right choice: named by its text, else by its place from 0, else by its letter from A, (A) and A. too."""
    text = _as_text(answer)
    if isinstance(text, str) and text in choices:
        return text
    place = answer if isinstance(answer, int) and not isinstance(answer, bool) else None
    letter = text.strip().strip("().") if isinstance(text, str) else ""
    if place is None and len(letter) == 1 and "A" <= letter <= "Z":
        place = ord(letter) - ord("A")
    if place is None or not 0 <= place < len(choices):
        listed = ", ".join(shown(choice, most=30) for choice in choices[:6])
        said = f"'{shown(text)}'" if isinstance(text, str) else f"of type {json_type(answer)}"
        raise RowError(where, "the answer is none of the choices.", f"Write one of: {listed}.", detail=f"it is {said}")
    return choices[place]


def _as_text(value: Any) -> Any:
    """Numbers as they are written; everything else as it is."""
    return f"{value}" if isinstance(value, int | float) and not isinstance(value, bool) else value


def _column(row: Mapping[str, Any], name: str, where: Where) -> str:
    return str(filled_text(_as_text(row.get(name)), where.at(shown(name))))
