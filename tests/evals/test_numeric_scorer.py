"""Numbers in texts: what is read, what is not, and which answer counts."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import DataError
from tunesmith.evals.numeric import numbers, numeric_answer
from tunesmith.evals.task import Item, Reply, Request, Scorer


def scored(score: Scorer, target: str, text: str) -> dict[str, float]:
    item = Item(id="a", messages=(), target=target)
    return dict(
        score(item, Reply(request=Request(item=item, messages=()), text=text, stop_reason="end_of_turn")).values
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("no number, A4 paper, x2", []),
        ("18", [18]),
        ("It is 18.", [18]),
        ("$1,234.50 and 1'234 and 12,34,567", ["1234.5", 1234, 1234567]),
        ("1\u202f234\u202f567", [1234567]),
        ("1,2,3", [1, 2, 3]),
        ("1,2345", [1, 2345]),
        ("-5, −6, -$7, $-8, +9", [-5, -6, -7, -8, 9]),
        ("10-5=5, 3 - 2, f(x)-4", [10, 5, 5, 3, 2, 4]),
        ("- 5 apples\n- 6 pears", [5, 6]),
        (".5 and 0.50", ["1/2", "1/2"]),
        ("3.14.15", ["3.14"]),
        ("so...18", [18]),
        ("3/4, 1 1/2, 6 / 8", ["3/4", "3/2", "3/4"]),
        ("on 3/4/2020", [3, 4, 2020]),
        ("1/0", []),
        (r"\frac{3}{4} and -\dfrac{1}{2}", ["3/4", "-1/2"]),
        ("1.5e3, 2E-2, 2 x 10^3, 3 × 10^{-1}, 4 \\times 10^2", [1500, "1/50", 2000, "3/10", 400]),
        ("9" * 61, []),
        ("1e61 1e60", [10**60]),
        ("50% of 2kg", [50, 2]),
        ("**18** _19_ (20) [21] \\boxed{22}", [18, 19, 20, 21, 22]),
        ("100,200", [100200]),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, found: list[int | str]) -> None:
    assert [number.value for number in numbers(text)] == [Fraction(value) for value in found]


@given(st.integers(-(10**9), 10**9), st.integers(0, 6))
def test_a_number_is_read_whatever_way_it_is_written(whole: int, places: int) -> None:
    value = Fraction(whole, 10**places)
    decimal = Decimal(whole).scaleb(-places)
    assert [n.value for n in numbers(f"so it is {decimal:f}.")] == [value]
    assert [n.value for n in numbers(f"{decimal:,f} km")] == [value], "thousands separators change nothing"
    assert [n.value for n in numbers(f"{value.numerator}/{value.denominator}")] == [value]


@given(st.text(alphabet="0123456789,./-+ e^x$%{}\\frac'", max_size=200))
def test_any_text_has_numbers_or_none(text: str) -> None:
    assert all(isinstance(number.value, Fraction) for number in numbers(text))


@pytest.mark.parametrize(
    ("text", "numeric", "marked"),
    [
        ("2+3=5\n#### 18", 1, 1),
        ("#### 18 dollars, not 20", 1, 1),
        ("#### 17\n#### 18", 1, 1),
        ("The answer is 18", 1, 0),
        ("18 of them, that is 20", 0, 0),
        ("#### none\nit is 18", 1, 1),
        ("18 ####", 1, 0),
        ("#### 17, or 18", 0, 0),
        ("", 0, 0),
    ],
)
def test_the_number_behind_the_mark_counts_else_the_last(text: str, numeric: int, marked: int) -> None:
    got = scored(numeric_answer(mark="####"), "They have 20 - 2 = 18.\n#### 18", text)
    assert got == {"numeric": numeric, "marked": marked}


@pytest.mark.parametrize(
    ("tolerances", "text", "right"),
    [
        ({}, "0.3333", 0),
        ({}, "2/6", 1),
        ({"absolute": 0.001}, "0.3333", 1),
        ({"absolute": 0.00001}, "0.3333", 0),
        ({"relative": 0.001}, "0.3333", 1),
        ({"relative": 0.00001}, "0.3333", 0),
    ],
)
def test_the_tolerance_is_the_one_stated(tolerances: dict[str, float], text: str, right: int) -> None:
    assert scored(numeric_answer(**tolerances), "1/3", text) == {"numeric": right}


@pytest.mark.parametrize(
    ("target", "text", "right"),
    [
        ("3 km", "3000 m", 1),
        ("3 km", "3000 km", 0),
        ("3 km", "it is 3", 1),
        ("3000", "3 km", 1),
        ("3 km", "3 apples", 1),
        ("50 %", "0.5", 0),
        ("0.5", "50%", 1),
        ("50%", "50 \\%", 1),
    ],
)
def test_units_are_converted_and_a_bare_answer_has_the_targets(target: str, text: str, right: int) -> None:
    assert scored(numeric_answer(units={"km": 1000, "m": 1, "%": 0.01}), target, text) == {"numeric": right}


def test_a_target_without_a_number_is_an_error_and_so_is_a_negative_tolerance() -> None:
    with pytest.raises(DataError, match="item a: no number in the target 'eighteen'"):
        scored(numeric_answer(), "eighteen", "18")
    with pytest.raises(ValueError, match="negative"):
        numeric_answer(absolute=-1)
