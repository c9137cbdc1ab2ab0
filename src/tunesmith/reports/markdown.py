"""Tables and texts as Markdown that no cell can break out of."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunesmith.reports.html import INVISIBLE

# What Markdown or the HTML inside it would read as markup.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#~$&!])")


def markdown_text(value: object) -> str:
    """One line of plain text: markup is escaped, line breaks become blanks, invisible characters their code."""
    words = " ".join(INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", str(value)).split())
    return _MARKUP.sub(r"\\\1", words)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in GitHub's Markdown. Raises ValueError for a row of another length than the columns."""
    if any(len(row) != len(columns) for row in rows):
        raise ValueError("a row has another number of cells than there are columns")
    lines = [columns, ["---"] * len(columns), *rows]
    cells = [[cell if i == 1 else markdown_text(cell) for cell in line] for i, line in enumerate(lines)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in cells)
