"""The choice scorer's edges: ties, nothing to compare, no right answer."""

from __future__ import annotations

import math

import pytest

from tests.golden.test_choice_scores import scored
from tunesmith.evals.choice import choice_chance, gold_places
from tunesmith.evals.reading import passages, reading_scorer
from tunesmith.evals.task import Item


def item(*choices: str, target: str = "yes", **metadata: object) -> Item:
    return Item(id="q", messages=(), target=target, choices=choices, metadata=metadata)


def test_ties_share_the_credit_wherever_the_right_one_stands() -> None:
    for choices in (("yes", "no!"), ("no!", "yes")):
        assert set(scored(item(*choices), [-3.0, -3.0]).values.values()) == {0.5}
    assert scored(item("yes", "no!", "may"), [-3.0, -3.0, -4.0]).values["acc"] == 0.5


def test_details_carry_what_a_calibration_curve_needs() -> None:
    verdict = scored(item("yes", "no"), [math.log(0.2), math.log(0.6)])
    assert verdict.details["probabilities"] == pytest.approx([0.25, 0.75])
    assert (verdict.details["chosen"], verdict.details["gold"]) == (1, [0])
    assert "'no' was likelier" in verdict.explanation


def test_impossible_choices_are_compared_and_undefined_ones_refused() -> None:
    assert scored(item("yes", "no"), [-2.0, -math.inf]).values["mass"] == 1.0
    for bad in ([math.nan, -1.0], [-math.inf, -math.inf], [math.inf, -1.0]):
        with pytest.raises(ValueError, match="cannot be compared"):
            scored(item("yes", "no"), bad)
    for number in ([], [-1.0], [-1.0] * 3):
        with pytest.raises(ValueError, match=f"{len(number)} log-likelihoods for 2 choices"):
            scored(item("yes", "no"), number)


def test_very_unlikely_choices_do_not_underflow() -> None:
    assert scored(item("yes", "no"), [-2000.0, -2001.0]).values["mass"] == pytest.approx(1 / (1 + math.exp(-1)))


def test_a_question_without_a_right_choice_is_refused() -> None:
    for lost in (item("no", "maybe"), item("yes", "no", gold_places=[]), item("yes", "no", gold_places=[2])):
        with pytest.raises(ValueError, match="item q: the right answer is not among its choices"):
            gold_places(lost)


def test_chance_counts_the_choices_of_each_item() -> None:
    items = [item("yes", "no"), item("yes", "no", "maybe", "never"), item("yes", "a", "b", gold_places=[0, 1])]
    assert list(choice_chance(items).values()) == pytest.approx([(1 / 2 + 1 / 4 + 2 / 3) / 3] * 4)


def test_a_reading_needs_its_text_and_one_likelihood() -> None:
    for text, logprobs in (("", [-1.0]), ("text", []), ("text", [-1.0, -2.0])):
        with pytest.raises(ValueError, match="likelihoods for one text"):
            scored(Item(id="t", messages=(), target=text), logprobs, scorer=reading_scorer)


@pytest.mark.parametrize(
    "text", ["one line", "a\n" * 900, "long " * 900 + "\nend\n", "x\n" * 500 + "\n\n", "a\r\nb\u2028c\n" * 400]
)
def test_passages_lose_no_character(text: str) -> None:
    pieces = passages(text)
    assert "".join(pieces) == text and all(piece.strip() for piece in pieces)
    assert all(len(piece) >= 1000 for piece in pieces[:-1])
