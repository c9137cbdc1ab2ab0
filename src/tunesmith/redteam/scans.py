"""What garak and PyRIT found, as attempts of ours, so that one report shows theirs beside ours.

Their verdict stays theirs: success is what their detectors or scorers said, under their names. How an answer took the
request (complied, refused, nonsense) is read by our detector, and nonsense is no success here either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import DataError
from tunesmith.redteam.attempts import Attempt
from tunesmith.redteam.scan_garak import read_garak
from tunesmith.redteam.scan_pyrit import read_pyrit
from tunesmith.redteam.scan_records import records


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A scanner's attempts, in its order; left_out counts its records that are no judged answer, by the reason."""

    tool: str
    attempts: tuple[Attempt, ...]
    left_out: Mapping[str, int]


def read_scan(path: Path) -> Scan:
    """The results in garak's report.jsonl, or in the records that PyRIT's memory wrote (.json or .jsonl).

    Raises DataError for a file of neither, one without a judged answer, or a record that cannot be read.
    """
    found = list(records(path))
    if any("entry_type" in one.row for one in found):
        tool, reader = "garak", read_garak
    elif any("conversation_id" in one.row for one in found):
        tool, reader = "PyRIT", read_pyrit
    else:
        raise DataError(path, "is neither garak's report nor PyRIT's records.", "See docs/redteam-interop.md.")
    left_out: dict[str, int] = {}
    attempts = tuple(reader(found, left_out))
    if not attempts:
        why = "; ".join(f"{reason}: {number}" for reason, number in left_out.items()) or "no attempts"
        raise DataError(path, f"{tool} judged no answer in it ({why}).", "Name the results of a run that ended.")
    return Scan(tool=tool, attempts=attempts, left_out=left_out)
