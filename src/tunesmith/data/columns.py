"""data.columns: our names for a file's columns, and the file's own names back in what an error says."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from tunesmith.data.check import RowError, shown
from tunesmith.data.shape import Shape, drop_aliases, unused_fields
from tunesmith.errors import DataError


def check_mapping(columns: Mapping[str, str], seen: set[str], path: str) -> None:
    """Raise DataError for a mapped column that no row has."""
    for ours, theirs in columns.items():
        if theirs not in seen:
            near = difflib.get_close_matches(theirs, seen, n=1)
            listed = ", ".join(map(shown, sorted(seen)))
            hint = f"Did you mean '{shown(near[0])}'?" if near else f"The columns are {listed}."
            raise DataError(path, f"data.columns maps '{ours}' to '{theirs}', which no row has.", hint)


def renamed_columns(row: Mapping[str, Any], columns: Mapping[str, str], shape: Shape | None) -> dict[str, Any]:
    """Apply data.columns: a mapped column takes our name; what stood under that name or an alias is left out."""
    if not columns:
        return dict(row)
    taken = set(columns.values())
    out = {name: value for name, value in row.items() if name not in taken and name not in columns}
    for ours, theirs in columns.items():
        if theirs in row:
            out[ours] = row[theirs]
    if shape is not None:
        for ours in columns:
            out = drop_aliases(out, ours, shape)
    return out


def ignored_columns(
    row: Mapping[str, Any], renamed: Mapping[str, Any], columns: Mapping[str, str], shape: Shape
) -> set[str]:
    """What a row holds beyond its record, in the file's own names."""
    unused = unused_fields(renamed, shape)
    used = {columns.get(name, name) for name in renamed if name not in unused}
    turn_keys = set()
    for name in unused:
        if "[]." in name:
            column, _, key = name.partition("[].")
            turn_keys.add(f"{columns.get(column, column)}[].{key}")
    return {name for name in row if name not in used} | turn_keys


def in_their_words(error: RowError, columns: Mapping[str, str]) -> RowError:
    """The same fault with the column called as in the file."""
    fault = error.fault
    if fault.where.field is None or not columns:
        return error
    for ours, theirs in columns.items():
        rest = fault.where.field.removeprefix(ours)
        if len(rest) < len(fault.where.field) and rest[:1] in ("", "[", "."):
            return RowError(fault.where.at(shown(theirs) + rest), fault.cause, fault.fix, detail=fault.detail)
    return error
