"""What trying a pattern says of it: a text it matches, nothing, everything, or that it takes for ever."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.constitution.pattern_check import pattern_facts


@pytest.mark.parametrize(
    "pattern", ["a^", "$a", "(?!)", "x(?!)", r"[^\x00-\U0010ffff]", "tonight$ or never", r"foo\Z."]
)
def test_what_matches_no_text_is_told(pattern: str) -> None:
    assert pattern_facts(pattern).matches == "nothing"


@pytest.mark.parametrize("pattern", ["", "a*", ".*", "(x|)", "^"])
def test_what_matches_every_text_is_told(pattern: str) -> None:
    assert pattern_facts(pattern).matches == "everything"


@pytest.mark.parametrize(
    "pattern",
    [
        r"\bfoo\b", r"\b-", r"(?<=x)foo", r"(?<!x)foo", "^$", "[一-龥]+", r"[\u4e00-\u9fff]", r"\p{Thai}",
        r"\w+@\w+\.\w+", "(foo|bar){12}", r"\d{3}-\d{4}", r"(?P<q>.)(?P=q)", r"(?i)abc", r"a\b b", "(.*)(.*)(.*)x",
        "[a&&b]",
    ],
)  # fmt: skip
def test_a_text_is_found_that_the_pattern_matches(pattern: str) -> None:
    facts = pattern_facts(pattern)
    assert facts.matches == "some" and not facts.slow_on
    if r"\p" not in pattern:
        assert re.search(pattern, facts.witness, re.IGNORECASE)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(x+x+)+y", r"(\w+\s?)*$", "(a|aa)+$"])
def test_a_pattern_that_takes_for_ever_is_told_and_not_searched_further(pattern: str) -> None:
    facts = pattern_facts(pattern, seconds=0.05)
    assert facts.matches == "unknown" and facts.slow_on.endswith("...")


@pytest.mark.parametrize("pattern", [r"[^\s\S]", r"[^\w\W]foo"])
def test_what_two_engines_read_in_two_ways_is_told(pattern: str) -> None:
    facts = pattern_facts(pattern)
    # Python's re finds nothing there, as it should; the engine with a time limit does.
    assert facts.matches == "disputed" and not re.search(pattern, facts.witness)


@pytest.mark.parametrize("pattern", [r"\Bfoo", r"a\bb", "(?=a)b"])
def test_where_it_cannot_tell_it_says_nothing(pattern: str) -> None:
    # The first can match and the others cannot: a search that prunes at the text's end sees neither.
    assert pattern_facts(pattern).matches == "unknown"


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=8))
def test_words_taken_as_they_are_match_themselves(text: str) -> None:
    facts = pattern_facts(re.escape(text))
    assert (facts.matches == "some" and facts.witness.lower() == text.lower()) or len(facts.witness) == len(text)
