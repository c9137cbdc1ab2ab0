"""Faults are collected over the whole file and shown as one table by cause."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from tunesmith.errors import DataError

PLACES_SHOWN = 5


@dataclass(slots=True)
class FaultLog:
    """Faults of one source by cause and fix, each with the places it was met."""

    path: str
    places: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, error: DataError) -> None:
        """Note one faulty row."""
        self.places[error.cause, error.fix].append(error.place)

    def __len__(self) -> int:
        return sum(len(places) for places in self.places.values())

    def by_cause(self) -> dict[str, int]:
        """cause -> number of rows, most frequent first."""
        counts: dict[str, int] = defaultdict(int)
        for (cause, _), places in self.places.items():
            counts[cause.rstrip(".")] += len(places)
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    def table(self) -> str:
        """A block a cause: how many rows, the first places, the fix."""
        blocks = []
        for (cause, fix), places in sorted(self.places.items(), key=lambda pair: (-len(pair[1]), pair[0])):
            shown = ", ".join(places[:PLACES_SHOWN])
            more = f" and {len(places) - PLACES_SHOWN} more" if len(places) > PLACES_SHOWN else ""
            blocks.append(f"  {len(places)} x {cause}\n      at {shown}{more}\n      fix: {fix}")
        return "\n".join(blocks)

    def raise_if_any(self, num_rows: int) -> None:
        """Raise one DataError that shows every cause; a single fault is raised as it is."""
        if not len(self):
            return
        if len(self) == 1:
            ((cause, fix), (place,)) = next(iter(self.places.items()))
            raise DataError(place, cause, fix)
        raise DataError(
            self.path,
            f"{len(self)} of {num_rows} rows are faulty.\n{self.table()}\n",
            "Correct them, or set data.on_bad_row: drop to leave them out and count them.",
        )
