"""What verdicts on pairs say of the judge, and what they say of the models: numpy only.

A judge is an instrument with errors of its own. Which place it prefers, and how often it contradicts itself when the
two answers are swapped, can be told without knowing which answer is better. Intervals are clustered by question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.evals.verdicts import SWAPPED, WORTH, Shown
from tunesmith.feedback.agreement import Agreement, cohen_kappa
from tunesmith.stats import Interval, clustered_bootstrap_mean, clustered_proportion

_CODES: Mapping[Shown, float] = {"first": 0.0, "second": 1.0, "tie": 2.0, "unparsed": 3.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairVerdict:
    """What a judge said when it saw ``first``'s answer to (a turn of) a question before ``second``'s."""

    question: str
    first: str
    second: str
    outcome: Shown
    turn: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded:
    """A mean over what could be read, and how far what could not be read may move it.

    value: over the readable ones, None where there is none. least and most: with every unreadable one taken as the
    least it may be, or the most. low and high: 95 % limits, the lower one of the least case, the upper of the most.
    """

    value: float | None
    low: float
    high: float
    least: float
    most: float
    num: int
    num_unparsed: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Told:
    """One value of a question: itself, None where it could not be read, and the least and the most it may be."""

    question: str
    value: float | None
    least: float
    most: float


def bounded_rate(told: Sequence[Told]) -> Bounded:
    """Of values from 0 to 1, halves for ties: score intervals, clustered by question. Raises ValueError for none."""
    return _bounded(told, clustered_proportion)


def bounded_grade(told: Sequence[Told], least: float, most: float) -> Bounded:
    """Of grades: bootstrap over questions; one question alone says nothing of others and gets the whole scale."""
    if len({one.question for one in told}) < 2:
        return _bounded(told, lambda values, _: Interval(float(np.mean(values)), least, most))
    return _bounded(told, lambda values, clusters: clustered_bootstrap_mean(values, clusters, seed=0))


def _bounded(told: Sequence[Told], interval: Callable[[Sequence[float], Sequence[int]], Interval]) -> Bounded:
    parsed = [one.value for one in told if one.value is not None]
    clusters = _numbered([one.question for one in told])
    least, most = interval([one.least for one in told], clusters), interval([one.most for one in told], clusters)
    return Bounded(
        value=float(np.mean(parsed)) if parsed else None,
        low=least.low,
        high=most.high,
        least=least.value,
        most=most.value,
        num=len(told),
        num_unparsed=len(told) - len(parsed),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeStatistics:
    """A judge's manners on pairs.

    counts: verdicts by outcome. prefers_first: share of the decided verdicts that go to the answer shown first; where
    all pairs were shown in both orders a judge without position bias has one half. num_pairs: pairs shown in both
    orders, of which consistent: the same answer won, or it was a tie both times; reversed: opposite winners, by place
    reversed_to_first or reversed_to_second; half: a tie in one order only; unparsed in one or both. kappa: agreement
    of the two orders beyond chance, 0 for a judge that looks at the place alone. repeated: the same order asked again;
    repeats_agree: share of those that were answered alike.
    """

    counts: Mapping[Shown, int]
    prefers_first: Interval | None
    balanced: bool
    num_pairs: int
    consistent: Interval | None
    reversed: Interval | None
    reversed_to_first: int
    reversed_to_second: int
    half: int
    unparsed_pairs: int
    kappa: Agreement | None
    repeated: int
    repeats_agree: Interval | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        out = {name: getattr(self, name) for name in self.__slots__}
        out["counts"] = dict(self.counts)
        for name in ("prefers_first", "consistent", "reversed", "repeats_agree"):
            out[name] = limits(out[name])
        out["kappa"] = None if self.kappa is None else self.kappa.as_dict()
        return out


def judge_statistics(verdicts: Sequence[PairVerdict]) -> JudgeStatistics:
    """Counts, position bias and self-consistency of verdicts in any order. Raises ValueError for an empty list."""
    if not verdicts:
        raise ValueError("no verdicts")
    counts: dict[Shown, int] = {outcome: sum(v.outcome == outcome for v in verdicts) for outcome in SWAPPED}
    decided = [v for v in verdicts if v.outcome in ("first", "second")]
    orders, repeats = _by_order(verdicts)
    both = {key: (one, other) for key, (one, other) in orders.items() if one is not None and other is not None}
    questions = [key[0] for key in both]
    kinds = [_kind(one, other) for one, other in both.values()]
    seen_both = [(one, SWAPPED[other]) for one, other in both.values()]
    return JudgeStatistics(
        counts=counts,
        prefers_first=_share([v.outcome == "first" for v in decided], [v.question for v in decided]),
        balanced=len(both) == len(orders),
        num_pairs=len(both),
        consistent=_share([kind == "consistent" for kind in kinds], questions),
        reversed=_share([kind == "reversed" for kind in kinds], questions),
        reversed_to_first=sum(pair == ("first", "first") for pair in both.values()),
        reversed_to_second=sum(pair == ("second", "second") for pair in both.values()),
        half=kinds.count("half"),
        unparsed_pairs=kinds.count("unparsed"),
        kappa=_kappa(seen_both, questions) if both else None,
        repeated=len(repeats),
        repeats_agree=_share([same for _, same in repeats], [question for question, _ in repeats]),
    )


def win_rates(verdicts: Sequence[PairVerdict]) -> dict[str, Bounded]:
    """Model -> its win rate against all others it met, a tie one half, each pair's two orders averaged.

    Averaging cancels what a preference for a place adds. A pair is one value; its unreadable half is bounded.
    """
    orders, _ = _by_order(verdicts)
    won: dict[str, list[Told]] = defaultdict(list)
    for (question, _, one, other), outcomes in orders.items():
        # The second outcome is of the swapped order: turned back, both speak of ``one``.
        told = pair_told(question, [o if i == 0 else SWAPPED[o] for i, o in enumerate(outcomes) if o is not None])
        won[one].append(told)
        won[other].append(mirrored(told))
    return {name: bounded_rate(rows) for name, rows in sorted(won.items())}


def pair_told(question: str, outcomes: Sequence[Shown]) -> Told:
    """What the outcomes of a pair's orders, all turned to the view of one answer, are worth to it: their mean."""
    known = [WORTH[o] for o in outcomes if o in WORTH]
    unread = len(outcomes) - len(known)
    least, most = sum(known) / len(outcomes), (sum(known) + unread) / len(outcomes)
    return Told(question, None if unread else least, least, most)


def mirrored(told: Told) -> Told:
    """The same from the other answer's view."""
    return Told(told.question, None if told.value is None else 1 - told.value, 1 - told.most, 1 - told.least)


_Key = tuple[str, int, str, str]
Orders = dict[_Key, tuple[Shown | None, Shown | None]]


def _by_order(verdicts: Sequence[PairVerdict]) -> tuple[Orders, list[tuple[str, bool]]]:
    """(question, turn, model, other model), the models by name -> the outcomes in both orders; repetitions.

    Of verdicts on one order the first counts; the others tell whether the judge repeats itself: (question, alike).
    """
    orders: dict[_Key, list[Shown | None]] = {}
    repeats = []
    for verdict in verdicts:
        one, other = sorted((verdict.first, verdict.second))
        places = orders.setdefault((verdict.question, verdict.turn, one, other), [None, None])
        place = int(verdict.first != one)
        if (earlier := places[place]) is None:
            places[place] = verdict.outcome
        else:
            repeats.append((verdict.question, earlier == verdict.outcome))
    return {key: (places[0], places[1]) for key, places in orders.items()}, repeats


def _kind(one: Shown, other: Shown) -> str:
    """How the outcomes of a pair's two orders, each as it was shown, go together."""
    if "unparsed" in (one, other):
        return "unparsed"
    if one == SWAPPED[other]:
        return "consistent"
    return "half" if "tie" in (one, other) else "reversed"


def _kappa(pairs: Sequence[tuple[Shown, Shown]], questions: Sequence[str]) -> Agreement:
    first, second = ([_CODES[pair[i]] for pair in pairs] for i in (0, 1))
    return cohen_kappa(first, second, clusters_N=_numbered(questions))


def _share(outcomes: Sequence[bool], clusters: Sequence[str]) -> Interval | None:
    return clustered_proportion([float(o) for o in outcomes], _numbered(clusters)) if outcomes else None


def _numbered(names: Sequence[str]) -> list[int]:
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return [number[name] for name in names]


def limits(interval: Interval | None) -> dict[str, float] | None:
    """An interval as JSON holds it."""
    return None if interval is None else {"value": interval.value, "low": interval.low, "high": interval.high}
