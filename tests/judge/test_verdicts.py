"""Judge texts are read by rules, and what cannot be read stays a verdict of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import shared_data

from tunesmith.errors import ConfigError, DataError
from tunesmith.evals.judge_rows import load_verdicts
from tunesmith.evals.judge_stats import PairVerdict, Told, bounded_grade, bounded_rate, judge_statistics, win_rates
from tunesmith.evals.verdicts import SWAPPED, Shown, read_grade, read_letters, read_number, read_two_scores
from tunesmith.recipes.judge import describe_stats, run_stats


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("A is fuller. [[A]]", "first"),
        ("**Verdict: [[ b ]]**", "second"),
        ("[[C]]", "tie"),
        ("Both are fine. [B]", "second"),
        ("You asked for [[A]] or [[B]]. My verdict is [[B]].", "second"),
        ('Format: "[[rating]]". [[A]]', "first"),
        ("[[A]], or rather [[B]], or both", "unparsed"),
        ("[[A]] and [[A]] once more, I am sure", "first"),
        ("Assistant A is better", "unparsed"),
        ("[[D]]", "unparsed"),
        ("see [A] and [B] below", "unparsed"),
        ("", "unparsed"),
    ],
)
def test_letters(text: str, outcome: Shown) -> None:
    assert read_letters(text) == outcome


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("Good. [[7]]", 7.0),
        ("[[7.5]]", 7.5),
        ("[[8/10]]", 8.0),
        ("[[4/5]]", None),
        ("Rating: [6]", 6.0),
        ("Use [[1]] to [[10]]. Mine: [[3]]", 3.0),
        ("[[3]] is too low, [[4]] perhaps too high", None),
        ("[[11]]", None),
        ("[[0]]", None),
        ("[[rating]]", None),
        ("It has 7 faults.", None),
        ("[[-3]]", None),
    ],
)
def test_grades(text: str, grade: float | None) -> None:
    assert read_grade(text) == grade


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("8 7\nThe first is better because 9 of 10 ...", "first"),
        ("[6, 8.5]", "second"),
        ("A: 8/10, B: 8/10", "tie"),
        ("Assistant 1: 3\nBecause ...", "unparsed"),
        ("Assistant 1: 3, Assistant 2: 5", "second"),
        ("7.0 7.1", "tie"),
        ("7.0 7.2", "second"),
        ("I give 8 to the first and 7 to the second", "unparsed"),
        ("8 7 6", "unparsed"),
        ("", "unparsed"),
    ],
)
def test_two_scores(text: str, outcome: Shown) -> None:
    assert read_two_scores(text) == outcome


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("Because.\n\n2", "second"),
        ("**1**", "first"),
        ("3\nThey are alike.", "tie"),
        ("4", "unparsed"),
        ("", "unparsed"),
        ("Assistant 2 is better", "unparsed"),
        ("1 or 2", "unparsed"),
    ],
)
def test_numbers(text: str, outcome: Shown) -> None:
    assert read_number(text) == outcome


def test_the_statistics_of_3360_real_verdicts() -> None:
    recorded = load_verdicts(str(shared_data("judge_decisions/vicuna_pairwise_scores.jsonl")))
    stats = judge_statistics(recorded.verdicts)
    assert len(recorded.verdicts) == 3360
    assert stats.counts == {"first": 1894, "second": 1037, "tie": 421, "unparsed": 8}
    assert stats.num_pairs == 1680 and stats.balanced
    assert stats.consistent is not None and stats.reversed is not None and stats.prefers_first is not None
    assert (round(100 * stats.consistent.value, 1), round(100 * stats.reversed.value, 1)) == (61.0, 19.3)
    assert stats.reversed_to_first + stats.reversed_to_second == round(stats.reversed.value * 1680) == 324
    assert stats.half + stats.unparsed_pairs + 324 + round(stats.consistent.value * 1680) == 1680
    assert stats.prefers_first.value == 1894 / (1894 + 1037)
    # Some verdicts more or fewer would be noticed, and so would a tie taken for an unparsed one.
    assert judge_statistics(recorded.verdicts[1:]).counts != stats.counts
    rates = win_rates(recorded.verdicts)
    assert sum(one.num_unparsed for one in rates.values()) == 2 * 8
    assert sum(one.least for one in rates.values()) < len(rates) / 2 < sum(one.most for one in rates.values())


def test_the_real_texts_say_what_was_recorded_of_them() -> None:
    path = str(shared_data("judge_decisions/vicuna_pairwise_raw.jsonl"))
    recorded = load_verdicts(path, "number")
    assert recorded.num_texts == len(recorded.verdicts) == 240 and recorded.differing == ()
    # Control: the wrong form reads none of them, and says so.
    assert len(load_verdicts(path, "letters").differing) == 240
    lines = describe_stats(run_stats(path, "number"))
    assert "240 were read from texts; 0 differ from what is recorded." in lines
    assert any("not calibrated" in line for line in lines)


def pair(question: str, there: Shown, back: Shown) -> list[PairVerdict]:
    return [
        PairVerdict(question=question, first="x", second="y", outcome=there),
        PairVerdict(question=question, first="y", second="x", outcome=back),
    ]


def test_a_judge_that_looks_at_the_place_alone_is_found_out() -> None:
    verdicts = [v for i in range(20) for v in pair(f"q{i}", "first", "first")]
    stats = judge_statistics(verdicts)
    assert stats.prefers_first is not None and stats.prefers_first.value == 1
    assert stats.reversed is not None and stats.reversed.value == 1 and stats.reversed_to_first == 20
    assert stats.kappa is not None and stats.kappa.value == 0
    assert win_rates(verdicts)["x"].value == 0.5
    honest = judge_statistics([v for i in range(20) for v in pair(f"q{i}", *_likes("x" if i % 3 else "y"))])
    assert honest.consistent is not None and honest.consistent.value == 1
    assert honest.prefers_first is not None and honest.prefers_first.value == 0.5
    assert honest.kappa is not None and honest.kappa.value == pytest.approx(1.0)


def _likes(name: str) -> tuple[Shown, Shown]:
    return ("first", "second") if name == "x" else ("second", "first")


def test_half_pairs_repetitions_and_single_orders_are_told_apart() -> None:
    verdicts = [*pair("a", "tie", "first"), *pair("b", "tie", "tie"), *pair("c", "unparsed", "second")]
    verdicts += [PairVerdict(question="d", first="x", second="y", outcome="first")]
    verdicts += [PairVerdict(question="a", first="x", second="y", outcome=o) for o in ("tie", "second")]
    stats = judge_statistics(verdicts)
    assert (stats.num_pairs, stats.half, stats.unparsed_pairs, stats.repeated) == (3, 1, 1, 2)
    assert not stats.balanced
    assert stats.repeats_agree is not None and stats.repeats_agree.value == 0.5
    assert stats.consistent is not None and stats.consistent.value == pytest.approx(1 / 3)
    # a: (1/2 + 0) / 2; b: 1/2; d: 1; c is 1/2 of a win and what could not be read.
    rate = win_rates(verdicts)["x"]
    assert rate.value == pytest.approx((0.25 + 0.5 + 1) / 3)
    assert (rate.least, rate.most) == ((0.25 + 0.5 + 1 + 0.5) / 4, (0.25 + 0.5 + 1 + 1) / 4)


def test_bounds_hold_whatever_the_unread_verdicts_were() -> None:
    read = [Told(f"q{i}", float(i % 2), i % 2, i % 2) for i in range(9)]
    rate = bounded_rate([*read, Told("u", None, 0.0, 1.0)])
    assert (rate.value, rate.least, rate.most, rate.num_unparsed) == (4 / 9, 0.4, 0.5, 1)
    for truth in (0.0, 0.5, 1.0):
        filled = bounded_rate([*read, Told("u", truth, truth, truth)])
        assert rate.low <= filled.low and filled.high <= rate.high and rate.least <= (filled.value or 0) <= rate.most
    grades = bounded_grade([Told("a", 4, 4, 4), Told("a", 6, 6, 6), Told("b", None, 1, 10)], 1, 10)
    assert (grades.value, grades.least, grades.most) == (5, 11 / 3, 20 / 3)
    assert bounded_grade([Told("a", 4, 4, 4)] * 2, 1, 10).low == 1


def test_outcomes_turn_back() -> None:
    assert all(SWAPPED[SWAPPED[outcome]] == outcome for outcome in SWAPPED)


def test_faulty_rows_of_verdicts_are_named(tmp_path: Path) -> None:
    rows = [
        {"question_id": 1, "first": "a", "second": "a", "score": 1},
        {"question_id": 2, "first": "a", "score": 1},
        {"question_id": 3, "first": "a", "second": "b"},
        {"question_id": 4, "first": "a", "second": "b", "outcome": "won"},
        {"question_id": 5, "first": "a", "second": "b", "score": "high"},
        {"question_id": 6, "first": "a", "second": "b", "score": -1},
    ]
    path = tmp_path / "v.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError) as caught:
        load_verdicts(str(path))
    said = str(caught.value)
    assert "5 of 6 rows" in said
    for words in ("compared with itself", "second", "no outcome, score or text", "no outcome we know", "is no number"):
        assert words in said
    path.write_text(json.dumps(rows[-1]) + "\n")
    assert load_verdicts(str(path)).verdicts[0].outcome == "unparsed"
    with pytest.raises(ConfigError, match="no form of verdict"):
        run_stats(str(path), "words")


def test_verdicts_of_two_judges_are_not_pooled(tmp_path: Path) -> None:
    row = {"question_id": 1, "first": "a", "second": "b", "score": 1}
    path = tmp_path / "v.jsonl"
    path.write_text("".join(json.dumps(row | {"judge": name}) + "\n" for name in ("one", "one", "two")))
    with pytest.raises(DataError, match="verdicts of one and two in one file"):
        load_verdicts(str(path))
    path.write_text(json.dumps(row | {"judge": "one"}) + "\n")
    assert len(load_verdicts(str(path)).verdicts) == 1
