"""Files of prompts: what a model is to answer, without an answer; rows of every shape we know give theirs."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, overload

from tunesmith.data.check import PLACES_SHOWN, FaultLog, RowError
from tunesmith.data.columns import check_mapping
from tunesmith.data.feedback import FeedbackRow, read_feedback, read_prompt
from tunesmith.data.pairs import prompt_key
from tunesmith.data.parse import clean_row, decode_utf8, skip_bom
from tunesmith.data.read import Rows, open_rows
from tunesmith.data.shape import check_turns, filled_text, read_turns
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Message, Role, Where

_SHAREGPT_ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant", "system": "system", "user": "user"}
# Where a row's prompt stands, and what else is read with it; the first line a row has a column of decides.
_SOURCES: dict[str, tuple[str, ...]] = {
    "messages": (),
    "conversations": ("system",),
    "prompt": ("system",),
    "instruction": ("system", "input", "context"),
    "input": ("system",),
    "chosen": ("rejected",),
}
PROMPT_COLUMNS = (*dict.fromkeys([*_SOURCES, *(name for extra in _SOURCES.values() for name in extra)]),)
_ANSWER = Message(role="assistant", content="-")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow:
    """Turns that end with the user's, and the row they come from, by its 0-based number in the source."""

    messages: tuple[Message, ...]
    row_id: int
    where: Where


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPrompts(Sequence[PromptRow]):
    """The different prompts of a source, in its order. ``num_rows`` = prompts + ``num_copies`` + ``rows_dropped``."""

    prompts: tuple[PromptRow, ...]
    num_rows: int
    num_copies: int = 0
    """Rows left out because an earlier one says the same."""
    copies: tuple[tuple[str, str], ...] = ()
    """(place, earlier place) of the first few of them."""
    rows_dropped: Mapping[str, int] = field(default_factory=dict)
    """Cause -> faulty rows left out; empty unless on_bad_row is drop."""
    digest: str = ""
    """SHA-256 of the source, in hexadecimal."""

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, i: int) -> PromptRow: ...

    @overload
    def __getitem__(self, i: slice) -> tuple[PromptRow, ...]: ...

    def __getitem__(self, i: int | slice) -> PromptRow | tuple[PromptRow, ...]:
        return self.prompts[i]

    def notes(self) -> list[str]:
        """What was left out, a line each; empty where nothing was."""
        lines = [f"{number} rows left out: {cause}" for cause, number in self.rows_dropped.items()]
        if self.num_copies:
            at, earlier = self.copies[0]
            lines.insert(
                0, f"{self.num_copies} prompts repeat an earlier one and are used once (first: {at}, {earlier})."
            )
        return lines


def load_prompts(
    source: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    limit: int | None = None,
    on_bad_row: Literal["error", "drop"] = "error",
) -> LoadedPrompts:
    """The prompts of a file, a folder's train file or a hub data set.

    A row's prompt is its ``messages`` or ShareGPT ``conversations`` without the last answer, its ``prompt`` (text,
    turns or an open HH dialogue), its ``instruction`` with ``input``, its ``input`` alone, or the turns that a
    ``chosen`` and a ``rejected`` dialogue share; a .txt file holds one a line. ``columns`` maps our names to the
    file's, ``limit`` keeps the first rows. Raises ConfigError for an unknown column name, DataError with all faults in
    one table unless they are dropped.
    """
    columns = dict(columns or {})
    _check_names(columns)
    rows: Rows = _open(str(source), limit)
    faults, seen, first = FaultLog(), set[str](), dict[bytes, PromptRow]()
    copies, num_copies = list[tuple[str, str]](), 0
    for row_id in range(len(rows)):
        try:
            row, where = rows[row_id]
            seen.update(row)
            prompt = read_row_prompt(FeedbackRow(row, where, row_id, columns, False, set()))
        except RowError as error:
            faults.add(error.fault)
            continue
        earlier = first.setdefault(prompt_key(prompt.messages), prompt)
        if earlier is not prompt:
            num_copies += 1
            if len(copies) < PLACES_SHOWN:
                copies.append((str(prompt.where), str(earlier.where)))
    if seen:
        check_mapping(columns, seen, rows.path)
    if on_bad_row == "error":
        faults.raise_if_any(rows.path, len(rows))
    if not first:
        raise DataError(rows.path, f"all {len(rows)} rows are faulty.\n{faults.table()}\n", "Correct the rows.")
    return LoadedPrompts(
        prompts=tuple(first.values()),
        num_rows=len(rows),
        num_copies=num_copies,
        copies=tuple(copies),
        rows_dropped=faults.by_cause(),
        digest=rows.digest(),
    )


def with_system(row: PromptRow, system: str | None) -> PromptRow:
    """The row with a system message before its turns, where it has none and one is given."""
    if system is None or row.messages[0].role == "system":
        return row
    return replace(row, messages=(Message(role="system", content=system), *row.messages))


def read_row_prompt(row: FeedbackRow) -> PromptRow:
    """The prompt of one row. Raises RowError naming file:line:field where it has none, or more than one."""
    present = [name for name in _SOURCES if row.has(name)]
    whole = [name for name in ("messages", "conversations") if name in present]
    if len(present) > 1 and whole:
        fix = f"Choose with the column map, for example {whole[0]}={row.theirs(whole[0])}, or remove one."
        mapped = [name for name in present if name in row.columns]
        if len(mapped) != 1:
            raise RowError(row.at(present[1]), f"'{present[0]}' and '{present[1]}' both hold a prompt.", fix)
        present = mapped
    if not present:
        fix = f"Add a column 'prompt', or map one; the columns that hold prompts are {', '.join(_SOURCES)}."
        raise RowError(row.where, "the row has no prompt.", fix)
    messages = _READERS[present[0]](row)
    messages = [replace(turn, train=False) if turn.role == "assistant" else turn for turn in messages]
    if messages[-1].role != "user":
        fix = "End it with what the user says."
        raise RowError(row.at(present[0]), f"the prompt ends with the {messages[-1].role}'s turn.", fix)
    check_turns([*messages, _ANSWER], row.at(present[0]))
    return PromptRow(messages=tuple(messages), row_id=row.row_id, where=row.where)


def _from_turns(row: FeedbackRow) -> list[Message]:
    """A whole conversation: the last answer is what is to be written anew."""
    place = row.at("messages")
    name = place.field or ""
    return _before_answer(read_turns({name: row.get("messages")}, name, row.where), place)


def _from_sharegpt(row: FeedbackRow) -> list[Message]:
    place, system = row.at("conversations"), list[Message]()
    name = place.field or ""
    if row.has("system") and row.get("system") != "":
        system = [Message(role="system", content=filled_text(row.get("system"), row.at("system")))]
    turns = read_turns({name: row.get("conversations")}, name, row.where, ("from", "value"), _SHAREGPT_ROLES)
    return [*system, *_before_answer(turns, place)]


def _before_answer(turns: list[Message], place: Where) -> list[Message]:
    kept = turns[:-1] if turns[-1].role == "assistant" else turns
    if not kept:
        raise RowError(place, "there is nothing before the answer.", "Add what the user says, or remove the row.")
    return kept


def _from_input(row: FeedbackRow) -> list[Message]:
    return read_prompt(replace(row, columns={**row.columns, "prompt": row.theirs("input")}))


def _from_pair(row: FeedbackRow) -> list[Message]:
    return list(read_feedback(row, "preference").prompt)


_READERS = {
    "messages": _from_turns,
    "conversations": _from_sharegpt,
    "prompt": read_prompt,
    "instruction": read_prompt,
    "input": _from_input,
    "chosen": _from_pair,
}


class _Lines:
    """A text file with one prompt a line; blank lines are skipped, and counted as lines."""

    def __init__(self, path: Path, limit: int | None) -> None:
        self.path = str(path)
        data = path.read_bytes()
        self._digest = hashlib.sha256(data).hexdigest()
        self._lines = [one for one in _numbered_lines(data, self.path) if one[2].strip()][:limit]

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Where]:
        number, offset, line = self._lines[index]
        where = Where(self.path, number)
        return clean_row({"prompt": decode_utf8(line, where, offset).strip()}, where), where

    def digest(self) -> str:
        """SHA-256 of the file's bytes as they were read."""
        return self._digest


def _numbered_lines(data: bytes, path: str) -> Iterator[tuple[int, int, bytes]]:
    """(line from 1, offset in bytes, line) of every line."""
    offset = skip_bom(data[:4], path)
    for number, line in enumerate(data[offset:].split(b"\n"), 1):
        yield number, offset, line
        offset += len(line) + 1


def _open(source: str, limit: int | None) -> Rows:
    """Rows of a source; a text file's are its lines, not its documents. Raises DataError."""
    rows = open_rows(source, limit=limit)
    return _Lines(Path(rows.path), limit) if Path(rows.path).suffix.lower() == ".txt" else rows


def _check_names(columns: Mapping[str, str]) -> None:
    for ours in columns:
        if ours not in PROMPT_COLUMNS:
            near = difflib.get_close_matches(ours, PROMPT_COLUMNS, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known are {', '.join(PROMPT_COLUMNS)}."
            raise ConfigError("columns", f"'{ours}' is no column that holds a part of a prompt.", hint)
