"""Judge texts -> verdicts, without torch: what a judge wrote is read by a rule, and what cannot be read stays visible.

A text that holds no verdict, or two different ones, is *unparsed*: a verdict of its own that is counted and bounded by
the best and the worst it could have been. It is never dropped, guessed or taken for a tie.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

from tunesmith.rollout.marks import final_mark

# A verdict on two answers in the order in which the judge saw them.
Shown = Literal["first", "second", "tie", "unparsed"]
SWAPPED: Mapping[Shown, Shown] = {"first": "second", "second": "first", "tie": "tie", "unparsed": "unparsed"}
# What a verdict is worth to the answer shown first.
WORTH: Mapping[Shown, float] = {"first": 1.0, "second": 0.0, "tie": 0.5}
_OF_LETTER: Mapping[str, Shown] = {"A": "first", "B": "second", "C": "tie"}
_OF_NUMBER: Mapping[str, Shown] = {"1": "first", "2": "second", "3": "tie"}
# Two scores that differ by no more than this are a tie, as the form's authors count it.
TIE_GAP = 0.1

_NUMBER = r"\d{1,3}(?:[.,]\d+)?"
_GRADE = re.compile(rf"({_NUMBER})(?:\s*/\s*(\d+))?")
_NAME = r"(?:assistant\s*)?[12ab]\s*[:=]\s*"
_TWO = re.compile(rf"\W*(?:{_NAME})?({_NUMBER})(?:\s*/\s*10)?[\s,;&]+(?:{_NAME})?({_NUMBER})(?:\s*/\s*10)?\W*", re.I)


def read_letters(text: str) -> Shown:
    """[[A]], [[B]] or [[C]]: the first, the second, a tie."""
    mark = final_mark(text, lambda inner: inner.upper() in _OF_LETTER)
    return "unparsed" if mark is None else _OF_LETTER[mark.upper()]


def read_number(text: str) -> Shown:
    """1, 2 or 3 (a tie) alone on the last line, or on the first where the last holds another text."""
    lines = [line.strip().strip(".*") for line in text.strip().splitlines()] or [""]
    return next((_OF_NUMBER[line] for line in (lines[-1], lines[0]) if line in _OF_NUMBER), "unparsed")


def read_two_scores(text: str, tie_gap: float = TIE_GAP) -> Shown:
    """Two scores on a line of their own, the first line that is one: "8 7", "[8, 7.5]", "A: 8/10, B: 7/10"."""
    for line in text.strip().splitlines():
        if match := _TWO.fullmatch(line.strip()):
            first, second = (float(number.replace(",", ".")) for number in match.groups())
            if abs(first - second) <= tie_gap + 1e-9:
                return "tie"
            return "first" if first > second else "second"
    return "unparsed"


PAIR_FORMATS: Mapping[str, Callable[[str], Shown]] = {
    "letters": read_letters,
    "number": read_number,
    "two-scores": read_two_scores,
}


def read_grade(text: str, lowest: float = 1.0, highest: float = 10.0) -> float | None:
    """The number in [[...]] from ``lowest`` to ``highest``, also written [[7/10]]; None where there is none."""
    mark = final_mark(text, lambda inner: _grade(inner, lowest, highest) is not None)
    return None if mark is None else _grade(mark, lowest, highest)


def _grade(inner: str, lowest: float, highest: float) -> float | None:
    match = _GRADE.fullmatch(inner)
    if match is None or (match[2] is not None and float(match[2]) != highest):
        return None
    value = float(match[1].replace(",", "."))
    return value if lowest <= value <= highest else None
