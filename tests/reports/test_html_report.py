"""The report page: whole in one file, and nothing a model writes becomes markup."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.reports.html import Report

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(1)>&\"'</pre></td>"
# The smallest PNG: one transparent pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
EXPECTED_TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "table", "tr", "th", "td", "figure",
    "img", "figcaption", "pre", "footer",
}  # fmt: skip


class Page(HTMLParser):
    """Tags, attributes and text as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.seen: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.seen.append((self.open[-1], data))


def everywhere(text: str, tmp_path: Path) -> Report:
    """A page with the text in every place that takes one."""
    (tmp_path / "p.png").write_bytes(PNG)
    report = Report(text, text)
    report.heading(text)
    report.text(text)
    report.table([text, "b"], [[text, 1.5], ["", None]])
    report.figure(tmp_path / "p.png", text)
    report.example({text: text})
    report.footer({text: text})
    return report


def written(report: Report, folder: Path) -> str:
    report.write(folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_text_stays_text_in_every_place(tmp_path: Path) -> None:
    page = Page(written(everywhere(ATTACK, tmp_path), tmp_path))
    assert set(page.tags) == EXPECTED_TAGS
    assert page.open == []
    shown = [(tag, text) for tag, text in page.seen if ATTACK in text]
    assert [tag for tag, _ in shown] == [
        "title", "h1", "p", "h2", "p", "th", "td", "figcaption", "div", "pre", "footer",
    ]  # fmt: skip
    assert ("img", "alt", ATTACK) in page.attributes
    # Control: a page that does not escape would be caught.
    assert "script" in Page(f"<p>{ATTACK.partition('<img')[0]}</p>").tags


@given(st.text(max_size=40))
def test_any_text_keeps_the_markup_as_it_is(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("page")
    page, plain = Page(written(everywhere(text, folder), folder)), Page(written(everywhere("x", folder), folder))
    assert page.open == []
    # An empty subtitle has no paragraph; all else stands as it does for a plain letter.
    assert [t for t in page.tags if t != "p"] == [t for t in plain.tags if t != "p"]


def test_the_page_needs_no_other_file_and_runs_nothing(tmp_path: Path) -> None:
    text = written(everywhere("x", tmp_path), tmp_path)
    page = Page(text)
    assert "default-src 'none'" in text
    links = [(tag, key, value) for tag, key, value in page.attributes if key in ("src", "href", "srcset", "data")]
    assert [(tag, key) for tag, key, _ in links] == [("img", "src")]
    kind, _, data = links[0][2].partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == PNG
    assert not any(key.startswith("on") for _, key, _ in page.attributes)
    assert "http://" not in text and "https://" not in text and "@import" not in text and "url(" not in text
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text


@pytest.mark.parametrize(
    "hidden", ["\u202e", "\u2066", "\u200b", "\x00", "\x1b", "\x9b", "\ufeff", "\U000e0041", "\ud800", "\r"]
)
def test_invisible_characters_are_shown_as_their_code(tmp_path: Path, hidden: str) -> None:
    text = written(everywhere(f"price{hidden}001", tmp_path), tmp_path)
    assert hidden not in text
    assert f"price\\u{ord(hidden):04x}001" in text


@pytest.mark.parametrize("kept", ["👩\u200d🚀", "می\u200cخواهم", "\u05d0\u200f!", "a\tb\nc", "😀é中"])
def test_what_scripts_and_emoji_need_is_kept(tmp_path: Path, kept: str) -> None:
    assert f'<pre dir="auto">{kept}</pre>' in written(everywhere(kept, tmp_path), tmp_path)


def test_a_row_of_another_length_is_refused(tmp_path: Path) -> None:
    report = Report("t")
    with pytest.raises(ValueError, match="number of cells"):
        report.table(["a", "b"], [["1", "2"], ["1"]])
