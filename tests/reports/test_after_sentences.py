"""What the lines on tuning's damage may say: no verdict from a handful of rows, no promise that nothing could keep."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.reports.after_training import say_gap, say_retained


def limits(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


@pytest.mark.parametrize(
    ("seen", "unseen", "widened", "says"),
    [
        (32, 8, limits(0.4, 0.2, 0.6), "LEARNT BY HEART"),
        (32, 8, limits(0.1, -0.2, 0.4), "no sign"),
        (32, 8, limits(-0.4, -0.6, -0.2), "held-out rows gained more"),
        # One long row on a side: its bootstrap has no width, and would be sure of anything.
        (1, 1, limits(0.4, 0.4, 0.4), "too few rows"),
        (3, 32, limits(-0.4, -0.6, -0.2), "too few rows"),
    ],
)
def test_a_verdict_on_seen_rows_needs_rows(seen: int, unseen: int, widened: dict[str, float], says: str) -> None:
    gap = {"num_seen": seen, "num_unseen": unseen, "widened": widened, "membership": limits(0.5, 0.4, 0.6)}
    assert say_gap({"gap": gap}).startswith(says)
    assert say_gap({"gap": None}).startswith("not compared")


@pytest.mark.parametrize(("detectable", "says"), [(0.1, "one of 10 points would have been"), (1.0, "could show none")])
def test_what_could_have_been_seen_is_told(detectable: float, says: str) -> None:
    right: dict[str, Any] = {"base": limits(0.5, 0.4, 0.6), "tuned": limits(0.5, 0.4, 0.6)}
    total = {"kind": "all questions", "num_items": 80, "verdict": "no change seen", "detectable": detectable, **right}
    texts = {"kind": "texts", "verdict": "no change seen", **right}
    said = say_retained({"retained": [total, texts]})
    assert says in said and "100 points" not in said
