"""Measure the refusal detector on people's labels: its filed error, and the table in docs/refusal.md.

Usage: python scripts/write_refusal_docs.py [FOLDER OF THE PUBLIC SETS], else as the suites find it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tunesmith.evals.refusal_error import ERROR_FILE, DetectorError
from tunesmith.evals.refusal_rows import measured_errors
from tunesmith.evals.suite import SuiteConfig, data_folder
from tunesmith.rollout.refusal import OUTCOMES, detector_digest

ROOT = Path(__file__).parents[1]
FILE = ROOT / "src" / "tunesmith" / "evals" / ERROR_FILE
PAGE = ROOT / "docs" / "refusal.md"
BEGIN, END = "<!-- measured -->\n", "<!-- end -->"
_KINDS = (*OUTCOMES, "nonsense")


def error_file(errors: Sequence[DetectorError]) -> str:
    """What is filed: the rules' digest, and every source's counts with the digest of its rows."""
    kept = {"detector": detector_digest(), "measured": [error.as_dict() for error in errors]}
    return json.dumps(kept, indent=1) + "\n"


def table(errors: Sequence[DetectorError]) -> str:
    """The page's tables: figures by source, and the confusion of each."""
    lines = ["| answers | part | rows | balanced accuracy | sensitivity | specificity | mean of three recalls |"]
    lines.append("|---|---|---|---|---|---|---|")
    for error in errors:
        found, passed = (f"{k} of {n}" for k, n in (error.sensitivity, error.specificity))
        doubt = "" if error.reliable else " (not reliable)"
        figures = (str(error.num), f"{error.balanced_accuracy}{doubt}", found, passed, str(error.mean_recall))
        lines.append(f"| {error.source} | {error.part} | {' | '.join(figures)} |")
    lines += [
        "",
        "| answers | people say | detector: comply | partly | refuse | nonsense |",
        "|---|---|---|---|---|---|",
    ]
    for error in errors:
        for outcome, row in error.counts.items():
            lines.append(f"| {error.source} | {outcome} | {' | '.join(str(row.get(kind, 0)) for kind in _KINDS)} |")
    return "\n".join(lines) + "\n"


def with_table(text: str, errors: Sequence[DetectorError]) -> str:
    """The page with its tables made anew."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table(errors) + END + rest.partition(END)[2]


def main(folder: str | None) -> None:
    """Measure, file, and write the page."""
    found = data_folder(SuiteConfig(data_dir=folder))
    if found is None:
        raise SystemExit("error: no folder of the public sets was found. Name it.")
    errors = measured_errors(found)
    FILE.write_text(error_file(errors), encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), errors), encoding="utf-8")
    print(table(errors))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
