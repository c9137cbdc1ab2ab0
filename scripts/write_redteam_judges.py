"""File the errors of red-team judges that were measured, and write them into docs/redteam-judges.md.

Usage: tunesmith redteam judges --judge ... --calibrations FOLDER; python scripts/write_redteam_judges.py FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.redteam.judge_errors import ERROR_FILE, JudgeError, error_from

ROOT = Path(__file__).parents[1]
FILE = ROOT / "src" / "tunesmith" / "redteam" / ERROR_FILE
PAGE = ROOT / "docs" / "redteam-judges.md"
BEGIN, END = "<!-- measured -->\n", "<!-- end -->"
# Order of the table: by the judge's name, the sets as they were measured.
_FIRST = ("refusal detector", "harm classifier")


def gathered(folder: Path) -> dict[str, Any]:
    """digest -> judge and what was measured, of every file in the folder that `redteam judges` wrote."""
    out = {}
    for path in sorted(folder.glob("*.json")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(kept, dict) and all("found" in one for one in kept.get("measured", {"": {}}).values()):
            out[path.stem] = kept
    return out


def table(kept: Mapping[str, Any]) -> str:
    """The page's table: a line for each judge and set."""
    lines = ["| judge | answers | part | rows | balanced accuracy | sensitivity | specificity | AUC | |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")

    def order(one: Mapping[str, Any]) -> tuple[int, str]:
        name = one["judge"]["judge"]
        return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)

    for one in sorted(kept.values(), key=order):
        model = one["judge"].get("model")
        name = one["judge"]["judge"] + (f" ({model})" if model else "")
        lines += [f"| {name} | {_cells(error_from(told))} |" for told in one["measured"].values()]
    return "\n".join(lines) + "\n"


def _cells(error: JudgeError) -> str:
    if not error.found[1] or not error.passed[1]:
        return f"{error.source} | {error.part} | {error.num} | | | | | labels all alike"
    found, passed = (f"{k} of {n}" for k, n in (error.found, error.passed))
    doubt = "" if error.reliable else "not reliable" if error.usable else "no better than chance"
    unread = f" ({error.unread} unread)" if error.unread else ""
    figures = [f"{error.num}{unread}", str(error.balanced_accuracy), found, passed, str(error.auc), doubt]
    return " | ".join([error.source, error.part, *figures])


def with_table(text: str, kept: Mapping[str, Any]) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table(kept) + END + rest.partition(END)[2]


def main(folder: str) -> None:
    """Gather, file, and write the page."""
    kept = gathered(Path(folder))
    if not kept:
        raise SystemExit(f"error: {folder} holds nothing that `tunesmith redteam judges` wrote.")
    FILE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), kept), encoding="utf-8")
    print(table(kept))


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["runs/judges"])
