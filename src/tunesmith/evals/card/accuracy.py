"""Accuracy on the card's suites, and calibration from the same answers: does the model know when it is right?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.calibration import calibration, selective_accuracy
from tunesmith.evals.card.measure import Array, Measure
from tunesmith.evals.run import TaskResult

NUM_BINS = 10
_METRIC_NAMES = {"acc": "likeliest choice", "acc_norm": "likeliest choice a character"}


def accuracy_measure(result: TaskResult, headline: str) -> Measure:
    """A suite's headline metric."""
    return Measure(
        dimension="accuracy",
        name=result.task.name,
        values_NK=np.array(result.values(headline))[:, None],
        cluster_N=clusters(result),
        ideal=1.0,
        chance=result.task.chance.get(headline),
        note=_METRIC_NAMES.get(headline, headline.replace("_", " ")),
    )


def clusters(result: TaskResult) -> tuple[str, ...]:
    """What says which items of a task are not independent, unique over tasks."""
    return tuple(f"{result.task.name}:{item.group or item.id}" for item in result.task.items)


def confidences(results: Sequence[TaskResult]) -> tuple[Array, tuple[str, ...]]:
    """(N, 2): probability of the likeliest choice, a softmax over the choices, and whether it is right."""
    rows, places = [], []
    for result in results:
        for answer, place in zip(result.answers, clusters(result), strict=True):
            known = answer.verdict.details
            rows.append([max(known["probabilities"]), float(known["chosen"] in known["gold"])])
            places.append(place)
    return np.array(rows), tuple(places)


def expected_error(values_N2: Array) -> float:
    """Expected calibration error in bins of equal mass; see ``calibration.calibration``, whose figure this is."""
    confidence_N, right_N = values_N2[:, 0], values_N2[:, 1]
    cuts = np.array_split(np.argsort(confidence_N, kind="stable"), min(NUM_BINS, len(values_N2)))
    gaps = [abs(float(right_N[cut].sum() - confidence_N[cut].sum())) for cut in cuts]
    return sum(gaps) / len(values_N2)


def selective_area(values_N2: Array) -> float:
    """Area under the accuracy of answering only what the model is surest of, over all coverages (arXiv:2211.09110).

    The mean over k of the accuracy on the k surest items; answers of equal confidence share their mean.
    """
    order = np.argsort(-values_N2[:, 0], kind="stable")
    confidence_N, right_N = values_N2[order, 0], values_N2[order, 1].copy()
    starts = np.flatnonzero(np.append(True, np.diff(confidence_N) != 0))
    lengths = np.diff(np.append(starts, len(right_N)))
    right_N = np.repeat(np.add.reduceat(right_N, starts) / lengths, lengths)
    return float((np.cumsum(right_N) / np.arange(1, len(right_N) + 1)).mean())


def calibration_measures(results: Sequence[TaskResult]) -> list[Measure]:
    """The calibration error over all choice suites together, and the area under selective accuracy."""
    values_N2, places = confidences(results)
    known = calibration(values_N2[:, 0].tolist(), values_N2[:, 1].tolist(), seed=0, num_bins=NUM_BINS)
    surest = values_N2[np.argsort(-values_N2[:, 0], kind="stable")][: max(1, len(values_N2) // 10), 1].mean()
    return [
        Measure(
            dimension="calibration", name="calibration error, 10 bins", values_NK=values_N2, cluster_N=places,
            statistic=expected_error, ideal=0.0, note=f"{known.expected_ece:.3f} were every probability true",
        ),
        Measure(
            dimension="calibration", name="selective accuracy, area", values_NK=values_N2, cluster_N=places,
            statistic=selective_area, ideal=1.0,
            note=f"all {100 * values_N2[:, 1].mean():.0f} % right, surest tenth {100 * surest:.0f} %",
        ),
    ]  # fmt: skip


def curves(results: Sequence[TaskResult]) -> dict[str, list[list[float]]]:
    """Points for the pictures: reliability (confidence, accuracy, count) a bin, selective (coverage, accuracy)."""
    values_N2, _ = confidences(results)
    confidence, right = values_N2[:, 0].tolist(), values_N2[:, 1].tolist()
    bins = calibration(confidence, right, seed=0, num_bins=NUM_BINS).bins
    return {
        "reliability": [[b.confidence, b.accuracy, b.count] for b in bins],
        "selective": [list(point) for point in selective_accuracy(confidence, right)],
    }
