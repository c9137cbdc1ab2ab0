"""The table of faults: counted by cause, first places, stable text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.check import PLACES_SHOWN, Fault, FaultLog, RowError, shown
from tunesmith.errors import DataError
from tunesmith.records import Where

EMPTY = ("the text is empty.", "Fill it in.")


def log_of(*faults: Fault) -> FaultLog:
    log = FaultLog()
    for fault in faults:
        log.add(fault)
    return log


def test_the_table_is_grouped_counted_and_stable() -> None:
    log = log_of(
        Fault(Where("a.jsonl", 9), "the row is not JSON.", "Correct it.", "column 3"),
        *(Fault(Where("a.jsonl", line, "output"), *EMPTY) for line in range(1, 8)),
    )
    assert len(log) == 8
    assert log.by_cause() == {"the text is empty": 7, "the row is not JSON": 1}
    assert log.table() == "\n".join(
        [
            "  7 rows: the text is empty.",
            *(f"      a.jsonl:{line}:output" for line in range(1, PLACES_SHOWN + 1)),
            "      and 2 more",
            "      Fix: Fill it in.",
            "  1 row: the row is not JSON.",
            "      a.jsonl:9 (column 3)",
            "      Fix: Correct it.",
        ]
    )
    with pytest.raises(DataError) as caught:
        log.raise_if_any("a.jsonl", 20)
    assert caught.value.cause.startswith("8 of 20 rows are faulty.")
    assert log.table() in caught.value.cause
    assert "data.on_bad_row: drop" in caught.value.fix


def test_a_lone_fault_is_raised_at_its_own_place() -> None:
    log = log_of(Fault(Where("a.jsonl", 3), "the row is not JSON.", "Correct it.", "column 3"))
    with pytest.raises(RowError) as caught:
        log.raise_if_any("a.jsonl", 20)
    assert str(caught.value) == "a.jsonl:3: the row is not JSON (column 3). Fix: Correct it."


def test_no_fault_raises_nothing() -> None:
    FaultLog().raise_if_any("a.jsonl", 20)


@settings(deadline=None)
@given(st.permutations([("x.", 3), ("y.", 1), ("z.", 3)]))
def test_the_order_of_causes_does_not_depend_on_the_order_of_rows(order: list[tuple[str, int]]) -> None:
    log = log_of(*(Fault(Where("a", 1), cause, "f.") for cause, count in order for _ in range(count)))
    assert list(log.by_cause().items()) == [("x", 3), ("z", 3), ("y", 1)]


@settings(deadline=None)
@given(st.text(max_size=200))
def test_shown_text_is_one_printable_line(text: str) -> None:
    out = shown(text)
    out.encode()
    assert out.isprintable()
    if text.isprintable() and len(text) <= 60:
        assert out == text
