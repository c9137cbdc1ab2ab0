"""Soft labels: what two orders cancel and one does not, which answers are paired, and what enters the store once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.constitution.label import (
    Labeller,
    LabelRules,
    Opinion,
    PairLabel,
    choose_pairs,
    demonstration_pairs,
    label_facts,
    opinion_of_odds,
    sigmoid,
)
from tunesmith.constitution.principles import Constitution, Demonstration, Principle
from tunesmith.feedback.judgements import Compared
from tunesmith.feedback.store import FeedbackStore
from tunesmith.records import Message

NATS = st.floats(-40, 40)
RULES = LabelRules()


def principle(name: str = "kind", **more: Any) -> Principle:
    words = {"text": "Be kind.", "category": "manners", "critique_request": "Unkind?", "revision_request": "Kindly."}
    return Principle(id=name, **{**words, **more})


def written(*worth: float | None, name: str = "kind") -> Opinion:
    return Opinion(principle=name, worth=(worth[0], worth[1]), reasons=("no verdict",) * worth.count(None))


def label(*opinions: Opinion, prompt: str = "p", candidates: tuple[str, str] = ("a", "b")) -> PairLabel:
    return PairLabel(prompt_id=prompt, candidates=candidates, opinions=opinions)


# Two orders -----------------------------------------------------------------------------------------------------------


@given(NATS, NATS, NATS)
@settings(max_examples=200, deadline=None)
def test_a_constant_for_the_place_cancels_and_swapping_the_candidates_turns_p(d: float, c: float, other: float) -> None:
    one, moved = (opinion_of_odds("kind", bias + d, bias - d) for bias in (c, other))
    assert one.p == pytest.approx(sigmoid(d), abs=1e-9) and moved.p == pytest.approx(sigmoid(d), abs=1e-9)
    assert one.place == pytest.approx(c, abs=1e-9)
    # The same two orders, told from the other candidate's side; exact, whatever the rounding.
    back = opinion_of_odds("kind", c - d, c + d)
    assert one.odds is not None and back.odds == one.odds[::-1]
    assert sigmoid((one.odds[0] - one.odds[1]) / 2) == one.p and back.p == pytest.approx(1 - (one.p or 0.0), abs=1e-15)


def test_control_one_order_alone_carries_the_place_into_p() -> None:
    """What the property above rules out: with one order p moves with c, and the verdict turns."""
    d = -0.5
    alone = [sigmoid(c + d) for c in (0.0, 0.5, 2.0)]
    assert alone == sorted(alone) and alone[0] < 0.5 < alone[2]
    assert len({opinion_of_odds("kind", c + d, c - d).p for c in (0.0, 0.5, 2.0)}) == 1


def test_an_effect_of_one_answers_place_is_not_cancelled_but_halved() -> None:
    """The assumption's limit, as the module says it: 1 nat for the place, for one candidate only."""
    d, only_first = 0.25, 1.0
    one = opinion_of_odds("kind", only_first + d, -d)
    assert one.p == pytest.approx(sigmoid(d + only_first / 2))


def test_a_judge_that_names_the_first_place_always_says_nothing() -> None:
    for odds in (0.1, 2.0, 700.0):
        one = opinion_of_odds("kind", odds, odds)
        assert one.p == 0.5 and one.turns is True and label(one).value(RULES) == Compared(p=0.5)
    assert written(1.0, 0.0).p == 0.5 and label(written(1.0, 0.0)).value(RULES) == Compared("tie")


def test_the_place_is_reported_with_its_interval_and_the_share_that_turns() -> None:
    # d = 1 against c = 0.5 and c = 1.5: the second turns with the order.
    labels = [label(opinion_of_odds("kind", c + 1, c - 1), prompt=f"p{i}") for i, c in enumerate([0.5, 1.5] * 20)]
    facts = label_facts(labels, RULES, 0)
    bias, turned, first = facts["position_bias"], facts["turned"], facts["prefers_first"]
    assert bias["value"] == 1.0 and 0.8 < bias["low"] < 1.0 < bias["high"] < 1.2
    assert turned["value"] == 0.5 and turned["low"] < 0.5 < turned["high"] and facts["two_orders"] == 40
    # Where it does not turn, either place is named once: (1/2 + 1) / 2.
    assert first["value"] == 0.75
    assert facts["decisive"] == pytest.approx(2 * sigmoid(1.0) - 1) and facts["first_candidate_better"] == 40


# From opinions to a label ---------------------------------------------------------------------------------------------


def test_principles_are_averaged_and_what_cannot_be_read_is_counted() -> None:
    two = label(
        opinion_of_odds("kind", 2.0, 0.0),
        opinion_of_odds(
            "care",
            -4.0,
            0.0,
        ),
    )
    assert two.p(RULES) == pytest.approx((sigmoid(1.0) + sigmoid(-2.0)) / 2)
    half = label(written(1.0, None), written(1.0, 1.0, name="care"), prompt="q")
    none = label(written(None, None), prompt="r")
    assert half.p(RULES) == 1.0 and half.value(RULES) == Compared("A") and none.value(RULES) is None
    facts = label_facts([two, half, none], RULES, 0)
    assert (facts["pairs"], facts["kept"], facts["unread_pairs"], facts["unread_opinions"]) == (3, 2, 1, 2)
    assert facts["unread_reasons"] == {"no verdict": 3}
    assert facts["principles"]["kind"]["asked"] == 3 and facts["principles"]["kind"]["read"] == 1


@pytest.mark.parametrize(
    ("worth", "value"),
    [
        ((1.0, 1.0), Compared("A")),
        ((0.0, 0.0), Compared("B")),
        ((0.5, 0.5), Compared("tie")),
        ((1.0, 0.5), Compared(p=0.75)),
        ((0.0, 1.0), Compared("tie")),
        ((None, 1.0), None),
    ],
)
def test_what_a_judge_that_writes_says_of_both_orders(worth: Any, value: Compared | None) -> None:
    assert label(written(*worth)).value(RULES) == value


def test_limits_and_a_margin_for_ties() -> None:
    sure = label(opinion_of_odds("kind", 6.0, -6.0))
    assert sure.value(LabelRules(clamp=(0.4, 0.6))) == Compared(p=0.6)
    assert label(opinion_of_odds("kind", -6.0, 6.0)).value(LabelRules(clamp=(0.4, 0.6))) == Compared(p=0.4)
    near = label(opinion_of_odds("kind", 0.1, -0.1))
    margin = LabelRules(tie_margin=0.1)
    assert near.value(RULES) is not None and near.value(margin) is None and sure.value(margin) is not None
    facts = label_facts([near, sure], margin, 0)
    assert (facts["ties"], facts["kept"], facts["unread_pairs"]) == (1, 1, 0)
    for bad in ({"clamp": (0.6, 0.7)}, {"clamp": (-0.1, 0.6)}, {"tie_margin": 1.0}, {"pairs": "best"}):
        with pytest.raises(ValueError):
            LabelRules(**bad)  # type: ignore[arg-type]


# Which answers are paired ---------------------------------------------------------------------------------------------


def test_pairs_by_rule_and_never_near_copies() -> None:
    texts = ["a b c d e f g h i j", "a b c d e f g h i k", "a b c x y z", "q r s t"]
    every, near = choose_pairs(texts, "all", 0.8)
    assert every == [(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] and set(near) == {(0, 1)}
    assert near[0, 1] == pytest.approx(0.9)
    assert choose_pairs(texts, "first", 0.8)[0] == [(0, 2)], "the first two are near copies"
    assert choose_pairs(texts, "different", 0.8)[0] == [(0, 3)], "of equals the first"
    assert choose_pairs(["yes  sir", "yes sir\n"], "all", 1.0) == ([], {(0, 1): 1.0})
    # Without letters there is no ROUGE-L, and equal is equal.
    assert choose_pairs(["!!", "!!"], "all", 1.0)[0] == [] and choose_pairs(["!!", "??"], "all", 1.0)[0] == [(0, 1)]
    assert choose_pairs(["alone"], "different", 0.8) == ([], {}) == choose_pairs([], "all", 0.8)


def test_demonstrations_put_the_better_answer_in_either_place() -> None:
    shown = [
        Demonstration(prompt=f"q{i}", answer=f"bad {i}", critique=f"why {i}", revision=f"good {i}") for i in range(3)
    ]
    fine = Demonstration(prompt="q", answer="fine", critique="nothing", fault=False)
    pairs = demonstration_pairs(principle(examples=(shown[0], fine, *shown[1:])), 3)
    assert pairs == [
        ("q0", "bad 0", "good 0", "B", "why 0"),
        ("q1", "good 1", "bad 1", "A", "why 1"),
        ("q2", "bad 2", "good 2", "B", "why 2"),
    ]
    assert demonstration_pairs(principle(), 3) == []


# The store ------------------------------------------------------------------------------------------------------------


def labeller(constitution: Constitution | None = None, **settings_: Any) -> Labeller:
    made = constitution or Constitution(name="c", version="1", principles=(principle(),))
    return Labeller(judge={"judge": "verdict tokens", "model": "runs/x/tiny"}, constitution=made, settings=settings_)


def test_a_label_is_stored_once_with_where_it_comes_from(tmp_path: Path) -> None:
    with FeedbackStore.open(tmp_path / "f.db", create=True) as store:
        prompt = store.add_prompt([Message(role="user", content="q")])
        a, b = (store.add_candidate(prompt, text) for text in ("one", "two"))
        who = labeller(seed=0)
        one = label(opinion_of_odds("kind", 3.0, 1.0), prompt=prompt, candidates=(a, b))
        assert who.store(store, one, RULES) is True
        digest = store.digest()
        # Computed again, the last digits may differ; what stands is kept.
        again = label(opinion_of_odds("kind", 3.0 + 1e-9, 1.0), prompt=prompt, candidates=(a, b))
        assert who.store(store, again, RULES) is False and store.digest() == digest
        assert who.store(store, label(written(None, 1.0), prompt=prompt, candidates=(a, b)), RULES) is None
        (kept,) = store.judgements()
        assert (kept.value, kept.source, kept.candidates, kept.weight) == (Compared(p=sigmoid(1.0)), "ai", (a, b), 1.0)
        assert kept.annotator == f"ai:tiny:{who.digest[:12]}"
        assert kept.provenance["principles"] == ["kind"] and kept.provenance["judge"] == dict(who.judge)
        assert kept.provenance["constitution"] == {"name": "c", "version": "1", "digest": who.constitution.digest}
        assert kept.provenance["opinions"] == [{"principle": "kind", "log_odds": [3.0, 1.0], "worth": [1.0, 0.0]}]
        other = Constitution(name="c", version="1", principles=(principle(text="Be very kind."),))
        names = {one.annotator for one in (who, labeller(seed=1), labeller(other, seed=0))}
        assert len(names) == 3, "other settings, other principles: another annotator"


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(-800.0) == 0.0 and sigmoid(800.0) == 1.0 and sigmoid(0.0) == 0.5
    assert sigmoid(1.5) == pytest.approx(math.exp(1.5) / (1 + math.exp(1.5)))
