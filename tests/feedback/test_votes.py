"""Each kind of judgement gives the votes that docs/feedback.md's table states, and what gives none is counted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tunesmith.errors import ConfigError
from tunesmith.feedback.judgements import (
    Compared,
    Edited,
    Flagged,
    Judgement,
    Ranked,
    Rated,
    Thumbed,
    Value,
    answer_of,
    candidate_id_of,
)
from tunesmith.feedback.votes import VoteConfig, Votes, votes_of

CONFIG = VoteConfig()


def said(
    value: Value, *candidates: str, by: str = "ann", weight: float = 1.0, again: str | None = None, key: str = ""
) -> Judgement:
    return Judgement(
        id=key or f"{by}:{''.join(candidates)}", prompt_id="p", candidates=candidates, value=value, annotator=by,
        source="human", weight=weight, asked_again_of=again, created="2026-01-01",
    )  # fmt: skip


def votes(*judgements: Judgement, candidates: Sequence[str] = ("a", "b", "c"), config: VoteConfig = CONFIG) -> Votes:
    return votes_of(judgements, candidates, config)


def decided(found: Votes) -> list[tuple[str, str, float, float]]:
    return [(v.better, v.worse, v.weight, v.margin) for v in found.votes if not v.is_tie]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Compared("A"), [("a", "b", 2.0, 0.0)]),
        (Compared("B"), [("b", "a", 2.0, 0.0)]),
        (Compared(p=0.75), [("a", "b", 1.0, 0.0)]),
        (Compared(p=0.25), [("b", "a", 1.0, 0.0)]),
        (Compared(p=1.0), [("a", "b", 2.0, 0.0)]),
    ],
)
def test_a_comparison(value: Compared, expected: list[tuple[str, str, float, float]]) -> None:
    assert decided(votes(said(value, "a", "b", weight=2.0))) == expected


def test_comparisons_without_a_winner_are_counted() -> None:
    judgements = [said(value, "a", "b") for value in (Compared("tie"), Compared(p=0.5), Compared("both bad"))]
    found = votes(*judgements)
    assert decided(found) == [] and [v.is_tie for v in found.votes] == [True, True]
    assert found.left_out == {"tied comparison": 2, "comparison where both are bad": 1}


def test_a_ranking_gives_all_pairs_but_its_ties() -> None:
    found = votes(said(Ranked(((1,), (2, 0), (3,))), "a", "b", "c", "d"))
    assert {pair[:2] for pair in decided(found)} == {("b", "c"), ("b", "a"), ("b", "d"), ("c", "d"), ("a", "d")}
    assert found.left_out == {"tied pair of a ranking": 1}


def test_an_edit_is_above_its_original() -> None:
    corrected = answer_of("Better.")
    found = votes(said(Edited(corrected), "a"))
    assert decided(found) == [(candidate_id_of("p", corrected), "a", 1.0, 0.0)]


def test_ratings_are_compared_within_an_annotator_with_a_margin_that_grows() -> None:
    found = votes(
        said(Rated(5), "a", by="ann"), said(Rated(1), "b", by="ann"), said(Rated(4), "c", by="ann"),
        said(Rated(2), "c", by="bob"),
    )  # fmt: skip
    assert decided(found) == [("a", "b", 0.5, 1.0), ("a", "c", 0.5, 0.25), ("c", "b", 0.5, 0.75)]
    # bob's 2 for c says nothing about ann's 1 for b: each has a scale of their own.
    assert found.left_out == {"rating without another by the same annotator": 1}


def test_ratings_too_close_equal_or_of_one_answer_twice() -> None:
    config = VoteConfig(min_gap=2)
    found = votes(
        said(Rated(3), "a", key="1"), said(Rated(5), "a", key="2"), said(Rated(3), "b"), said(Rated(3), "c"),
        config=config,
    )  # fmt: skip
    # a is graded 4 on average, one above b and c, which are equal.
    assert decided(found) == []
    assert found.left_out == {"pair rated less than 2 apart": 2, "pair of equal ratings": 1}
    assert decided(votes(said(Rated(3), "a", key="1"), said(Rated(5), "a", key="2"), said(Rated(3), "b"))) == [
        ("a", "b", 0.5, 0.25)
    ]


def test_thumbs_are_added_up_before_they_meet() -> None:
    found = votes(
        said(Thumbed(True), "a", by="1"), said(Thumbed(True), "a", by="2"), said(Thumbed(True), "a", by="3"),
        said(Thumbed(False), "b", by="1"), said(Thumbed(False), "b", by="2"), said(Thumbed(True), "b", by="3"),
        said(Thumbed(True), "c", by="1"), said(Thumbed(False), "c", by="2"),
    )  # fmt: skip
    # a: 3 up; b: 1 down in all; c cancels out.
    assert decided(found) == [("a", "b", 0.5, 0.0)]
    assert found.votes[0].annotators == ("1", "2", "3") and len(found.votes[0].judgements) == 6
    assert found.left_out == {
        "answer on which thumbs are divided (their majority counts)": 2,
        "answer whose thumbs cancel out": 1,
    }
    assert found.singles == []


def test_lone_thumbs_are_kept_as_single_answers() -> None:
    found = votes(said(Thumbed(True), "a", by="1"), said(Thumbed(True), "b", by="1"))
    assert [(s.answer, s.good, s.kind) for s in found.singles] == [("a", True, "thumb"), ("b", True, "thumb")]
    assert found.votes == []


def test_a_flagged_answer_is_below_those_that_nobody_flagged() -> None:
    found = votes(said(Flagged(True, "rude"), "a", by="1"), said(Flagged(True, "rude"), "a", by="2"))
    assert decided(found) == [("b", "a", 1.0, 0.0), ("c", "a", 1.0, 0.0)]
    outvoted = votes(
        said(Flagged(True, "rude"), "a", by="1"), said(Flagged(False), "a", by="2"), said(Flagged(False), "a", by="3")
    )
    assert outvoted.votes == [] and outvoted.singles == []
    assert outvoted.left_out == {
        "answer on which flags are divided (their majority counts)": 1,
        "answer whose flags are outvoted": 1,
    }


def test_flags_without_an_unflagged_answer_are_kept_as_single_answers() -> None:
    found = votes(said(Flagged(True, "rude"), "a"), candidates=("a",))
    assert [(s.answer, s.good) for s in found.singles] == [("a", False)] and found.votes == []
    looked = votes(said(Flagged(False), "a"), candidates=("a", "b"))
    assert [(s.answer, s.good) for s in looked.singles] == [("a", True)] and looked.votes == []


def test_hidden_repeats_and_kinds_switched_off_give_no_vote() -> None:
    config = VoteConfig(thumb_weight=0)
    found = votes(
        said(Compared("A"), "a", "b", key="first"), said(Compared("B"), "a", "b", again="first", key="again"),
        said(Thumbed(True), "a"), said(Thumbed(False), "b"), config=config,
    )  # fmt: skip
    assert decided(found) == [("a", "b", 1.0, 0.0)]
    assert found.left_out == {"hidden repeat": 1, "thumb of weight 0": 2}


def test_a_repeat_whose_first_was_withdrawn_is_a_vote() -> None:
    found = votes(said(Compared("B"), "a", "b", again="withdrawn", key="again"))
    assert decided(found) == [("b", "a", 1.0, 0.0)] and found.left_out == {}


def test_wrong_settings_are_refused() -> None:
    from tunesmith.config import build_config
    from tunesmith.feedback.prefer import PreferConfig

    for settings, match in (
        ({"edit_weight": -1}, "edit_weight"),
        ({"ratings_weight": 1}, "Did you mean 'rating_weight'"),
        ({"cycles": "break"}, "cycles"),
        ({"min_gap": 0}, "min_gap"),
    ):
        with pytest.raises(ConfigError, match=match):
            build_config(PreferConfig, settings, place="test")
