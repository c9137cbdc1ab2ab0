"""Odd characters are named, ordinary text of any script is not."""

from __future__ import annotations

import pytest

from tunesmith.data import characters as c


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a\x07b", c.CONTROL),
        ("caf\x1bé", c.CONTROL),
        ("a\u200bb", c.INVISIBLE),
        ("\ufeffa", c.INVISIBLE),
        ("user\u202etxt.exe", c.BIDI),
        ("na\ufffdve", c.REPLACEMENT),
        ("caf\u00c3\u00a9", c.MOJIBAKE),
        ("it\u00e2\u20ac\u2122s", c.MOJIBAKE),
        ("\u00c2\u00a338", c.MOJIBAKE),
        ("p\u0430ypal", c.MIXED_SCRIPT),
        ("a\ue000", c.PRIVATE),
        ("a\u2028b", c.LINE_BREAKS),
    ],
)
def test_odd(text: str, kind: str) -> None:
    assert c.odd_characters(text) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "plain\ttext\r\n",
        "naïve “quote” — Ångström",
        "Über Öl",
        "Мир и труд",
        "日本語のテスト",
        "שלום",
        "👩\u200d👩\u200d👧",
        "£38 ±½",
    ],
)
def test_ordinary(text: str) -> None:
    assert c.odd_characters(text) == []


@pytest.mark.parametrize(
    ("text", "scripts"),
    [
        ("abc", {"Latin"}),
        ("123 !?", set()),
        ("Straße", {"Latin"}),
        ("Мир, peace", {"Cyrillic", "Latin"}),
        ("日本", {"Cjk"}),
        ("مرحبا", {"Arabic"}),
        ("ΑΒΓ", {"Greek"}),
        ("ｗｉｄｅ", {"Latin"}),
    ],
)
def test_scripts(text: str, scripts: set[str]) -> None:
    assert c.scripts_of(text) == scripts
