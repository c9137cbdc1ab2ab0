"""Tables that sort: one fixed script, allowed by its digest alone; text of a model still cannot run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.reports.html import POLICY, SORT_SCRIPT, Report, sort_ranks

ATTACKS = (
    "<script>alert(1)</script>",
    f"<script>{SORT_SCRIPT}</script>",
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "--></style></table><svg onload=alert(1)>",
)


class Scripts(HTMLParser):
    """What a browser would run: script elements with their attributes and text, and inline handlers."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.scripts: list[tuple[list[tuple[str, str | None]], str]] = []
        self.handlers: list[str] = []
        self.policies: list[str] = []
        self._inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append((attrs, ""))
        self.handlers += [key for key, _ in attrs if key.startswith("on")]
        if tag == "meta" and ("http-equiv", "Content-Security-Policy") in attrs:
            self.policies.append(str(dict(attrs)["content"]))

    def handle_data(self, data: str) -> None:
        if self._inside:
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


def page_with(text: str, folder: Path, *, sortable: bool) -> str:
    report = Report(text, text)
    report.table([text, "b"], [[text, 2], ["", text]], sortable=sortable)
    report.sides({text: text, "other": text})
    report.write(folder / "page.html")
    return (folder / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("attack", ATTACKS)
def test_only_the_fixed_script_is_on_the_page_and_only_its_digest_is_allowed(tmp_path: Path, attack: str) -> None:
    found = Scripts(page_with(attack, tmp_path, sortable=True))
    assert found.scripts == [([], SORT_SCRIPT)]
    assert found.handlers == []
    [policy] = found.policies
    digest = base64.b64encode(hashlib.sha256(found.scripts[0][1].encode()).digest()).decode()
    assert policy == f"{POLICY}; script-src 'sha256-{digest}'"
    # What would let other scripts run.
    assert not re.search(r"script-src[^;]*(unsafe|\*|https?:|data:|self|nonce|strict-dynamic)", policy)
    # Control: text that is not escaped would be seen.
    assert len(Scripts(f"<p>{ATTACKS[0]}</p>").scripts) == 1


def test_a_page_without_such_a_table_has_no_script(tmp_path: Path) -> None:
    found = Scripts(page_with(ATTACKS[0], tmp_path, sortable=False))
    assert found.scripts == [] and found.policies == [POLICY]
    assert "script-src" not in POLICY and "default-src 'none'" in POLICY


def test_numbers_are_ranked_as_numbers_and_before_texts() -> None:
    cells = ["9.5 % [1, 2]", "45.0 %", "-3", "\N{MINUS SIGN}20", "1,000", "-", "abc", "Abc", 9.5]
    assert sort_ranks(cells) == [2, 3, 1, 0, 4, 5, 6, 6, 2]
    # A name that begins with digits is a name.
    assert sort_ranks(["3shots", "10"]) == [1, 0]
    assert sort_ranks([]) == []


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32) | st.text(max_size=5), max_size=12))
def test_ranks_are_an_order_of_the_cells(cells: list[object]) -> None:
    ranks = sort_ranks(cells)
    assert sorted(set(ranks)) == list(range(len(set(ranks))))
    numbers = [(cell, rank) for cell, rank in zip(cells, ranks, strict=True) if isinstance(cell, float)]
    for a, rank_a in numbers:
        assert all((a < b) <= (rank_a < rank_b) for b, rank_b in numbers)


# Enough of a browser for the script: a table whose rows are arrays of cells.
BROWSER = """
const [script, ranks, clicks] = JSON.parse(require("fs").readFileSync(0, "utf8"));
const rows = ranks.map((row, i) => ({name: i, cells: row.map((rank) => ({dataset: {rank: String(rank)}}))}));
const body = {rows, append: (...moved) => { body.rows = moved; }}, table = {tBodies: [body]};
const row = {cells: []};
for (let i = 0; i < ranks[0].length; i++) {
  const attributes = {};
  row.cells.push({cellIndex: i, parentElement: row, closest: () => table, getAttribute: (k) => attributes[k] ?? null,
    setAttribute: (k, v) => { attributes[k] = v; }, removeAttribute: (k) => { delete attributes[k]; }});
}
const buttons = row.cells.map((head) => ({parentElement: head, addEventListener: (_, f) => { head.click = f; }}));
const document = {querySelectorAll: () => buttons};
new Function("document", script)(document);
const seen = clicks.map((i) => {
  row.cells[i].click();
  return [body.rows.map((r) => r.name), row.cells.map((h) => h.getAttribute("aria-sort"))];
});
console.log(JSON.stringify(seen));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is absent, which runs the page's script")
def test_clicks_sort_up_then_down_and_name_the_order() -> None:
    told = json.dumps([SORT_SCRIPT, [[2, 0], [0, 1], [1, 1]], [0, 0, 1]])
    done = subprocess.run(["node", "-e", BROWSER], input=told, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [
        [[1, 2, 0], ["ascending", None]],
        [[0, 2, 1], ["descending", None]],
        # Rows that are equal keep the order they had.
        [[0, 2, 1], [None, "ascending"]],
    ]
