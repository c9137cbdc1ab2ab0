"""Answers of any form are read without an error, and what was formatted is read back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.bootstrap.parse import (
    format_instances,
    is_well_formed,
    parse_input,
    parse_instances,
    parse_instruction,
    parse_yes_no,
)
from tunesmith.data.bootstrap.seeds import Instance

# Text with the pieces that steer the parser, so that they meet in every order.
STEERED = st.lists(
    st.one_of(
        st.sampled_from(
            ["Input:", "Output: ", "\n", "Label:", "none", "**Input**:", "Task 3:", "1. ", "Sure: ", '"', " "]
        ),
        st.text(max_size=8),
    ),
    max_size=14,
).map("".join)


def is_plain(text: str) -> bool:
    """White space at neither end, and no line that begins like a label."""
    return text == text.strip() and not re.search(r"(?im)^[ \t*_#]*(input|output|label)", text)


PLAIN = st.text(max_size=40).filter(is_plain)
INSTANCES = st.lists(
    st.builds(
        Instance,
        PLAIN.filter(lambda text: not re.search(r"(?i)none|no ?input|n/?a|not needed|empty", text)),
        PLAIN.filter(bool),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Name a river.", "Name a river."),
        ("  Task 9: Name a river.\n", "Name a river."),
        ("**Task:** Name a river.", "Name a river."),
        ("9. Name a river.", "Name a river."),
        ("- Name a river.", "Name a river."),
        ('"Name a river."', "Name a river."),
        ("Sure, here is a task:\n\nName a river.", "Name a river."),
        ('Explain "yes" and "no"', 'Explain "yes" and "no"'),
        ("1984 is a novel. Summarise it.", "1984 is a novel. Summarise it."),
        ("Write a plan:\n1. first\n2. then", "Write a plan:\n1. first\n2. then"),
        ("", ""),
    ],
)
def test_an_instruction_is_taken_out_of_its_wrapping(answer: str, expected: str) -> None:
    assert parse_instruction(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("Yes", True), (" no.", False), ("**Yes**, it is", True), ("Nothing", None), ("A", None), ("", None)],
)
def test_yes_and_no(answer: str, expected: bool | None) -> None:
    assert parse_yes_no(answer) is expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Input: 3, 1\nOutput: 1, 3", [("3, 1", "1, 3")]),
        ("Input: none\nOutput: A poem.\nWith two lines.", [("", "A poem.\nWith two lines.")]),
        ("Here it is.\n**Input:** a\n**Output:** b", [("a", "b")]),
        ("Input 1: a\nOutput 1: b\nInput 2: c\nOutput 2: d", [("a", "b"), ("c", "d")]),
        ("Label: spam\nInput: Win money!", [("Win money!", "spam")]),
        ("Input:\nOutput: b", [("", "b")]),
        ("Input: a\nOutput:", [("a", "")]),
        ("Input: <noinput>\nOutput: b", [("", "b")]),
        # Not to be read: a missing partner, an order that is neither, no label at all.
        ("Input: a", []),
        ("Output: b\nInput: a", []),
        ("Input: a\nOutput: b\nOutput: c", []),
        ("a and b", []),
        ("", []),
    ],
)
def test_instances(answer: str, expected: list[tuple[str, str]]) -> None:
    assert parse_instances(answer) == [Instance(*pair) for pair in expected]


def test_an_input_is_found_whatever_follows() -> None:
    assert parse_input("Input: a\nb\nOutput: c\nOutput: d") == "a\nb"
    assert parse_input("Input: none") == ""
    assert parse_input("The input is a") is None


@given(STEERED)
def test_no_answer_raises(text: str) -> None:
    assert isinstance(parse_instruction(text), str)
    assert parse_yes_no(text) in (True, False, None)
    assert parse_input(text) is None or isinstance(parse_input(text), str)
    assert all(isinstance(one, Instance) for one in parse_instances(text))


@given(INSTANCES, st.booleans())
def test_what_is_formatted_is_read_back(instances: list[Instance], label_first: bool) -> None:
    assert parse_instances(format_instances(instances, label_first=label_first)) == instances
    assert all(map(is_well_formed, instances))


def test_the_round_trip_can_fail() -> None:
    assert not is_well_formed(Instance("a\nOutput: b", "c"))
    assert not is_well_formed(Instance("none", "c"))
    assert not is_well_formed(Instance("a", " c"))
    assert not is_well_formed(Instance("a", ""))
