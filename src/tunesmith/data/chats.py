"""Chat exports: one message a row with speaker, time and thread -> conversations, one side being the assistant."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from tunesmith.data.check import FaultLog, RowError, shown
from tunesmith.data.convertible import EXPORT_COLUMNS
from tunesmith.data.parse import json_type
from tunesmith.data.read import Rows
from tunesmith.data.shape import filled_text
from tunesmith.errors import DataError
from tunesmith.records import Conversation, Message, Where

# Unix time in seconds stays below this until the year 5138; in milliseconds it is above it since 1973.
_MOST_SECONDS = 1e11


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """How an export is read: the assistant's names, the columns, the format of the times, what joins two messages."""

    assistants: tuple[str, ...]
    columns: Mapping[str, str]
    time_format: str | None = None
    separator: str = "\n"


@dataclass(slots=True)
class ChatIndex:
    """The messages of an export by thread; a message is its row number, its texts stay in the file."""

    threads: list[str] = field(default_factory=list)
    """Names of the threads in the order of their first rows."""
    order: list[np.ndarray[Any, np.dtype[np.int64]]] = field(default_factory=list)
    """For each thread its rows (M,) by time, rows of one time in the file's order."""
    speakers: set[str] = field(default_factory=set)


def find_export_columns(names: set[str], columns: Mapping[str, str], place: str) -> dict[str, str]:
    """Our column -> the file's, from the options and the names programs give. Raises DataError for a missing one."""
    found = {}
    for ours, aliases in EXPORT_COLUMNS.items():
        stated = columns.get(ours)
        fitting = [name for name in aliases if name in names and name not in columns.values()]
        if stated is not None and stated not in names:
            listed = ", ".join(map(shown, sorted(names)))
            raise DataError(place, f"there is no column '{shown(stated)}'.", f"The columns are {listed}.")
        if stated is None and len(fitting) != 1:
            held = f"several columns may be the {ours}: {', '.join(fitting)}" if fitting else f"no column is the {ours}"
            listed = ", ".join(map(shown, sorted(names)))
            raise DataError(place, f"{held}; the columns are {listed}.", f"Name it with --{ours} COLUMN.")
        found[ours] = stated or fitting[0]
    return found


def index_chats(rows: Rows, options: ChatOptions, faults: FaultLog) -> ChatIndex:
    """One pass over an export: threads, times and speakers; a row that cannot be read goes into ``faults``."""
    index, codes = ChatIndex(), dict[str, int]()
    thread_of, time_of, row_of = array("q"), array("d"), array("q")
    has_zone: bool | None = None
    for row_id in range(len(rows)):
        try:
            row, where = rows[row_id]
            # Noted at once: a faulty time must not make the assistant look absent.
            index.speakers.add(_cell(row, "speaker", options, where))
            thread = _cell(row, "thread", options, where)
            filled_text(_value(row, "text", options, where), where.at(shown(options.columns["text"])))
            seconds, zone = _time(_value(row, "time", options, where), options, where)
            has_zone = zone if has_zone is None else has_zone
            if zone != has_zone:
                fix = "Write every time with its zone, or none."
                raise RowError(_at(where, "time", options), "some times name a zone and others none.", fix)
        except RowError as error:
            faults.add(error.fault)
            continue
        if thread not in codes:
            codes[thread] = len(codes)
            index.threads.append(thread)
        thread_of.append(codes[thread])
        time_of.append(seconds)
        row_of.append(row_id)
    if row_of:
        threads, times, row_ids = (np.frombuffer(a, a.typecode) for a in (thread_of, time_of, row_of))
        order = np.lexsort((row_ids, times, threads))
        cuts = np.flatnonzero(np.diff(threads[order])) + 1
        index.order = np.split(row_ids[order].astype(np.int64), cuts)
    _check_assistants(index, options, rows.path)
    return index


def _check_assistants(index: ChatIndex, options: ChatOptions, place: str) -> None:
    listed = ", ".join(f"'{shown(name)}'" for name in sorted(index.speakers)[:12])
    more = f" and {len(index.speakers) - 12} more" if len(index.speakers) > 12 else ""
    if not options.assistants:
        fix = f"Name it with --assistant NAME; the speakers are {listed}{more}."
        raise DataError(place, "which side is the assistant is not said.", fix)
    for name in options.assistants:
        if index.speakers and name not in index.speakers:
            fix = f"The speakers are {listed}{more}."
            raise DataError(place, f"no message is by '{shown(name)}'.", fix)


def read_threads(
    rows: Rows, index: ChatIndex, options: ChatOptions, left_out: dict[str, int]
) -> Iterator[Conversation]:
    """One conversation a thread; what none holds is counted in ``left_out`` by cause.

    Neighbouring messages of one side become one turn. What the assistant says before the first user, and the user
    after the last answer, cannot be trained on and is left out.
    """

    def count(cause: str, number: int) -> None:
        if number:
            left_out[cause] = left_out.get(cause, 0) + number

    for name, order in zip(index.threads, index.order, strict=True):
        messages, where = _thread_messages(rows, order, options)
        users = [i for i, message in enumerate(messages) if message.role == "user"]
        answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
        if not answers:
            count("thread without the assistant", 1)
        elif not users:
            count("thread without a user", 1)
        elif answers[-1] < users[0]:
            count("thread without an answer to the user", 1)
        else:
            first, last = users[0], answers[-1]
            count("message of the assistant before the first user's", first)
            count("message of the user after the last answer", len(messages) - 1 - last)
            turns = _joined(messages[first : last + 1], options.separator)
            yield Conversation(messages=tuple(turns), row_id=int(order[0]), where=where.at(f"thread {shown(name)}"))


def _thread_messages(
    rows: Rows, order: np.ndarray[Any, np.dtype[np.int64]], options: ChatOptions
) -> tuple[list[Message], Where]:
    messages, first = [], Where(rows.path)
    for i, row_id in enumerate(order):
        row, where = rows[int(row_id)]
        first = where if i == 0 else first
        is_assistant = _cell(row, "speaker", options, where) in options.assistants
        text = filled_text(_value(row, "text", options, where), where)
        messages.append(Message(role="assistant" if is_assistant else "user", content=text))
    return messages, first


def _joined(messages: list[Message], separator: str) -> list[Message]:
    out: list[Message] = []
    for message in messages:
        if out and out[-1].role == message.role:
            out[-1] = Message(role=message.role, content=f"{out[-1].content}{separator}{message.content}")
        else:
            out.append(message)
    return out


def _at(where: Where, ours: str, options: ChatOptions) -> Where:
    return where.at(shown(options.columns[ours]))


def _value(row: Mapping[str, Any], ours: str, options: ChatOptions, where: Where) -> Any:
    name = options.columns[ours]
    if name not in row:
        raise RowError(_at(where, ours, options), "the column is missing.", f"Add it, or name it with --{ours}.")
    return row[name]


def _cell(row: Mapping[str, Any], ours: str, options: ChatOptions, where: Where) -> str:
    """A name or a number that stands for one."""
    value = _value(row, ours, options, where)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        detail = f"it is {json_type(value)}"
        raise RowError(
            _at(where, ours, options), f"the {ours} must be a name or a number.", "Fill it in.", detail=detail
        )
    if not str(value).strip():
        raise RowError(_at(where, ours, options), f"the {ours} is empty.", "Fill it in, or remove the row.")
    return str(value).strip()


def _time(value: Any, options: ChatOptions, where: Where) -> tuple[float, bool]:
    """Seconds since 1970 and whether a zone was named; without one, times are compared as they are written."""
    place = _at(where, "time", options)
    fix = "Write it as 2024-05-31 14:05:00 or in Unix seconds, or say how with --time-format '%d/%m/%Y %H:%M'."
    if isinstance(value, datetime):
        stamp = value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return _unix_seconds(value, place, fix)
    elif not isinstance(value, str):
        raise RowError(place, "the time cannot be read.", fix, detail=f"it is {json_type(value)}")
    elif options.time_format is None and value.strip().removeprefix("-").replace(".", "", 1).isdecimal():
        return _unix_seconds(float(value), place, fix)
    else:
        text = value.strip()
        try:
            stamp = (
                datetime.fromisoformat(text)
                if options.time_format is None
                else datetime.strptime(text, options.time_format)
            )
        except ValueError:
            raise RowError(place, "the time cannot be read.", fix, detail=f"'{shown(text)}'") from None
    zone = stamp.tzinfo is not None
    return (stamp if zone else stamp.replace(tzinfo=UTC)).timestamp(), zone


def _unix_seconds(number: int | float, place: Where, fix: str) -> tuple[float, bool]:
    # Not as a float yet: a whole number may be too large for one. A NaN fails both comparisons.
    if abs(number) <= _MOST_SECONDS:
        return float(number), True
    if abs(number) <= 1000 * _MOST_SECONDS:
        return number / 1000, True
    raise RowError(place, "the time cannot be read.", fix, detail=shown(str(number)))
