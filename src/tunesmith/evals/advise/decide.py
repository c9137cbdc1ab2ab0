"""From measurements to advice: which condition, why, how sure, and what would change it. Plain numbers, no model.

The rule: the cheapest condition that is at most ``margin`` below the best on the same items and not significantly
worse (exact McNemar or sign test, Holm over all comparisons with the best). Cheap is what setting up and answering
``num_requests`` takes on this machine. Where facts change, only conditions that followed the change are eligible.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tunesmith.evals.advise.conditions import Family
from tunesmith.stats import (
    Interval,
    bootstrap_paired_difference,
    exact_mcnemar,
    holm_adjusted,
    newcombe_paired_difference,
)

# The settings the sensitivity table runs over.
MARGINS = (0.0, 0.02, 0.05, 0.1, 0.2)
REQUESTS = (100, 1_000, 10_000, 100_000, 1_000_000)
ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A measured condition. values: one in [0, 1] an item, all options over the same items in the same order.

    ms: one request alone, milliseconds; tokens: prompt and answer of one; setup: choosing, tuning, indexing.
    """

    name: str
    family: Family
    quality: Interval
    values: tuple[float, ...]
    ms: float
    tokens: float
    setup_minutes: float
    setup_tokens: int

    def minutes(self, num_requests: float) -> float:
        """Setting up and answering so many requests, one at a time."""
        return self.setup_minutes + num_requests * self.ms / 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The thresholds of the advice. margin: quality that may be given up for a cheaper condition, as a share.

    usable: quality below which nothing is called a solution.
    """

    margin: float = 0.05
    num_requests: int = 10_000
    facts_change: bool = False
    usable: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """An option compared with the best one: difference of quality (it minus the best), p of the paired test, Holm's."""

    name: str
    difference: Interval
    p: float
    holm_p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """choice: what is advised; best: the highest quality among the eligible; near: cheaper or dearer, not worse.

    unsure: the choice is ahead of every cheaper option by the numbers but not by the test. None: nothing is eligible.
    """

    choice: Option | None
    best: Option | None
    near: tuple[Option, ...] = ()
    against: tuple[Against, ...] = ()
    unsure: tuple[str, ...] = ()
    usable: bool = False


def decide(options: Sequence[Option], rules: Rules, follows: Mapping[Family, bool]) -> Decision:
    """Apply the rule. follows: family -> whether it followed changed facts; a family that was not tried did not.

    Raises ValueError for options over different items.
    """
    if len({len(option.values) for option in options}) > 1:
        raise ValueError("the options were measured on different items")
    eligible = [option for option in options if not rules.facts_change or follows.get(option.family, False)]
    if not eligible:
        return Decision(choice=None, best=None)
    best = min(eligible, key=lambda option: (-option.quality.value, option.minutes(rules.num_requests)))
    against = _against(best, [option for option in eligible if option is not best])
    tested = {one.name: one for one in against}
    near = [
        option
        for option in eligible
        if option is best
        or (best.quality.value - option.quality.value <= rules.margin + 1e-12 and tested[option.name].holm_p > ALPHA)
    ]
    choice = min(near, key=lambda option: (option.minutes(rules.num_requests), -option.quality.value))
    cheaper = [
        o for o in eligible if o not in near and o.minutes(rules.num_requests) < choice.minutes(rules.num_requests)
    ]
    return Decision(
        choice=choice,
        best=best,
        near=tuple(option for option in near if option is not choice),
        against=tuple(against),
        unsure=tuple(option.name for option in cheaper if tested[option.name].holm_p > ALPHA),
        usable=choice.quality.value >= rules.usable,
    )


def _against(best: Option, others: Sequence[Option]) -> list[Against]:
    tests = [exact_mcnemar(option.values, best.values).p for option in others]
    return [
        Against(name=option.name, difference=difference(best.values, option.values), p=p, holm_p=adjusted)
        for option, p, adjusted in zip(others, tests, holm_adjusted(tests), strict=True)
    ]


def difference(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Mean of the second less the first over the same items, with its 95 % interval."""
    if set(first) | set(second) <= {0.0, 1.0}:
        return newcombe_paired_difference([v == 1 for v in first], [v == 1 for v in second])
    return bootstrap_paired_difference(first, second, seed=0)


def break_even(first: Option, second: Option) -> float | None:
    """Requests from which the one that costs more to set up has paid for itself; None where it never does.

    0 where both cost the same to set up and differ with every request.
    """
    dear, cheap = (first, second) if first.setup_minutes >= second.setup_minutes else (second, first)
    saved = (cheap.ms - dear.ms) / 60_000
    extra = dear.setup_minutes - cheap.setup_minutes
    if extra == 0:
        return 0.0 if saved != 0 else None
    return extra / saved if saved > 0 else None


def takes_less(first: Option, second: Option) -> tuple[Literal["always", "never", "from", "up to"], float | None]:
    """For which numbers of requests the first takes less time than the second, setting up included.

    From or up to their break-even, which is given; up to it where the first is quicker to set up and slower to answer.
    """
    extra, saved = first.setup_minutes - second.setup_minutes, second.ms - first.ms
    if extra <= 0 and saved >= 0:
        return ("always", None) if extra or saved else ("never", None)
    if extra >= 0 and saved <= 0:
        return "never", None
    return "from" if saved > 0 else "up to", break_even(first, second)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that would change the advice: what, stated with its threshold, and what would be advised then."""

    what: str
    then: str


def what_would_change(options: Sequence[Option], rules: Rules, follows: Mapping[Family, bool]) -> tuple[Change, ...]:
    """The nearest settings on each axis at which another condition is advised; thresholds are searched for exactly."""
    now = decide(options, rules, follows).choice
    name = now.name if now else ""
    out = []
    flipped = decide(options, replace(rules, facts_change=not rules.facts_change), follows).choice
    if flipped is not None and flipped.name != name:
        what = "facts never change" if rules.facts_change else "facts change oftener than you want to tune again"
        out.append(Change(what=what, then=flipped.name))
    for lower in (True, False):
        if (found := _requests_flip(options, rules, follows, name, lower=lower)) is not None:
            number, then = found
            what = f"{'fewer' if lower else 'more'} than {number:,} requests in all"
            out.append(Change(what=what, then=then))
    margins = sorted({option.quality.value for option in options})
    steps = sorted({abs(a - b) for a in margins for b in margins})
    for lower in (True, False):
        tried = [s for s in steps if (s < rules.margin) == lower and s != rules.margin]
        for margin in reversed(tried) if lower else tried:
            other = decide(options, replace(rules, margin=margin), follows).choice
            if other is not None and other.name != name:
                most = "at most " if lower else ""
                out.append(Change(what=f"you would give up {most}{100 * margin:.1f} points", then=other.name))
                break
    return tuple(out)


def _requests_flip(
    options: Sequence[Option], rules: Rules, follows: Mapping[Family, bool], name: str, *, lower: bool
) -> tuple[int, str] | None:
    """The crossing nearest to num_requests on one side at which the choice becomes another."""
    crossings = {
        math.ceil(even) if not lower else math.floor(even)
        for i, a in enumerate(options)
        for b in options[i + 1 :]
        if (even := break_even(a, b)) is not None and (even < rules.num_requests) == lower and even >= 1
    }
    for number in sorted(crossings, reverse=lower):
        beyond = max(0, number - 1) if lower else number + 1
        other = decide(options, replace(rules, num_requests=beyond), follows).choice
        if other is not None and other.name != name:
            return number, other.name
    return None


def sensitivity(
    options: Sequence[Option], rules: Rules, follows: Mapping[Family, bool]
) -> dict[str, dict[int, dict[float, str]]]:
    """Advice for every setting: 'facts stay' or 'facts change' -> requests -> margin -> name, '' where nothing is."""
    table: dict[str, dict[int, dict[float, str]]] = {}
    for label, change in (("facts stay", False), ("facts change", True)):
        table[label] = {}
        for number in REQUESTS:
            choices = {
                margin: decide(
                    options, replace(rules, margin=margin, num_requests=number, facts_change=change), follows
                ).choice
                for margin in MARGINS
            }
            table[label][number] = {margin: option.name if option else "" for margin, option in choices.items()}
    return table
