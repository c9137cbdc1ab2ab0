"""The plain text inside any rows: what a tokenizer is trained on, measured on and extended for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tunesmith.data.check import FaultLog, RowError
from tunesmith.data.read import open_rows
from tunesmith.errors import DataError
from tunesmith.records import Where


def iter_texts(files: Sequence[str], fields: Sequence[str] = ()) -> Iterator[tuple[str, Where]]:
    """Every string in the rows of the files, one at a time, with its place; lists and groups are looked into.

    fields: only what stands under these top-level columns; empty: all. Raises DataError with all unreadable rows of a
    file in one table, and where a named column is in no row.
    """
    missing = set(fields)
    for file in files:
        rows, faults = open_rows(file), FaultLog()
        for index in range(len(rows)):
            try:
                row, where = rows[index]
            except RowError as error:
                faults.add(error.fault)
                continue
            missing -= set(row)
            for name, value in row.items():
                if not fields or name in fields:
                    yield from _strings(value, where.at(name))
        faults.raise_if_any(file, len(rows))
    if missing:
        raise DataError(", ".join(files), f"no row has the column '{sorted(missing)[0]}'.", "Check --field.")


def _strings(value: Any, where: Where) -> Iterator[tuple[str, Where]]:
    if isinstance(value, str):
        if value.strip():
            yield value, where
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner, where)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner, where)
