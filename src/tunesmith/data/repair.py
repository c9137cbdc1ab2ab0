"""Rows that pass into one file, those that do not into another; and rows without what tells of persons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunesmith.data.check import Fault, RowError
from tunesmith.data.duplicates import Checked
from tunesmith.data.pii import Placeholders
from tunesmith.data.read import Rows
from tunesmith.data.survey import NameFinder, pii_of, read_content, records_of
from tunesmith.data.verbatim import check_target, json_line, open_writer, place_of, raw_text, suffix_of, whole_file
from tunesmith.errors import DataError

# Why a row is rejected that the shape accepts: a copy, or one the model cannot take. None: it passes.
Objection = Callable[[int], Fault | None]


def rejected_path(path: Path) -> Path:
    """Where the rows that do not pass are written."""
    return path.with_name(f"{path.name}.rejected.jsonl")


def write_passing(source: Checked, path: Path, object_to: Objection) -> tuple[int, int]:
    """Write every row to exactly one of two files, byte for byte to ``path`` if it passes; returns both counts.

    A rejected row is a line of JSON with its place, cause, fix and the row as it stood. Raises DataError where a file
    must not be written or no row passes.
    """
    rows, passed, rejected = source.rows, 0, 0
    check_target(path, rows.path, suffix_of(rows))
    bad = set(source.survey.bad_row_ids)
    with open_writer(rows, path) as good, whole_file(rejected_path(path)) as stream:
        for row_id in range(len(rows)):
            fault = _fault_of(source, row_id) if row_id in bad else object_to(row_id)
            if fault is None:
                good.write(row_id)
                passed += 1
                continue
            reason = {"cause": fault.cause, "detail": fault.detail, "fix": fault.fix}
            stream.write(json_line({"place": str(fault.where), **reason, "row": raw_text(rows, row_id)}))
            rejected += 1
        if not passed:
            raise DataError(rows.path, "no row passes, so nothing was written.", "Correct the rows.")
    return passed, rejected


def _fault_of(source: Checked, row_id: int) -> Fault:
    try:
        row, where = source.rows[row_id]
        read_content(source.plan, records_of(source.plan, source.rows), row, where, row_id)
    except RowError as error:
        return error.fault
    raise DataError(place_of(source.rows, row_id), "changed while it was being read.", "Check it again.")


def write_redacted(rows: Rows, path: Path, find_names: NameFinder | None = None) -> dict[str, int]:
    """Write all rows as JSON lines with placeholders for personal data; returns the number of values by kind.

    One value has one placeholder in the whole file, whoever says it. Raises DataError where a row cannot be read,
    since what is in it would be lost or stay.
    """
    check_target(path, rows.path, ".jsonl")
    placeholders = Placeholders()
    for row_id in range(len(rows)):
        placeholders.reserve(raw_text(rows, row_id))
    with whole_file(path) as stream:
        for row_id in range(len(rows)):
            try:
                row, _ = rows[row_id]
            except RowError as error:
                fix = "Leave the faulty rows out first: tunesmith data check FILE --fix OUT."
                raise DataError(error.fault.place, error.fault.cause, fix) from None
            stream.write(json_line(_redacted(row, "", placeholders, find_names)))
    return placeholders.counts()


def _redacted(value: Any, name: str, placeholders: Placeholders, find_names: NameFinder | None) -> Any:
    if isinstance(value, Mapping):
        prefix = f"{name}." if name else ""
        return {key: _redacted(item, f"{prefix}{key}", placeholders, find_names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item, f"{name}[{i}]", placeholders, find_names) for i, item in enumerate(value)]
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        found = pii_of(name, value, find_names)
        return placeholders.redact(str(value), found) if found else value
    return value
