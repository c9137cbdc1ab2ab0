"""How far a judge agrees with people, and where that is filed: no judge's score is shown without it.

Letters: N judged things, B resamples, P and Q things that people put into one class or the other.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.errors import RunError
from tunesmith.evals.judge import Ruling
from tunesmith.evals.judge_stats import Bounded, Told, bounded_grade, bounded_rate, limits
from tunesmith.evals.rubrics import Rubric
from tunesmith.feedback.agreement import agreement_with_rest, cohen_kappa, krippendorff_alpha, without_minus_with
from tunesmith.randomness import generator
from tunesmith.runs import atomic_write_text
from tunesmith.stats import Interval, clustered_proportion

NOT_CALIBRATED = "not calibrated"
_NUM_RESAMPLES = 2000
# An unreadable verdict is a class of its own where classes are compared: it agrees with nobody.
_UNREAD = -1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """What people said of one thing: a value each, in the rubric's unit; question names what was drawn together."""

    question: str
    people: tuple[float, ...]


def agreement_facts(rubric: Rubric, labelled: Sequence[Labelled], rulings: Sequence[Ruling]) -> dict[str, Any]:
    """The figures that fit the rubric's scale, for JSON; ``main`` is the one line of them a score is shown with.

    Raises ValueError for lists of different lengths, empty ones and the scale of pairs, whose figure is a share.
    """
    if len(labelled) != len(rulings) or not labelled:
        raise ValueError(f"{len(labelled)} labels for {len(rulings)} rulings")
    if rubric.scale == "classes":
        return _of_classes(rubric, labelled, rulings)
    if rubric.scale == "number":
        return _of_numbers(rubric, labelled, rulings)
    raise ValueError("pairs are compared by agreement_on_pairs")


def agreement_on_pairs(told: Sequence[Told]) -> dict[str, Any]:
    """Of contests whose first side people preferred: how often the judge prefers it, ties half, clustered."""
    share = bounded_rate(told)
    return {
        "num": len(told),
        "unparsed": share.num_unparsed,
        "agreement": share.as_dict(),
        "main": f"prefers what people preferred in {bounded_text(share, percent=True)} of pairs (a coin: 50 %)",
    }


def _of_classes(rubric: Rubric, labelled: Sequence[Labelled], rulings: Sequence[Ruling]) -> dict[str, Any]:
    majority = [_majority(one.people) for one in labelled]
    kept = [i for i, value in enumerate(majority) if value is not None]
    truth = [float(majority[i] or 0.0) for i in kept]
    said = [None if (label := rulings[i].label) is None else rubric.labels[label] for i in kept]
    clusters = _numbered([labelled[i].question for i in kept])
    kappa = cohen_kappa([_UNREAD if value is None else value for value in said], truth, clusters_N=clusters)
    name_of = {value: label for label, value in rubric.labels.items()}
    recalls, pessimist, optimist = {}, [], []
    for value in sorted(set(truth)):
        own = [i for i in range(len(truth)) if truth[i] == value]
        places = [clusters[i] for i in own]
        pessimist.append(clustered_proportion([float(said[i] == value) for i in own], places))
        optimist.append(clustered_proportion([float(said[i] in (value, None)) for i in own], places))
        recalls[name_of.get(value, f"{value:g}")] = {**(limits(pessimist[-1]) or {}), "num": len(own)}
    worst, best = mean_of_independent(pessimist), mean_of_independent(optimist)
    facts: dict[str, Any] = {
        "num": len(kept),
        "people_undecided": len(labelled) - len(kept),
        "unparsed": sum(value is None for value in said),
        "kappa": kappa.as_dict(),
        "balanced_accuracy": {"value": worst.value, "low": worst.low, "high": best.high, "most": best.value},
        "recall": recalls,
        "said": dict(Counter("unparsed" if v is None else name_of[v] for v in said)),
    }
    if len(recalls) == 2 and all(rulings[i].value is not None for i in kept):
        scores = [float(rulings[i].value or 0.0) for i in kept]
        facts["auc"] = limits(area_under_curve(scores, [value == max(truth) for value in truth]))
    facts["main"] = f"kappa {kappa}, balanced accuracy {Interval(worst.value, worst.low, best.high).percent()}"
    return facts


def _of_numbers(rubric: Rubric, labelled: Sequence[Labelled], rulings: Sequence[Ruling]) -> dict[str, Any]:
    people = [float(np.mean(one.people)) for one in labelled]
    questions = [one.question for one in labelled]
    span = rubric.most - rubric.least
    told = []
    for question, truth, one in zip(questions, people, rulings, strict=True):
        if one.value is None:
            told.append(Told(question, None, 0.0, max(truth - rubric.least, rubric.most - truth)))
        else:
            told.append(Told(question, *[abs(one.value - truth)] * 3))
    error = bounded_grade(told, 0.0, span)
    middle = float(np.median(people))
    constant = bounded_grade([Told(q, *[abs(middle - h)] * 3) for q, h in zip(questions, people, strict=True)], 0, span)
    raters = max(len(one.people) for one in labelled)
    matrix = np.full((len(labelled), raters + 1), np.nan)
    for i, thing in enumerate(labelled):
        matrix[i, : len(thing.people)] = thing.people
        if (value := rulings[i].value) is not None:
            matrix[i, raters] = value
    clusters = _numbered(questions)
    alpha = agreement_with_rest(matrix, raters, "interval", clusters_N=clusters)
    facts = {
        "num": len(labelled),
        "unparsed": error.num_unparsed,
        "mae": error.as_dict(),
        "mae_of_a_constant": constant.as_dict(),
        "constant": middle,
        "alpha": alpha.as_dict(),
        "main": f"mean absolute error {bounded_text(error)} on a scale of {rubric.least:g} to {rubric.most:g} (always "
        f"{middle:g}: {bounded_text(constant)}), Krippendorff's alpha {alpha}",
    }
    if raters > 1:
        facts["alpha_of_people"] = krippendorff_alpha(matrix[:, :raters], "interval", clusters_N=clusters).as_dict()
        facts["people_minus_judge"] = without_minus_with(matrix, raters, "interval", clusters_N=clusters).as_dict()
    return facts


def mean_of_independent(shares: Sequence[Interval]) -> Interval:
    """Mean of independent proportions with limits from those of each (MOVER: Zou and Donner 2008, Stat. Med. 27:1693).

    Of the recalls of all classes it is the balanced accuracy.
    """
    n = len(shares)
    value = sum(share.value for share in shares) / n
    low = value - math.sqrt(sum((share.value - share.low) ** 2 for share in shares)) / n
    high = value + math.sqrt(sum((share.high - share.value) ** 2 for share in shares)) / n
    return Interval(value, low, high)


def area_under_curve(scores: Sequence[float], positive: Sequence[bool], seed: int = 0) -> Interval:
    """Chance that a positive thing has a higher score than a negative one, ties half (Hanley and McNeil 1982).

    The interval is a bootstrap within both classes. Raises ValueError where one of them is empty.
    """
    values_N, is_positive_N = np.asarray(scores, float), np.asarray(positive, bool)
    positive_P, negative_Q = values_N[is_positive_N], values_N[~is_positive_N]
    if not len(positive_P) or not len(negative_Q):
        raise ValueError("an area under the curve needs both classes")
    above_PQ = (positive_P[:, None] > negative_Q) + 0.5 * (positive_P[:, None] == negative_Q)
    rng = generator(seed, "auc_bootstrap")
    times_BP, times_BQ = (
        rng.multinomial(n, np.full(n, 1 / n), size=_NUM_RESAMPLES) / n for n in (len(positive_P), len(negative_Q))
    )
    areas_B = ((times_BP @ above_PQ) * times_BQ).sum(axis=1)
    low, high = np.quantile(areas_B, [0.025, 0.975])
    return Interval(float(above_PQ.mean()), float(low), float(high))


def bounded_text(one: Bounded, *, percent: bool = False) -> str:
    """value [low, high], and where verdicts could not be read how many and between what the value may lie."""
    scale, unit, digits = (100, " %", 1) if percent else (1, "", 3)

    def number(value: float) -> str:
        return f"{scale * value:.{digits}f}"

    value = "nothing to read" if one.value is None else f"{number(one.value)}{unit}"
    text = f"{value} [{number(one.low)}, {number(one.high)}]"
    if not one.num_unparsed:
        return text
    return f"{text} ({one.num_unparsed} of {one.num} unparsed: {number(one.least)} to {number(one.most)}{unit})"


def file_agreement(folder: Path, digest: str, judge: Mapping[str, Any], data: str, facts: Mapping[str, Any]) -> Path:
    """Put what was measured on a data set (by its digest) into <folder>/<digest>.json, beside others of that judge.

    Raises RunError for a file that is there and is none of ours; DiskFullError.
    """
    path = folder / f"{digest}.json"
    kept = _read(path) or {"judge": dict(judge), "measured": {}}
    kept["measured"][data] = dict(facts)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
    return path


def agreement_line(folder: Path, digest: str) -> str:
    """What is to be said beside every score of a judge with these settings: its agreement with people, or that there
    is none. Raises RunError for a damaged file.
    """
    kept = _read(folder / f"{digest}.json")
    if kept is None or not kept["measured"]:
        return NOT_CALIBRATED
    lines = [f"{one['main']} ({one['num']} rows of {one['source']})" for one in kept["measured"].values()]
    return "agreement with people: " + "; ".join(lines)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(kept, dict) and all({"main", "num", "source"} <= set(m) for m in kept["measured"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        whole = False
    if not whole:
        raise RunError(path, "is not what `judge calibrate` writes.", "Delete it and calibrate again.")
    return dict(kept)


def _majority(values: Sequence[float]) -> float | None:
    """The value most people gave; None where two are equally frequent."""
    (first, count), *rest = Counter(values).most_common()
    return None if rest and rest[0][1] == count else first


def _numbered(names: Sequence[str]) -> list[int]:
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return [number[name] for name in names]
