"""Faulty rows are collected over whole files and shown as one plain-text table by cause.

A fault's cause is worded the same for every row it strikes, so that rows can be counted by it; what differs from row
to row (a byte, a role, a column number) is its detail.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tunesmith.errors import DataError
from tunesmith.records import Where

PLACES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one row: the place, the cause, the fix, and the detail that is this row's alone."""

    where: Where
    cause: str
    fix: str
    detail: str = ""

    @property
    def place(self) -> str:
        """``file:line:field`` with the detail behind it."""
        return f"{self.where} ({self.detail})" if self.detail else str(self.where)


class RowError(DataError):
    """One row that cannot be read or trained on; the rows around it may be fine."""

    def __init__(self, where: Where, cause: str, fix: str, *, detail: str = "") -> None:
        self.fault = Fault(where, cause, fix, detail)
        super().__init__(where, f"{cause.removesuffix('.')} ({detail})." if detail else cause, fix)


@dataclass(slots=True)
class _Group:
    count: int = 0
    first: list[Fault] = field(default_factory=list)


class FaultLog:
    """Faults by cause and fix; only the first places of each are kept, so a large bad file costs no memory."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], _Group] = {}

    def add(self, fault: Fault) -> None:
        """Note one faulty row."""
        group = self._groups.setdefault((fault.cause, fault.fix), _Group())
        group.count += 1
        if len(group.first) < PLACES_SHOWN:
            group.first.append(fault)

    def join(self, later: FaultLog) -> None:
        """Add the faults of rows that stand behind those noted so far."""
        for cause, group in later._groups.items():
            mine = self._groups.setdefault(cause, _Group())
            mine.count += group.count
            mine.first += group.first[: PLACES_SHOWN - len(mine.first)]

    def as_list(self) -> list[dict[str, Any]]:
        """For --json: cause, fix, number of rows and first places, most frequent first."""
        return [
            {"cause": cause, "fix": fix, "rows": group.count, "places": [fault.place for fault in group.first]}
            for (cause, fix), group in sorted(self._groups.items(), key=lambda item: (-item[1].count, item[0]))
        ]

    def __len__(self) -> int:
        return sum(group.count for group in self._groups.values())

    def by_cause(self) -> dict[str, int]:
        """Cause without its full stop -> number of rows, most frequent first, then by name."""
        counts: dict[str, int] = {}
        for (cause, _), group in self._groups.items():
            name = cause.removesuffix(".")
            counts[name] = counts.get(name, 0) + group.count
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    def table(self) -> str:
        """A block a cause, most frequent first: the number of rows, the first places, the fix."""
        blocks = []
        for (cause, fix), group in sorted(self._groups.items(), key=lambda item: (-item[1].count, item[0])):
            more = group.count - len(group.first)
            places = [fault.place for fault in group.first] + ([f"and {more} more"] if more else [])
            rows = "row" if group.count == 1 else "rows"
            blocks.append("\n".join([f"  {group.count} {rows}: {cause}", *_indent(places), f"      Fix: {fix}"]))
        return "\n".join(blocks)

    def raise_if_any(self, source: str, num_rows: int) -> None:
        """Raise one DataError with the table of all causes; a lone fault is raised with its own place."""
        if not len(self):
            return
        if len(self) == 1:
            fault = next(iter(self._groups.values())).first[0]
            raise RowError(fault.where, fault.cause, fault.fix, detail=fault.detail)
        raise DataError(
            source,
            f"{len(self)} of {num_rows} rows are faulty.\n{self.table()}\n",
            "Correct the rows, or set data.on_bad_row: drop to leave them out and have them counted.",
        )


def _indent(lines: Iterable[str]) -> list[str]:
    return [f"      {line}" for line in lines]


def shown(text: str, *, most: int = 60) -> str:
    """Text of a file as an error may print it: one line, no control character, no half surrogate, cut if long."""
    cut = text if len(text) <= most else f"{text[:most]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
