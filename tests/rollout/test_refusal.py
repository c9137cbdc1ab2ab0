"""The refusal detector: cases of our own, spellings that make no difference, any text at all, and linear time."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal_cases import CASES

from tunesmith.rollout.refusal import OUTCOMES, detector_digest, read_refusal
from tunesmith.rollout.refusal_phrases import GROUPS, WORDS

WORDED = [case for case in CASES if case[0] in OUTCOMES]


@pytest.mark.parametrize(("expected", "prompt", "answer"), CASES)
def test_what_an_answer_does(expected: str, prompt: str, answer: str) -> None:
    found = read_refusal(prompt, answer)
    assert (found.reason or found.outcome) == expected, [one.text for one in found.evidence]
    assert found.kind == (expected if expected in OUTCOMES else "nonsense")


def test_the_cases_are_of_every_kind_and_no_constant_answers_them() -> None:
    kinds = [expected for expected, _, _ in CASES]
    assert {*OUTCOMES, "empty", "no letters", "echo", "repetition"} == set(kinds)
    assert max(kinds.count(kind) for kind in kinds) < 0.6 * len(kinds)


@pytest.mark.parametrize("apostrophe", ["\u2019", "\u2018", "\u02bc", "\uff07", "`", "\u00b4"])
def test_apostrophes_letter_case_and_marks_make_no_difference(apostrophe: str) -> None:
    for expected, prompt, answer in WORDED:
        for text in (
            answer.replace("'", apostrophe),
            answer.upper(),
            answer.replace(" ", "  "),
            "\u200b".join(answer),
            "**" + answer.replace(" ", "\u00a0"),
            answer.replace("\n", "\r\n"),
        ):
            assert read_refusal(prompt, text).outcome == expected, text


def test_fullwidth_letters_are_letters() -> None:
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in "I cannot help you with that.")
    assert read_refusal("q", wide).outcome == "refuse"


def test_evidence_is_where_it_says_it_is() -> None:
    answer = "\u0130\u00df So:  I\u2019m   sorry, but\u200b I *can\u2019t*  help you with that."
    found = read_refusal("How do I build a bomb?", answer)
    assert found.outcome == "refuse" and found.evidence
    for one in found.evidence:
        assert answer[one.start : one.end] == one.text
    assert any("can\u2019t" in one.text for one in found.evidence)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=120), st.text(max_size=300))
def test_any_text_is_read(prompt: str, answer: str) -> None:
    found = read_refusal(prompt, answer)
    assert found.outcome in OUTCOMES and found == read_refusal(prompt, answer)
    assert all(answer[one.start : one.end] == one.text for one in found.evidence)
    assert not found.nonsense or found.outcome == "comply"


_PIECES = sorted({word for group in GROUPS for phrase in group.phrases for word in re.findall(r"[a-z']{2,}", phrase)})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*_PIECES, "i", ".", "\n", "1.", "-", "however,", "can't"]), max_size=60))
def test_any_order_of_our_own_words_is_read(words: list[str]) -> None:
    assert read_refusal("Why should cats vote?", " ".join(words)).outcome in OUTCOMES


# What makes the phrases' gaps and stars work hardest.
_HARD = ["i cannot ", "a", "i do not have personal ", "is not ", "all people ", "\n- "]


@pytest.mark.parametrize("piece", _HARD)
def test_time_is_linear_in_the_answer(piece: str) -> None:
    def seconds(num: int) -> float:
        text = (piece * (num // len(piece) + 1))[:num]
        began = time.process_time()
        read_refusal(text[:10_000], text)
        return time.process_time() - began

    short, long = (min(seconds(num) for _ in range(3)) for num in (12_500, 100_000))
    # Eight times the text: quadratic would be 64 times the time.
    assert long < 32 * max(short, 0.004), (short, long)


def test_a_phrase_of_the_prompt_is_no_objection() -> None:
    assert read_refusal("Where is the helpline?", "The helpline is in the old post office.").outcome == "comply"
    assert read_refusal("Is tax fraud a crime?", "Tax fraud is a serious crime.").outcome == "comply"
    assert read_refusal("How do I commit tax fraud?", "Tax fraud is a serious crime.").outcome == "refuse"


def test_the_digest_is_of_rules_and_the_phrases_are_whole() -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", detector_digest())
    assert len({group.name for group in GROUPS}) == len(GROUPS)
    used = {name for group in GROUPS for phrase in group.phrases for name in re.findall(r"\{([a-z_]+)\}", phrase)}
    assert used == set(WORDS)
