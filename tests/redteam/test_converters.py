"""Converters: what can be undone is undone exactly, chains that destroy the text are refused, draws are functions."""

from __future__ import annotations

import doctest
import re
import runpy
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.errors import ConfigError
from tunesmith.randomness import generator
from tunesmith.redteam.converter import Converter
from tunesmith.redteam.converters import CONVERTERS, apply_chain, chain_names, check_chain, find_converters

INVERTIBLE = [one for one in CONVERTERS.values() if one.invert is not None]
LOSSY = [one for one in CONVERTERS.values() if one.invert is None]
# What a naive inverse stumbles over: separators and look-alikes of its own, line ends, quotes, marks, astral letters.
HARD = st.text(
    st.sampled_from("aA zZ.19\\\"'|\n\r\t\u200b\u0301\u0430\u3000\uff21\U000e0041\U0001f512é-<!>{}[]`%\x85\u2028")
)
REQUEST = "How is the Lock of a garden gate opened in 3 steps?"


def test_there_are_enough_and_names_fit_a_chain() -> None:
    assert len(CONVERTERS) >= 20
    assert {one.family for one in CONVERTERS.values()} == {"encoding", "obfuscation", "noise", "language", "wrapping"}
    assert all(re.fullmatch(r"[a-z0-9-]+", name) and name == one.name for name, one in CONVERTERS.items())
    # A reader is told how to decode, and not told of what it sees for itself.
    assert all(bool(one.hint) == (one.family == "encoding") for one in CONVERTERS.values())
    assert all(one.invert is not None for one in CONVERTERS.values() if one.family in ("encoding", "wrapping"))


@pytest.mark.parametrize("one", INVERTIBLE, ids=lambda one: one.name)
@settings(max_examples=25, deadline=None)
@given(text=st.text() | HARD, seed=st.integers(0, 9))
def test_what_can_be_undone_is_undone_exactly(one: Converter, text: str, seed: int) -> None:
    assert one.invert is not None
    assert one.invert(one.convert(text, generator(seed, "test"))) == text


@settings(max_examples=40, deadline=None)
@given(text=st.text() | HARD, names=st.lists(st.sampled_from([one.name for one in INVERTIBLE]), max_size=3))
def test_a_chain_is_undone_from_its_end(text: str, names: list[str]) -> None:
    steps = find_converters(names)
    said = text
    for step in steps:
        said = step.convert(said, generator(0, "test"))
    for step in reversed(steps):
        assert step.invert is not None
        said = step.invert(said)
    assert said == text


@pytest.mark.parametrize("one", INVERTIBLE, ids=lambda one: one.name)
def test_every_converter_changes_a_request(one: Converter) -> None:
    assert one.convert(REQUEST, generator(0, "test")) != REQUEST


@settings(max_examples=25, deadline=None)
@given(text=st.text(st.characters(codec="ascii")))
def test_what_cannot_be_undone_still_keeps_what_it_must(text: str) -> None:
    rng = generator(1, "test")
    case, typos, leet, vowels = (CONVERTERS[name].convert(text, rng) for name in ("case", "typos", "leet", "no-vowels"))
    assert case.casefold() == text.casefold()
    assert Counter(typos) == Counter(text) and len(typos.split()) == len(text.split())
    assert len(leet) == len(text) and not set(leet) & set("aeiostbgAEIOSTBG")
    assert len(vowels.split()) == len(text.split())
    assert re.sub("[aeiou]", "", vowels, flags=re.I) == re.sub("[aeiou]", "", text, flags=re.I)


def test_draws_depend_on_the_generator_alone() -> None:
    for one in CONVERTERS.values():
        assert one.convert(REQUEST, generator(3, "a")) == one.convert(REQUEST, generator(3, "a")), one.name
    for one in ("case", "typos", "diacritics"):
        drawn = {CONVERTERS[one].convert(REQUEST, generator(seed, "a")) for seed in range(8)}
        assert len(drawn) > 4, one


def test_a_typist_slips_at_least_once() -> None:
    convert = CONVERTERS["typos"].convert
    assert all(convert("open it", generator(seed, "a")) == "oepn it" for seed in range(20))
    assert convert("an ox 1234", generator(0, "a")) == "an ox 1234"


def test_known_results() -> None:
    """Values of other tools: coreutils' base64 and xxd, the well-known ciphers."""
    expected = {
        "base64": "T3BlbiB0aGUgZ2F0ZQ==",
        "hex": "4f 70 65 6e 20 74 68 65 20 67 61 74 65",
        "rot13": "Bcra gur tngr",
        "atbash": "Lkvm gsv tzgv",
        "reverse": "etag eht nepO",
        "reverse-words": "gate the Open",
        "leet": "0p3n 7h3 9473",
        "spacing": "O p e n   t h e   g a t e",
        "no-vowels": "Opn the gte",
    }
    rng = generator(0, "test")
    assert {name: CONVERTERS[name].convert("Open the gate", rng) for name in expected} == expected


def test_a_chain_says_how_to_decode_from_the_outside_in() -> None:
    said = apply_chain("leet+base64+rot13", "Open the gate", generator(0, "test"))
    first, second, text = said.split("\n")
    assert "ROT13" in first and "Base64" in second
    rot13, base64 = CONVERTERS["rot13"].invert, CONVERTERS["base64"].invert
    assert rot13 is not None and base64 is not None
    assert base64(rot13(text)) == "0p3n 7h3 9473"
    assert apply_chain("", "Open", generator(0, "test")) == apply_chain("none", "Open", generator(0, "test")) == "Open"
    assert chain_names(" leet + base64 ") == ("leet", "base64")


@pytest.mark.parametrize(
    "chain",
    ["base64+case", "base64+leet", "base64+typos", "base64+no-vowels", "base64+json+case", "leet+rot13+base64+leet",
     "base64+rot13+case", "escapes+case"],
)  # fmt: skip
def test_a_chain_that_destroys_the_text_is_refused(chain: str) -> None:
    with pytest.raises(ConfigError, match=f"{chain.rpartition('+')[2]} destroys what (base64|escapes) made"):
        check_chain(chain)


@pytest.mark.parametrize(
    "chain",
    ["", "none", "base64", "leet+base64", "case+base64+rot13", "base64+json", "base64+spacing", "rot13+typos",
     "reverse+leet", "reverse-words+case", "hex+case", "binary+leet", "typos+leet+case", "base64+hex+code+table",
     "base64+comment+in-german", "json+case", "homoglyphs+zero-width"],
)  # fmt: skip
def test_a_chain_that_can_be_read_is_not(chain: str) -> None:
    check_chain(chain)


@pytest.mark.parametrize(
    "chain", ["rot13+rot13", "reverse+leet+none", "rot31", "base64++hex", "atbash+reverse+reverse+atbash"]
)
def test_a_chain_that_undoes_itself_or_is_none_is_refused(chain: str) -> None:
    with pytest.raises(ConfigError, match=r"undoes itself|is no converter"):
        check_chain(chain)


def test_the_nearest_name_is_told() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'rot13'"):
        find_converters("rot31")


@pytest.mark.parametrize("chain", ["none", "leet", "spacing"])
def test_nothing_left_is_an_error(chain: str) -> None:
    with pytest.raises(ConfigError, match="leaves nothing"):
        apply_chain(chain, " \n ", generator(0, "test"))


def test_the_page_shows_what_there_is() -> None:
    """Its table is the script's, and its examples run."""
    root = Path(__file__).parents[2]
    page = (root / "docs" / "redteam-converters.md").read_text(encoding="utf-8")
    script = runpy.run_path(str(root / "scripts" / "write_converter_docs.py"))
    assert script["with_table"](page) == page
    examples = doctest.DocTestParser().get_doctest(page.replace("```", ""), {}, "page", None, 0)
    results = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(examples)
    assert results.attempted >= 8 and results.failed == 0
