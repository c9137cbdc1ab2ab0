"""One report builder: a self-contained HTML file; everything that is shown is escaped.

A page runs nothing, unless it has a table that can be sorted: then it carries one fixed script, which the page's policy
allows by its digest. Text of a model is no part of that script, and any other script has another digest.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunesmith.runs import atomic_write_text

STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5c6678; --line: #d9dee7; --card: #f6f7fa; --mark: #b5482a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #9aa4b5; --line: #343b48; --card: #1d222c; --mark: #e98a6b; }
  body { background: #14181f; }
}
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.soft, figcaption, footer { color: var(--soft); font-size: .88rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .38rem .7rem .38rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
pre { background: var(--card); padding: .7rem .9rem; border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: .85rem; margin: .3rem 0; }
pre, td { unicode-bidi: isolate; } td { overflow-wrap: anywhere; min-width: 4rem; }
figure { margin: 1rem 0; } img { max-width: 100%; background: #fff; border-radius: 6px; }
.label { color: var(--mark); font-size: .8rem; font-weight: 600; margin-top: .7rem; }
details { margin: .4rem 0; } summary { cursor: pointer; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 0 1rem; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--mark); }
th[aria-sort] { color: var(--ink); } th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .8rem; }
"""
# Sorts a table by the ranks its cells carry; it reads no text, so there is nothing in it for text to steer.
SORT_SCRIPT = """
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rank = (row) => Number(row.cells[head.cellIndex].dataset.rank);
    body.append(...[...body.rows].sort((a, b) => (down ? rank(b) - rank(a) : rank(a) - rank(b))));
  });
}
"""
# No script, no other file, no address: even text that got past the escaping could load and send nothing.
POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src 'unsafe-inline'"
# The digest is of one script's exact characters; inline handlers and other scripts stay forbidden (CSP level 2).
SORT_POLICY = (
    f"{POLICY}; script-src 'sha256-{base64.b64encode(hashlib.sha256(SORT_SCRIPT.encode()).digest()).decode()}'"
)
# What a reader does not see and a model can write: C0 and C1 controls but tab and line feed, direction changes,
# invisible operators and tags, lone surrogates. Joiners and direction marks stay: scripts and emoji need them.
INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f\ud800-\udfff]"
)

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?![\w.])", re.IGNORECASE | re.ASCII)


class Report:
    """Sections in the order they are added; ``write`` makes the file."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self._title = title
        self._parts = [f"<h1>{_escape(title)}</h1>"]
        if subtitle:
            self._parts.append(f'<p class="soft">{_escape(subtitle)}</p>')
        self._footer = ""
        self._sortable = False

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{_escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{_escape(text)}</p>")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, sortable: bool = False) -> None:
        """A table; cells are shown as text. sortable: a click on a column's name sorts by it, numbers as numbers.

        Raises ValueError for a row of another length than the columns.
        """
        if any(len(row) != len(columns) for row in rows):
            raise ValueError("a row has another number of cells than there are columns")
        self._sortable |= sortable
        ranks = zip(*(sort_ranks([row[i] for row in rows]) for i in range(len(columns))), strict=True)
        head = "".join(f"<th>{_button(name) if sortable else _escape(name)}</th>" for name in columns)
        body = "".join(
            f"<tr>{''.join(_cell(one, rank if sortable else None) for one, rank in zip(row, ranked, strict=True))}</tr>"
            for row, ranked in zip(rows, ranks, strict=True)
        )
        parts = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>" if sortable else f"<tr>{head}</tr>{body}"
        self._parts.append(f'<div class="scroll"><table>{parts}</table></div>')

    def figure(self, picture: Path, caption: str) -> None:
        """A PNG, carried inside the file."""
        data = base64.b64encode(picture.read_bytes()).decode()
        self._parts.append(
            f'<figure><img alt="{_escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{_escape(caption)}</figcaption></figure>"
        )

    def example(self, parts: Mapping[str, str]) -> None:
        """One example: label -> text, shown as it is, line breaks kept."""
        for label, text in parts.items():
            self._parts.append(f'<div class="label">{_escape(label)}</div><pre dir="auto">{_escape(text)}</pre>')

    def folded(self, title: str, parts: Mapping[str, str]) -> None:
        """An example that is shut until the reader opens it: title, then label -> text."""
        self._parts.append(f"<details><summary>{_escape(title)}</summary>")
        self.example(parts)
        self._parts.append("</details>")

    def sides(self, parts: Mapping[str, str]) -> None:
        """Texts beside each other, below each other on a narrow screen: label -> text, line breaks kept."""
        cells = "".join(
            f'<div><div class="label">{_escape(label)}</div><pre dir="auto">{_escape(text)}</pre></div>'
            for label, text in parts.items()
        )
        self._parts.append(f'<div class="sides">{cells}</div>')

    def footer(self, facts: Mapping[str, object]) -> None:
        """Where the numbers come from."""
        self._footer = " · ".join(f"{_escape(key)}: {_escape(value)}" for key, value in facts.items())

    def write(self, path: Path) -> None:
        """Write the page whole or not at all."""
        page = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{SORT_POLICY if self._sortable else POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{_escape(self._title)}</title><style>{STYLE}</style></head><body>"
            + "\n".join(self._parts)
            + f"<footer>{self._footer}</footer>"
            + (f"<script>{SORT_SCRIPT}</script>" if self._sortable else "")
            + "</body></html>\n"
        )
        atomic_write_text(path, page)


def sort_ranks(cells: Sequence[object]) -> list[int]:
    """The place of each cell in its column's rising order; equal cells share one.

    A cell that begins with a number counts as that number ("45.0 % [38, 52]" as 45); numbers stand before texts.
    """
    keys = [_sort_key(cell) for cell in cells]
    place = {key: rank for rank, key in enumerate(sorted(set(keys)))}
    return [place[key] for key in keys]


def _sort_key(cell: object) -> tuple[bool, float, str]:
    text = str(cell).strip().replace("\N{MINUS SIGN}", "-").replace(",", "")
    number = _NUMBER.match(text)
    value = float(number[0]) if number else 0.0
    is_number = number is not None and math.isfinite(value)
    return (not is_number, value if is_number else 0.0, "" if is_number else text.casefold())


def _cell(cell: object, rank: int | None) -> str:
    ranked = "" if rank is None else f' data-rank="{rank}"'
    return f'<td dir="auto"{ranked}>{_escape(cell)}</td>'


def _button(name: object) -> str:
    return f'<button type="button">{_escape(name)}</button>'


def _escape(value: object) -> str:
    """HTML-escape, and write invisible characters as their code."""
    return INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", html.escape(str(value)))
