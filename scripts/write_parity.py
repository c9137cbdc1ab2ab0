"""Write the table in docs/design/parity.md from the families that tests/models/parity_models.py builds."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "models")]
from parity_models import FAMILIES, Parity, measure  # noqa: E402

BEGIN, END = "<!-- families -->\n", "<!-- end -->"
PAGE = ROOT / "docs" / "design" / "parity.md"


def row(found: Parity) -> str:
    """One family's line."""
    decoding = "in one call" if found.one_call else "by operators" if found.path == "fast" else "by transformers"
    numbers = (found.loss, found.gradients, found.bf16_ours, found.bf16_theirs, found.control)
    told = " | ".join(f"{number:.0e}" for number in numbers)
    same = "same" if found.same_answers else "**other**"
    return f"| {found.family} | {found.path} | {told} | {same} | {decoding} |"


def main() -> None:
    """Measure every family and write the page."""
    warnings.simplefilter("ignore")
    head = ["family", "path", "loss", "gradients", "bf16, ours", "bf16, theirs", "control", "answers", "a token"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(row(measure(family, Path(folder))))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
