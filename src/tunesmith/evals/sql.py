"""SQL answers by what they return: both queries run on the item's own tables in an in-memory SQLite.

A query can read and nothing else: an authorizer refuses every other action, and time, rows and sizes have limits.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import DataError
from tunesmith.evals.task import Item, Reply, Scorer
from tunesmith.records import Verdict

_READING = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, getattr(sqlite3, "SQLITE_RECURSIVE", 33)}
)
_INSTRUCTIONS_BETWEEN_LOOKS = 1000
# One call of instr() on two long texts is one instruction, within which nobody looks at the clock: 1 MB took 75 s.
_MAX_VALUE_BYTES = 100_000
_MAX_RESULT_BYTES = 10_000_000
# Strings, quoted names and comments, in which words are no keywords and brackets are none.
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryLimits:
    """How much one query may take: seconds of running, and rows of result."""

    seconds: float = 2.0
    max_rows: int = 10_000


class QueryError(Exception):
    """A query that fails, tries to write or goes beyond a limit; its text is SQLite's reason."""


def sql_execution(limits: QueryLimits = QueryLimits()) -> Scorer:
    """Run a reply's query and the item's target on the item's tables, and compare what they return.

    metadata: ``schema`` (statements that make the tables) and ``rows`` (table -> rows of values). The reply's query is
    its first ```sql block, else the whole text. Equal: the same rows the same number of times, column by column
    whatever the columns are called, real numbers to 9 digits; in the same order only where the target's outermost
    query has an ORDER BY. Values (0 or 1): executes, execution. Raises DataError for tables that cannot be made and
    for a target that cannot be run.
    """

    def score(item: Item, reply: Reply) -> Verdict:
        with_tables = _tables_of(item)
        try:
            try:
                expected = run_query(with_tables, item.target, limits)
            except QueryError as error:
                raise DataError(f"item {item.id}", f"the target query fails: {error}.", "Correct it.") from None
            try:
                got = run_query(with_tables, extract_query(reply.text), limits)
            except QueryError as error:
                return Verdict(values={"executes": 0.0, "execution": 0.0}, explanation=str(error))
        finally:
            with_tables.close()
        right = same_rows(got, expected, ordered=is_ordered(item.target))
        explanation = "" if right else f"{_shown(got)} instead of {_shown(expected)}"
        return Verdict(values={"executes": 1.0, "execution": float(right)}, explanation=explanation)

    return score


def extract_query(text: str) -> str:
    """The first fenced block of a reply, else all of it."""
    fenced = re.search(r"```[^\S\n]*(?:sqlite|sql)?[^\S\n]*\n?(.*?)```", text, re.DOTALL | re.IGNORECASE)
    return (fenced.group(1) if fenced else text).strip()


def is_ordered(query: str) -> bool:
    """Whether a query's outermost level has an ORDER BY."""
    depth, bare = 0, _QUOTED.sub(" ", query)
    for word in re.finditer(r"\(|\)|\border\s+by\b", bare, re.IGNORECASE):
        if word.group() in "()":
            depth += 1 if word.group() == "(" else -1
        elif depth == 0:
            return True
    return False


def same_rows(first: Sequence[Sequence[Any]], second: Sequence[Sequence[Any]], *, ordered: bool) -> bool:
    """Whether two results are one: as lists, or as bags of rows. 3 and 3.0 are equal, 3 and '3' are not."""
    one, two = [_comparable(row) for row in first], [_comparable(row) for row in second]
    return one == two if ordered else Counter(one) == Counter(two)


def _comparable(row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(float(f"{value:.9g}") if isinstance(value, float) else value for value in row)


def run_query(connection: sqlite3.Connection, query: str, limits: QueryLimits) -> list[tuple[Any, ...]]:
    """The rows of one reading query. Raises QueryError."""
    end = time.monotonic() + limits.seconds
    connection.set_progress_handler(lambda: time.monotonic() > end, _INSTRUCTIONS_BETWEEN_LOOKS)
    connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY)
    try:
        cursor = connection.execute(query)
        rows, num_bytes = [], 0
        for row in cursor:
            rows.append(row)
            num_bytes += sum(len(value) for value in row if isinstance(value, str | bytes))
            if len(rows) > limits.max_rows or num_bytes > _MAX_RESULT_BYTES:
                break
    # OverflowError, UnicodeError and ValueError: texts that are no SQL at all, such as one with a null character.
    except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError, ValueError) as error:
        late = time.monotonic() > end
        raise QueryError(f"took longer than {limits.seconds} s" if late else str(error)) from None
    finally:
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)
    if cursor.description is None:
        raise QueryError("it is no query")
    if len(rows) > limits.max_rows:
        raise QueryError(f"returns more than {limits.max_rows} rows")
    if num_bytes > _MAX_RESULT_BYTES:
        raise QueryError(f"returns more than {_MAX_RESULT_BYTES} bytes")
    if time.monotonic() > end:
        raise QueryError(f"took longer than {limits.seconds} s")
    return rows


def _tables_of(item: Item) -> sqlite3.Connection:
    schema, rows = item.metadata.get("schema"), item.metadata.get("rows", {})
    if not isinstance(schema, str) or not isinstance(rows, Mapping):
        raise DataError(f"item {item.id}", "no schema, or rows that are no table -> rows.", "Give metadata.schema.")
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    try:
        connection.executescript(schema)
        for table, values in rows.items():
            name = '"' + str(table).replace('"', '""') + '"'
            for row in values:
                # Of a mapping the names would be inserted, of a text its letters.
                if not isinstance(row, list | tuple):
                    raise TypeError(f"a row of {table} is no list of values")
                connection.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", tuple(row))
    except (sqlite3.Error, sqlite3.Warning, OverflowError, TypeError) as error:
        connection.close()
        raise DataError(f"item {item.id}", f"its tables cannot be made: {error}.", "Correct schema or rows.") from None
    return connection


def _shown(rows: Sequence[Sequence[Any]]) -> str:
    return f"{len(rows)} rows {str(list(rows[:3]))[:200]}"
