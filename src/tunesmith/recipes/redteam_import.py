"""What other scanners found: their attempts in our files, and the report over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError, RunError
from tunesmith.redteam.attempt_rows import ATTEMPTS_FILE, attempt_row
from tunesmith.redteam.attempts import Attempt
from tunesmith.redteam.scans import Scan, read_scan
from tunesmith.redteam.verdict import verdict_facts
from tunesmith.reports.redteam import HTML_FILE, write_redteam_report
from tunesmith.reports.redteam_tables import headline
from tunesmith.rollout.results import ResultsFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """Scans by label, the verdict's facts, and how many attempts were new in the file."""

    folder: Path
    scans: dict[str, Scan]
    facts: dict[str, Any]
    num_new: int

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        scans = {
            label: {"tool": scan.tool, "attempts": len(scan.attempts), "left_out": dict(scan.left_out)}
            for label, scan in self.scans.items()
        }
        return {"output_dir": str(self.folder), "scans": scans, "num_new": self.num_new, "verdict": self.facts}


def run_import(files: Sequence[Path], folder: Path) -> Imported:
    """Read scanners' results, add their attempts to the folder's, and write the report; read again, nothing is added.

    Several files are held against each other, the first being what was there before. Raises DataError, RunError.
    """
    if len(set(files)) < len(files):
        raise ConfigError("files", "one is named twice.", "Name each once.")
    read = [read_scan(file) for file in files]
    names = [scan.attempts[0].target["model"] for scan in read]
    taken = [
        name if names.count(name) == 1 else f"{name} ({file.stem})" for name, file in zip(names, files, strict=True)
    ]
    if len(set(taken)) < len(taken):
        raise ConfigError("files", "two have one name and one model.", "Rename one of them.")
    scans = dict(zip(taken, read, strict=True))
    results = ResultsFile(folder / ATTEMPTS_FILE)
    rows = {one.key: attempt_row(one) for scan in read for one in scan.attempts}
    new = [row for key, row in rows.items() if key not in results]
    if foreign := next((row for row in results.rows() if row["key"] not in rows and not _is_imported(row)), None):
        attack = foreign.get("attack")
        raise RunError(folder, f"holds attempts of a campaign of ours ({attack}).", "Name another --output.")
    results.append(new)
    attempts: dict[str, Sequence[Attempt]] = {label: scan.attempts for label, scan in scans.items()}
    facts = verdict_facts(attempts)
    write_redteam_report(folder, facts)
    return Imported(folder=folder, scans=scans, facts=facts, num_new=len(new))


def _is_imported(row: Any) -> bool:
    details = row.get("details")
    return isinstance(details, dict) and "tool" in details


def describe_import(imported: Imported) -> list[str]:
    """What was read and left out, the headline, and what was written."""
    lines = []
    for label, scan in imported.scans.items():
        without = "".join(f"; {number} {reason}" for reason, number in scan.left_out.items())
        lines.append(f"{label}: {len(scan.attempts)} judged answers of {scan.tool}{without}")
    lines += headline(imported.facts)
    lines.append(f"wrote {imported.folder / HTML_FILE} and {imported.num_new} new lines of {ATTEMPTS_FILE}")
    lines.append(f"next: open {imported.folder / HTML_FILE}")
    return lines
