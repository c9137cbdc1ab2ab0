"""Every reason to turn a task or an instance down, worked out by hand, and texts that must pass."""

from __future__ import annotations

import pytest

from tunesmith.data.bootstrap.filters import (
    FilterConfig,
    instance_fault,
    instances_faults,
    instruction_fault,
    is_repetitive,
    repeated_share,
)
from tunesmith.data.bootstrap.seeds import Instance

LIMITS = FilterConfig()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("Name a \x1b[31m river.", "bad_character"),
        ("...", "format"),
        (", then name a river", "format"),
        ("Name a river.\nInput: none", "format"),
        ("Write to [your name] about rivers.", "format"),
        ("Insert your text here and go on", "format"),
        ("Name it", "too_short"),
        ("word " * 151, "too_long"),
        ("Describe the image in detail.", "blocked_word"),
        ("Open the FILE and count its lines.", "blocked_word"),
        ("Say why this is shit.", "profanity"),
        ("Go on and go on and go on and go on and go on and go on", "repetitive"),
        ("Say very very very very very loudly", "repetitive"),
        # What only looks like one of these.
        ("Summarise the paragraph about imagery.", None),
        ("Name a profile of Scunthorpe.", None),
        ("¿Qué río es el más largo?", None),
        ("请写 一首 诗", None),
        ("Name it twice", None),
        ("word " + " ".join(f"w{i}" for i in range(149)), None),
    ],
)
def test_instructions(text: str, reason: str | None) -> None:
    assert instruction_fault(text, LIMITS) == reason


def test_own_words_are_blocked_too() -> None:
    limits = FilterConfig(blocked_words=("River",))
    assert instruction_fault("Name the longest river.", limits) == "blocked_word"
    assert instruction_fault("Name the longest road.", limits) is None


@pytest.mark.parametrize(
    ("given", "output", "reason"),
    [
        ("a b", "", "empty_output"),
        ("a b", "  ", "empty_output"),
        ("a b", "half a \ud83d", "bad_character"),
        ("broken \ufffd", "a b", "bad_character"),
        ("A, b!", "a b", "input_equals_output"),
        ("", "Name a river.", "echo_of_instruction"),
        ("name a river", "The Elbe.", "input_is_instruction"),
        ("a", "Dear [name of the guest], hello", "blank_left"),
        ("a", "word " * 501, "too_long"),
        ("a", "well, shit", "profanity"),
        ("bitch", "a", "profanity"),
        ("a", "so it goes on and " * 8, "repetitive"),
        ("2, 2, 2, 2, 2", "ten", "repetitive"),
        ("", "The Elbe.", None),
        ("Germany", "The Elbe.", None),
        ("+", "-", None),
    ],
)
def test_instances_alone(given: str, output: str, reason: str | None) -> None:
    assert instance_fault("Name a river.", Instance(given, output), LIMITS) == reason


def test_instances_that_contradict_or_repeat_each_other() -> None:
    pairs = [("a", "1"), ("b", "2"), ("A ", "3"), ("b", "2"), ("c", "")]
    faults = instances_faults("Count it.", [Instance(*pair) for pair in pairs], LIMITS)
    # Neither of two answers to one input is kept; of two equal pairs the first is.
    assert faults == ["conflict", None, "conflict", "duplicate", "empty_output"]


def test_the_repeated_share_by_hand() -> None:
    # Nine words make six groups of four; the last two were there before.
    assert repeated_share("a b c d e a b c d") == pytest.approx(1 / 6)
    assert repeated_share("a b a b a b a b") == pytest.approx(3 / 5)
    assert repeated_share("a a a a a a a") == 0.0
    assert not is_repetitive("a b c d e a b c d", LIMITS)
    assert is_repetitive("a b c d e a b c d", FilterConfig(max_repeated_share=0.1))
