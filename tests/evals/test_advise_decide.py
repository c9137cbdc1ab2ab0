"""The recommendation on made-up measurements whose right advice is known, both ways round."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith.evals.advise.conditions import Family
from tunesmith.evals.advise.decide import (
    Option,
    Rules,
    break_even,
    decide,
    difference,
    sensitivity,
    takes_less,
    what_would_change,
)
from tunesmith.evals.advise.words import reasons, verdict
from tunesmith.stats import exact_mcnemar, wilson_interval


def option(name: str, family: Family, right: int, *, ms: float = 100, setup: float = 0, of: int = 100) -> Option:
    """Right on the first items: whoever is right on more is right wherever the others are."""
    values = tuple(float(i < right) for i in range(of))
    return Option(
        name=name, family=family, quality=wilson_interval(right, of), values=values, ms=ms, tokens=50,
        setup_minutes=setup, setup_tokens=int(1000 * setup),
    )  # fmt: skip


PROMPT = option("prompt", "prompt", 20)
RETRIEVE = option("retrieve", "retrieve", 80, ms=300, setup=1)
TUNE = option("tune", "tune", 90, ms=120, setup=10)
FOLLOWS: dict[Family, bool] = {"retrieve": True, "tune": False}


def advised(*options: Option, **rules: object) -> str | None:
    choice = decide(options, replace(Rules(), **rules), FOLLOWS).choice  # type: ignore[arg-type]
    return choice.name if choice else None


def test_the_better_one_is_advised_whichever_it_is() -> None:
    assert advised(PROMPT, RETRIEVE, TUNE) == "tune"
    assert advised(PROMPT, option("retrieve", "retrieve", 95, ms=300), option("tune", "tune", 60, ms=120)) == "retrieve"
    assert advised(option("prompt", "prompt", 97), RETRIEVE, TUNE) == "prompt"
    # The order they were measured in has no say.
    assert advised(TUNE, RETRIEVE, PROMPT) == "tune"


def test_within_the_margin_the_cheaper_one_is_and_cheap_depends_on_the_requests() -> None:
    near = option("retrieve", "retrieve", 88, ms=300, setup=1)
    # 9 minutes more to set up, 180 ms less a request: 3000 requests.
    assert break_even(TUNE, near) == break_even(near, TUNE) == pytest.approx(3000)
    assert advised(near, TUNE, num_requests=2_900) == "retrieve"
    assert advised(near, TUNE, num_requests=3_100) == "tune"
    # Two points more than the margin: the best one, whatever it costs.
    assert advised(near, TUNE, num_requests=10, margin=0.01) == "tune"


def test_a_significant_difference_counts_however_small() -> None:
    near = option("retrieve", "retrieve", 86, ms=50, of=1000)
    best = option("tune", "tune", 120, ms=300, setup=10, of=1000)
    decision = decide([near, best], Rules(), FOLLOWS)
    assert best.quality.value - near.quality.value < 0.05
    assert decision.against[0].p == exact_mcnemar(near.values, best.values).p < 1e-6
    assert decision.choice is best and decision.unsure == ()


def test_p_values_are_adjusted_for_all_comparisons_with_the_best() -> None:
    others = [option(f"o{i}", "prompt", 84, ms=10) for i in range(4)]
    decision = decide([*others, TUNE], Rules(), FOLLOWS)
    assert decision.against[0].p == 2 * 0.5**6
    assert [one.holm_p for one in decision.against] == [pytest.approx(4 * 0.03125)] * 4
    # Alone it would be significant; of four it is not, and the doubt is told.
    assert decision.choice is TUNE and decision.unsure == ("o0", "o1", "o2", "o3")
    alone = decide([others[0], TUNE], Rules(), FOLLOWS)
    assert alone.unsure == () and alone.against[0].holm_p == 0.03125


def test_where_facts_change_only_what_followed_is_eligible() -> None:
    assert advised(PROMPT, RETRIEVE, TUNE, facts_change=True) == "retrieve"
    nobody = decide([PROMPT, TUNE], Rules(facts_change=True), FOLLOWS)
    assert nobody.choice is None and verdict(nobody).startswith("Nothing is advised")
    assert reasons(nobody, [PROMPT, TUNE], Rules(facts_change=True), [])


def test_below_the_usable_nothing_is_called_a_solution() -> None:
    poor = [option("prompt", "prompt", 5), option("tune", "tune", 30, setup=3)]
    decision = decide(poor, Rules(), FOLLOWS)
    assert not decision.usable and verdict(decision).startswith("None of these is good enough yet")
    assert verdict(decide(poor, Rules(usable=0.2), FOLLOWS)) == "Tune (tune)."


def test_options_over_different_items_are_refused() -> None:
    with pytest.raises(ValueError, match="different items"):
        decide([PROMPT, option("tune", "tune", 5, of=10)], Rules(), FOLLOWS)


@pytest.mark.parametrize(
    ("first", "second", "requests"),
    [
        ((0, 200), (10, 100), 6000.0),
        ((0, 100), (10, 100), None),
        ((0, 100), (10, 200), None),
        ((5, 100), (5, 200), 0.0),
        ((5, 100), (5, 100), None),
    ],
)
def test_break_even(first: tuple[float, float], second: tuple[float, float], requests: float | None) -> None:
    one, two = (option(n, "prompt", 1, ms=ms, setup=s) for n, (s, ms) in (("a", first), ("b", second)))
    assert break_even(one, two) == break_even(two, one) == requests
    if requests:
        assert one.minutes(requests) == pytest.approx(two.minutes(requests))


@pytest.mark.parametrize(
    ("tuned", "other", "when", "says"),
    [
        ((10, 100), (0, 200), ("from", 6000.0), "has paid for itself against other after 6,000 requests"),
        # Quicker to set up and slower to answer: ahead first, behind later.
        ((1, 200), (5, 100), ("up to", 2400.0), "ahead of other up to 2,400 requests"),
        ((1, 100), (5, 200), ("always", None), "from the first request"),
        ((5, 100), (5, 200), ("always", None), "from the first request"),
        ((10, 200), (1, 100), ("never", None), "never pays for itself"),
        ((5, 100), (5, 100), ("never", None), "never pays for itself"),
    ],
)
def test_which_side_of_the_break_even_tuning_is_ahead_on(
    tuned: tuple[float, float], other: tuple[float, float], when: tuple[str, float | None], says: str
) -> None:
    one, two = (
        option(name, family, 60, ms=ms, setup=setup)
        for name, family, (setup, ms) in (("tuned", "tune", tuned), ("other", "retrieve", other))
    )
    assert takes_less(one, two) == when
    for number in (1, 1_000, 10_000):
        ahead = {"always": True, "never": False, "from": number > 6000, "up to": number < 2400}[when[0]]
        assert (one.minutes(number) < two.minutes(number)) == ahead
    assert says in " ".join(reasons(decide([one, two], Rules(), FOLLOWS), [one, two], Rules(), []))


def test_what_would_change_it_is_a_threshold_at_which_it_does() -> None:
    near = option("retrieve", "retrieve", 88, ms=300, setup=1)
    options, rules = [PROMPT, near, TUNE], Rules()
    changes = {change.what: change.then for change in what_would_change(options, rules, FOLLOWS)}
    assert changes["fewer than 3,000 requests in all"] == "retrieve"
    assert changes["facts change oftener than you want to tune again"] == "retrieve"
    assert decide(options, replace(rules, num_requests=2_999), FOLLOWS).choice is near
    assert decide(options, replace(rules, num_requests=3_001), FOLLOWS).choice is TUNE
    # Under 3000 requests the margin decides: at 2 points retrieval may be taken, below not.
    few = what_would_change(options, replace(rules, num_requests=100), FOLLOWS)
    assert {change.what: change.then for change in few}["you would give up at most 0.0 points"] == "tune"


def test_the_sensitivity_table_is_the_rule_at_every_setting() -> None:
    options = [PROMPT, option("retrieve", "retrieve", 88, ms=300, setup=1), TUNE]
    table = sensitivity(options, Rules(), FOLLOWS)
    assert table["facts stay"][100][0.05] == "retrieve" and table["facts stay"][100][0.0] == "tune"
    assert table["facts stay"][100_000][0.05] == "tune"
    assert {name for row in table["facts change"].values() for name in row.values()} == {"retrieve"}
    only = sensitivity([TUNE], Rules(), FOLLOWS)
    assert only["facts change"][100][0.05] == ""


def test_reasons_carry_the_numbers_they_stand_on() -> None:
    near = option("retrieve", "retrieve", 88, ms=300, setup=1)
    said = " ".join(reasons(decide([PROMPT, near, TUNE], Rules(), FOLLOWS), [PROMPT, near, TUNE], Rules(), []))
    assert TUNE.quality.percent() in said and "after 3,000 requests" in said and "120 ms" in said
    decision = decide([PROMPT, TUNE], Rules(), FOLLOWS)

    def told(before: int, after: int, of: int = 100) -> str:
        """Of the tuned model with half of the rows and with all of them."""
        curve = [(25, wilson_interval(before, of)), (50, wilson_interval(after, of))]
        gain = difference(*([float(i < right) for i in range(of)] for right in (before, after)))
        return reasons(decision, [PROMPT, TUNE], Rules(), curve, gain)[-1]

    assert "still rising" in told(50, 70) and "no longer rising" in told(900, 900, of=1000)
    # Two rows of sixty are no rise, nor are twenty equal ones an end of it.
    assert all("too few test rows" in one for one in (told(40, 42, of=60), told(10, 10, of=20)))
