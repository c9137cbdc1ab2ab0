"""Numeric answers: the numbers in a text as exact fractions, and a scorer that compares one with the target."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from tunesmith.errors import DataError
from tunesmith.evals.task import Item, Reply, Scorer
from tunesmith.records import Verdict

# Beyond these a run of digits is taken for no number: arithmetic on it would take for ever.
_MAX_DIGITS, _MAX_EXPONENT = 60, 60
# Groups of three behind , ' ’ or a thin or fixed space; Indian groups of two as well, before a last one of three.
_WHOLE = r"\d{1,3}(?:[,'’\u2009\u202f\u00a0]\d{2,3})*[,'’\u2009\u202f\u00a0]\d{3}(?!\d)|\d+"
_DECIMAL = rf"(?:(?:{_WHOLE})(?:\.\d+)?|(?<!\.)\.\d+)"
_TIMES_TEN = r"\s?(?:[x×*·]|\\times|\\cdot)\s?10\s?(?:\^|\*\*)\s?\{?"
_NUMBER = re.compile(
    # Not within a word or another number; a minus behind one is a dash or a subtraction.
    r"(?<![^\W_])(?<!\d\.)(?P<sign>(?<![)\]])[-−+])?(?:[$€£¥]\s?(?P<minus>[-−])?)?(?:"
    rf"\\[dt]?frac\{{(?P<top>{_DECIMAL})\}}\{{(?P<bottom>{_DECIMAL})\}}"
    rf"|(?<!\d/)(?:(?P<whole>\d+)\s)?(?P<above>{_DECIMAL})\s?/\s?(?P<below>\d+(?:\.\d+)?)(?!\s?[/\d]|\.\d)"
    rf"|(?P<plain>{_DECIMAL})(?:[eE](?P<e>[-+]?\d+)|{_TIMES_TEN}(?P<ten>[-−+]?\d+)\}}?)?"
    r")(?:\s?(?P<unit>\\?%|°[CF]?|[^\W\d_]+(?:[²³]|/[^\W\d_]+)?))?"
)


@dataclass(frozen=True, slots=True)
class Number:
    """A number found in a text, exact, and the word or sign behind it, which may be its unit."""

    value: Fraction
    unit: str = ""


def numbers(text: str) -> list[Number]:
    """The numbers of a text in their order.

    Read: signs (also −) and currency signs before, separators of thousands (1,234 · 1'234 · 12,34,567), decimals,
    1.5e3, 2 x 10^3, fractions (3/4, 1 1/2, \\frac{3}{4}). A list without blanks such as 100,200 reads as one number; a
    date such as 3/4/2020 as three; digits behind a letter (A4) as none, and so do runs of more than 60 digits.
    """
    return [
        Number(value, (m["unit"] or "").lstrip("\\"))
        for m in _NUMBER.finditer(text)
        if (value := _value(m)) is not None
    ]


def _value(match: re.Match[str]) -> Fraction | None:
    part = match.groupdict()
    if sum(character.isdigit() for character in match.group()) > _MAX_DIGITS:
        return None
    if part["top"] or part["above"]:
        above, below = _decimal(part["top"] or part["above"]), _decimal(part["bottom"] or part["below"])
        if not below:
            return None
        value = Fraction(int(part["whole"] or 0)) + above / below
    else:
        exponent = int((part["e"] or part["ten"] or "0").replace("−", "-"))
        if abs(exponent) > _MAX_EXPONENT:
            return None
        value = _decimal(part["plain"]) * Fraction(10) ** exponent
    negative = part["sign"] in ("-", "−") or bool(part["minus"])
    return -value if negative else value


def _decimal(digits: str) -> Fraction:
    return Fraction(re.sub(r"[^\d.]", "", digits))


def numeric_answer(
    *,
    mark: str | None = None,
    absolute: float = 0.0,
    relative: float = 0.0,
    units: Mapping[str, float] | None = None,
) -> Scorer:
    """Compare the number a reply ends on with the target's; the target is read the same way.

    The number is the first one behind the last ``mark`` (GSM8K: ####), else the last one of the text. It is right
    when |answer - target| <= max(absolute, relative |target|); both 0: exactly equal, so 0.5, .50 and 1/2 are one.
    units: unit -> how many of the base unit it is (km: 1000, m: 1); a number without one of them has the target's.
    Other words behind a number are not looked at. Values (0 or 1): numeric, and with a mark also marked (right, and
    it stood behind the mark). Raises DataError for a target without a number.
    """
    if absolute < 0 or relative < 0:
        raise ValueError(f"tolerances of {absolute} and {relative}: they cannot be negative")
    factors = {unit.lower(): Fraction(str(factor)) for unit, factor in (units or {}).items()}

    def in_base(number: Number, default: Fraction) -> Fraction:
        return number.value * factors.get(number.unit.lower(), default)

    def score(item: Item, reply: Reply) -> Verdict:
        gold, _ = _chosen(item.target, mark)
        if gold is None:
            raise DataError(f"item {item.id}", f"no number in the target {item.target!r}.", "Give it one.")
        answer, was_marked = _chosen(reply.text, mark)
        factor = factors.get(gold.unit.lower(), Fraction(1))
        target = in_base(gold, factor)
        allowed = max(Fraction(absolute), Fraction(relative) * abs(target))
        right = answer is not None and abs(in_base(answer, factor) - target) <= allowed
        values = {"numeric": float(right)} | ({"marked": float(right and was_marked)} if mark is not None else {})
        said = "no number" if answer is None else f"{_shown(answer.value)} instead of {_shown(gold.value)}"
        return Verdict(values=values, explanation="" if right else said)

    return score


def _chosen(text: str, mark: str | None) -> tuple[Number | None, bool]:
    """The number that counts, and whether it stood behind the mark."""
    if mark is not None and mark in text and (behind := numbers(text.rpartition(mark)[2])):
        return behind[0], True
    found = numbers(text)
    return (found[-1] if found else None), False


def _shown(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.10g}"
