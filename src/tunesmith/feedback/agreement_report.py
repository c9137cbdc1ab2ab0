"""What a store's judgements say of its annotators: agreement a kind, each one's with the rest, each one's with itself.

Edits have no agreement: two good rewritings need not have a word in common.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tunesmith.feedback.agreement import (
    Agreement,
    Floats,
    Level,
    agreement_with_rest,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    without_minus_with,
)
from tunesmith.feedback.judgements import Compared, Flagged, Judgement, Kind, Ranked, Rated, Thumbed
from tunesmith.stats import Interval, wilson_interval

# Ratings are steps of one scale; the other kinds are categories without an order.
LEVELS: dict[Kind, Level] = {
    "comparison": "nominal", "thumb": "nominal", "rating": "ordinal", "flag": "nominal", "ranking": "nominal",
}  # fmt: skip
_OUTCOME_CODES = {"tie": 2.0, "both bad": 3.0}
Key = tuple[str, ...]


@dataclass(slots=True)
class Table:
    """Judgements of one kind as a matrix: items (rows) with the number of their prompt, annotators (columns)."""

    values_NR: Floats
    prompts_N: list[int]
    annotators: list[str]
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatorReport:
    """One annotator: how many items, agreement with the rest, and how often a repeated item got the same answer.

    stands_apart: the others agree with each other, and this one with them less than half as well; see ``stands_apart``.
    """

    name: str
    items: int
    with_rest: Agreement
    rest_minus_this: Agreement
    repeats: int
    self_agreement: Interval | None
    stands_apart: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KindReport:
    """All that is known of one kind's annotators."""

    kind: Kind
    level: Level
    items: int
    judgements: int
    alpha: Agreement
    fleiss: Agreement
    cohen: dict[tuple[str, str], Agreement]
    annotators: list[AnnotatorReport]
    left_out: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "kind": self.kind,
            "level": self.level,
            "items": self.items,
            "judgements": self.judgements,
            "alpha": self.alpha.as_dict(),
            "fleiss_kappa": self.fleiss.as_dict(),
            "cohen_kappa": [{"annotators": list(pair), **one.as_dict()} for pair, one in self.cohen.items()],
            "annotators": [
                {
                    "name": one.name,
                    "items": one.items,
                    "with_rest": one.with_rest.as_dict(),
                    "rest_minus_this": one.rest_minus_this.as_dict(),
                    "repeats": one.repeats,
                    "self_agreement": None if one.self_agreement is None else _interval(one.self_agreement),
                    "stands_apart": one.stands_apart,
                }
                for one in self.annotators
            ],
            "left_out": self.left_out,
        }


def report_agreement(judgements: Iterable[Judgement], *, seed: int = 0) -> list[KindReport]:
    """One report for each kind that has judgements and can be compared, in the order of LEVELS."""
    by_kind: dict[Kind, list[Judgement]] = {}
    for one in judgements:
        by_kind.setdefault(one.kind, []).append(one)
    return [_report(kind, by_kind[kind], seed) for kind in LEVELS if kind in by_kind]


def _report(kind: Kind, made: list[Judgement], seed: int) -> KindReport:
    table, level = tabulate(made), LEVELS[kind]
    values, prompts = table.values_NR, table.prompts_N
    categories = np.unique(values[~np.isnan(values)])
    counts_NC = (values[:, :, None] == categories).sum(axis=1)
    pairs = itertools.combinations(range(len(table.annotators)), 2)
    return KindReport(
        kind=kind,
        level=level,
        items=len(values),
        judgements=len(made),
        alpha=krippendorff_alpha(values, level, clusters_N=prompts, seed=seed),
        fleiss=fleiss_kappa(counts_NC, clusters_N=prompts, seed=seed),
        cohen={
            (table.annotators[a], table.annotators[b]): cohen_kappa(
                values[:, a], values[:, b], clusters_N=prompts, seed=seed
            )
            for a, b in pairs
        },
        annotators=[_annotator(i, table, level, made, seed) for i in range(len(table.annotators))],
        left_out=dict(table.left_out),
    )


def _annotator(index: int, table: Table, level: Level, made: list[Judgement], seed: int) -> AnnotatorReport:
    values, name = table.values_NR, table.annotators[index]
    with_rest = agreement_with_rest(values, index, level, clusters_N=table.prompts_N, seed=seed)
    gap = without_minus_with(values, index, level, clusters_N=table.prompts_N, seed=seed)
    same, repeats = self_agreement([one for one in made if one.annotator == name])
    return AnnotatorReport(
        name=name,
        items=int((~np.isnan(values[:, index])).sum()),
        with_rest=with_rest,
        rest_minus_this=gap,
        repeats=repeats,
        self_agreement=wilson_interval(same, repeats) if repeats else None,
        stands_apart=stands_apart(with_rest, gap),
    )


def stands_apart(with_rest: Agreement, rest_minus_this: Agreement) -> bool:
    """Whether an annotator disagrees with people who agree with each other.

    The whole interval of the gap lies above 0, and the agreement with the rest is less than half of theirs: a gap may
    be certain and yet small. With fewer than three annotators there is no rest that could agree.
    """
    mine, gap = with_rest.value, rest_minus_this.value
    if mine is None or gap is None or rest_minus_this.low is None:
        return False
    return rest_minus_this.low > 0 and mine < (mine + gap) / 2


def self_agreement(made: Iterable[Judgement]) -> tuple[int, int]:
    """(how many repetitions got the same answer, how many repetitions there are) of one annotator's judgements."""
    made = list(made)
    by_id = {one.id: one for one in made}
    pairs = [(by_id[one.asked_again_of], one) for one in made if one.asked_again_of in by_id]
    coded = [(dict(_coded(first)), dict(_coded(again))) for first, again in pairs]
    return sum(first == again for first, again in coded), len(coded)


def tabulate(made: Iterable[Judgement]) -> Table:
    """The matrix of judgements of one kind; repetitions, and what has no category, are left out and counted."""
    items: dict[Key, dict[str, float]] = {}
    prompt_of: dict[Key, str] = {}
    names: dict[str, None] = {}
    left_out: Counter[str] = Counter()
    for one in made:
        names.setdefault(one.annotator)
        if one.asked_again_of is not None:
            left_out["repetition"] += 1
            continue
        for key, value in _coded(one):
            prompt_of[key] = one.prompt_id
            said = items.setdefault(key, {})
            if one.annotator in said:
                left_out["second judgement of one annotator"] += 1
            said.setdefault(one.annotator, value)
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompt_of.values()))}
    rows = [[said.get(name, np.nan) for name in names] for said in items.values()]
    return Table(
        values_NR=np.array(rows, np.float64).reshape(len(rows), len(names)),
        prompts_N=[numbers[prompt_of[key]] for key in items],
        annotators=list(names),
        left_out=left_out,
    )


def _coded(one: Judgement) -> Iterator[tuple[Key, float]]:
    """(item, category) pairs of a judgement, the same for every order in which the candidates were shown.

    A ranking is one item for each pair of its candidates. A probability names the likelier answer; 0.5 is a tie.
    """
    match one.value:
        case Compared(outcome=outcome, p=p):
            if p is not None:
                outcome = "tie" if p == 0.5 else "A" if p > 0.5 else "B"
            key = tuple(sorted(one.candidates))
            better = one.candidates[0 if outcome == "A" else 1]
            yield key, _OUTCOME_CODES.get(str(outcome), float(key.index(better)))
        case Ranked(tiers=tiers):
            tier_of = {one.candidates[i]: rank for rank, tier in enumerate(tiers) for i in tier}
            for first, second in itertools.combinations(sorted(one.candidates), 2):
                gap = tier_of[first] - tier_of[second]
                yield (first, second), 2.0 if gap == 0 else float(gap > 0)
        case Thumbed(up=up):
            yield one.candidates, float(up)
        case Rated(rating=rating):
            yield one.candidates, float(rating)
        case Flagged(flagged=flagged):
            yield one.candidates, float(flagged)
        case _:
            return


def _interval(one: Interval) -> dict[str, float]:
    return {"value": one.value, "low": one.low, "high": one.high}
