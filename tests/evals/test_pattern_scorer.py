"""Regular expressions: what matches, what is taken out, and that no pattern can take for ever."""

from __future__ import annotations

import time

import pytest

from tunesmith.errors import DataError
from tunesmith.evals.patterns import pattern_answer, pattern_match
from tunesmith.evals.task import Item, Reply, Request, Scorer
from tunesmith.records import Verdict

CATASTROPHE = r"^(a|b|ab)*c|(a+)+$"


def said(score: Scorer, text: str, target: str = "") -> Verdict:
    item = Item(id="a", messages=(), target=target)
    return score(item, Reply(request=Request(item=item, messages=()), text=text))


def test_a_pattern_is_searched_or_matched_whole() -> None:
    assert said(pattern_match(r"\b\d{4}\b"), "in 1984, so").values == {"match": 1.0}
    assert said(pattern_match(r"\b\d{4}\b"), "in 19845").values == {"match": 0.0}
    assert said(pattern_match(r"\d{4}", whole=True), "1984").values == {"match": 1.0}
    assert said(pattern_match(r"\d{4}", whole=True), "in 1984").values == {"match": 0.0}
    assert said(pattern_match(), "colour", target="colou?r").values == {"match": 1.0}


def test_the_answer_taken_out_is_compared_with_the_target() -> None:
    last, first = pattern_answer(r"answer is \(?(\w)\)?"), pattern_answer(r"answer is \(?(\w)\)?", last=False)
    text = "The answer is (A). No, the answer is B."
    assert said(last, text, "b").values == {"extracted": 1.0, "match": 1.0}
    assert said(first, text, "b").values == {"extracted": 1.0, "match": 0.0}
    assert said(first, text, "b").explanation == "'A' instead of 'b'"
    assert said(last, "It is B.", "B").values == {"extracted": 0.0, "match": 0.0}
    assert said(pattern_answer("[A-D]"), "B", "B").values["match"] == 1.0, "without a group the whole match counts"
    assert said(pattern_answer("(x)|(y)"), "y", "y").values["extracted"] == 0.0, "the first group took no part"


@pytest.mark.parametrize("score", [pattern_match, pattern_answer])
def test_a_pattern_without_end_is_stopped_and_scores_nothing(score: object) -> None:
    make = score(CATASTROPHE, seconds=0.1)  # type: ignore[operator]
    start = time.monotonic()
    verdict = said(make, "ab" * 40 + "a" * 40 + "!")
    assert time.monotonic() - start < 3
    assert verdict.values["match"] == 0.0 and "no end within 0.1 s" in verdict.explanation
    # The control: the same pattern is fine on a text that does not drive it mad.
    assert said(make, "abc", "b").values["match"] == 1.0


def test_a_text_too_long_scores_nothing_and_says_why() -> None:
    verdict = said(pattern_match("a", max_characters=10), "a" * 11)
    assert verdict.values == {"match": 0.0} and "11 characters, more than the 10" in verdict.explanation
    assert said(pattern_match("a", max_characters=10), "a" * 10).values == {"match": 1.0}


def test_what_is_no_pattern_is_an_error_at_once_or_names_the_item() -> None:
    with pytest.raises(DataError, match=r"pattern '\(': is no regular expression"):
        pattern_match("(")
    with pytest.raises(DataError, match="item a: is no regular expression"):
        said(pattern_match(), "x", target="[")
