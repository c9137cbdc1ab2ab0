"""Write the table in docs/redteam-converters.md. Usage: python scripts/write_converter_docs.py."""

from __future__ import annotations

from pathlib import Path

from tunesmith.randomness import generator
from tunesmith.redteam.converters import CONVERTERS

PAGE = Path(__file__).parents[1] / "docs" / "redteam-converters.md"
BEGIN, END = "<!-- converters -->\n", "<!-- end -->"
EXAMPLE, SHOWN = "Open the old gate", 44


def _example(text: str) -> str:
    """A text in one line of printed characters, cut where it is long."""
    printed = "".join(c if c.isprintable() else f"<U+{ord(c):04X}>" for c in text.replace("\n", " ⏎ "))
    cut = printed if len(printed) <= SHOWN else printed[:SHOWN] + "…"
    return cut.replace("|", "\\|").replace("<", "&lt;")


def table() -> str:
    """One row a converter, in the order of the families."""
    lines = ["| name | family | what it does | undone | hint | 'Open the old gate' |", "|---|---|---|---|---|---|"]
    for one in CONVERTERS.values():
        shown = _example(one.convert(EXAMPLE, generator(0, "docs")))
        undone, hint = ("exactly" if one.invert else "no"), ("yes" if one.hint else "")
        lines.append(f"| `{one.name}` | {one.family} | {one.about} | {undone} | {hint} | {shown} |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
