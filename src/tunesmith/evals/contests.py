"""Two answers before a judge: shown in both orders, decided so that swapping the two turns the decision and no more.

The cases of a contest are the same set whichever of the two is called first, and a decision is an odd function of the
swap: what a judge adds for a place cancels exactly, in floating point too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.evals.judge import GIVE_UP_AFTER, Judge, Progress, Ruling, hear
from tunesmith.evals.judge_stats import PairVerdict, Told, pair_told
from tunesmith.evals.rubrics import PAIR, Case, Rubric
from tunesmith.evals.verdicts import SWAPPED, Shown
from tunesmith.records import Message
from tunesmith.rollout.results import ResultsFile

Talk = tuple[Message, ...]
_OUTCOME: dict[str | None, Shown] = {"A": "first", "B": "second", "C": "tie", None: "unparsed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Two models' conversations about one question; question names the cluster, turn the part of it."""

    question: str
    turn: int
    labels: tuple[str, str]
    talks: tuple[Talk, Talk]
    reference: tuple[str, ...] = ()

    def swapped(self) -> Contest:
        """The same contest with the two the other way round."""
        return Contest(
            question=self.question,
            turn=self.turn,
            labels=(self.labels[1], self.labels[0]),
            talks=(self.talks[1], self.talks[0]),
            reference=self.reference,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What came of a contest, from the view of its first side.

    told: 1 for a win, 0 for a loss, 1/2 for a tie, averaged over the orders; where verdict tokens were read, by the
    sign of ``margin``, the log-odds of the first side over the second with the preference for a place cancelled.
    """

    contest: Contest
    told: Told
    verdicts: tuple[PairVerdict, ...]
    rulings: tuple[Ruling, ...]
    margin: float | None = None

    def as_row(self) -> dict[str, Any]:
        """For a file: ``judge stats`` reads the verdicts of it again."""
        return {
            "question": self.contest.question,
            "turn": self.contest.turn,
            "labels": list(self.contest.labels),
            "preference": self.told.value,
            "margin": self.margin,
            "verdicts": [{"first": v.first, "second": v.second, "outcome": v.outcome} for v in self.verdicts],
            "said": [one.said.text or one.said.reason for one in self.rulings],
        }


def orders_of(contest: Contest, judge: Judge) -> tuple[bool, ...]:
    """Whether the contest is shown swapped, for each time it is shown.

    A judge that sees one order gets the one that a digest of the two texts picks: names have no say in it.
    """
    if judge.both_orders:
        return (False, True)
    texts = [json.dumps([turn.content for turn in talk]) for talk in contest.talks]
    picked = hashlib.sha256("\x1f".join([contest.question, str(contest.turn), *sorted(texts)]).encode()).digest()[0] % 2
    return ((texts[0] > texts[1]) != bool(picked),)


def cases_of(contests: Sequence[Contest], judge: Judge, rubric: Rubric = PAIR) -> list[Case]:
    """What the judge is shown: for every contest its orders, one after the other."""
    return [
        Case(
            rubric=rubric,
            shown=(contest.talks[1], contest.talks[0]) if swap else contest.talks,
            reference=contest.reference,
        )
        for contest in contests
        for swap in orders_of(contest, judge)
    ]


def hold(
    contests: Sequence[Contest],
    judge: Judge,
    results: ResultsFile,
    rubric: Rubric = PAIR,
    *,
    give_up_after: int = GIVE_UP_AFTER,
    on_progress: Progress = lambda done, total: None,
) -> list[Decision]:
    """Put contests before the judge; two answers that are the same are a tie about which nobody is asked.

    Raises what ``judge.hear`` raises.
    """
    differing = [contest for contest in contests if contest.talks[0] != contest.talks[1]]
    cases = cases_of(differing, judge, rubric)
    rulings = hear(judge, cases, results, give_up_after=give_up_after, on_progress=on_progress)
    rest = iter(decide(differing, judge, rulings))
    same = Told("", 0.5, 0.5, 0.5)
    return [
        next(rest)
        if contest.talks[0] != contest.talks[1]
        else Decision(contest=contest, told=replace(same, question=contest.question), verdicts=(), rulings=())
        for contest in contests
    ]


def decide(contests: Sequence[Contest], judge: Judge, rulings: Sequence[Ruling]) -> list[Decision]:
    """A decision a contest, from the rulings on ``cases_of`` them. Raises ValueError for another number of rulings."""
    rest = list(rulings)
    out = []
    for contest in contests:
        orders = orders_of(contest, judge)
        own, rest = rest[: len(orders)], rest[len(orders) :]
        if len(own) < len(orders):
            raise ValueError("there are fewer rulings than cases")
        out.append(_decision(contest, orders, own))
    if rest:
        raise ValueError("there are more rulings than cases")
    return out


def _decision(contest: Contest, orders: Sequence[bool], rulings: Sequence[Ruling]) -> Decision:
    outcomes = [_OUTCOME[one.label] for one in rulings]
    told = pair_told(contest.question, [SWAPPED[o] if s else o for o, s in zip(outcomes, orders, strict=True)])
    margin = None
    if all(one.probabilities for one in rulings):
        odds = [one.log_odds("B", "A") if s else one.log_odds("A", "B") for one, s in zip(rulings, orders, strict=True)]
        # A sum of two, so exact under the swap; of one where one order is shown.
        margin = sum(odds) / len(odds)
        won = 0.5 if margin == 0 else float(margin > 0)
        told = Told(contest.question, won, won, won)
    one, other = contest.labels
    verdicts = tuple(
        PairVerdict(
            question=contest.question,
            turn=contest.turn,
            first=other if s else one,
            second=one if s else other,
            outcome=outcome,
        )
        for outcome, s in zip(outcomes, orders, strict=True)
    )
    return Decision(contest=contest, told=told, verdicts=verdicts, rulings=tuple(rulings), margin=margin)


def prefers_longer(decisions: Sequence[Decision]) -> tuple[list[float], list[str]]:
    """(1 where the longer last answer won, 0 where the shorter did; the questions) of decided contests that differ."""
    outcomes, questions = [], []
    for one in decisions:
        lengths = [len(talk[-1].content) for talk in one.contest.talks]
        if one.told.value not in (None, 0.5) and lengths[0] != lengths[1]:
            assert one.told.value is not None
            outcomes.append(float((one.told.value > 0.5) == (lengths[0] > lengths[1])))
            questions.append(one.contest.question)
    return outcomes, questions
