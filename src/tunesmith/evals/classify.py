"""How good a classifier is on rows it never saw: accuracy, every class, calibration, and others on the same rows.

Shape letters: N rows, K classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.calibration import calibration
from tunesmith.randomness import generator
from tunesmith.stats import (
    Interval,
    bootstrap_mean,
    exact_mcnemar,
    newcombe_paired_difference,
    wilson_interval,
)

NUM_BINS, NUM_RESAMPLES = 10, 2000
# Numbers held at once while resampling.
_AT_ONCE = 4_000_000
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def measure_classes(
    probabilities_NK: Floats, class_N: Ints, labels: Sequence[str], others: Mapping[str, Ints], seed: int
) -> dict[str, Any]:
    """Everything the report shows of held-out rows, as plain values; others: name -> the class each row is said to be.

    Of classes with equal probability the first one is what the classifier says.
    """
    said_N = probabilities_NK.argmax(axis=1)
    right_N, confidence_N = said_N == class_N, probabilities_NK.max(axis=1)
    curve = calibration(confidence_N.tolist(), right_N.astype(float).tolist(), seed, num_bins=NUM_BINS)
    nats_N = -np.log(np.maximum(probabilities_NK[np.arange(len(class_N)), class_N], 1e-300))
    table_KK = confusion(class_N, said_N, len(labels))
    macro, f1_K = f1_intervals(class_N, said_N, len(labels), seed)
    facts = {
        "rows": len(class_N),
        "accuracy": _as_list(wilson_interval(int(right_N.sum()), len(right_N))),
        "macro_f1": _as_list(macro),
        "log_loss": _as_list(bootstrap_mean(nats_N.tolist(), seed)),
        "classes": [_of_class(label, table_KK, k, f1_K[k]) for k, label in enumerate(labels)],
        "confusion": table_KK.tolist(),
        "ece": curve.ece,
        "ece_if_calibrated": curve.expected_ece,
        "calibration": [{"rows": b.count, "confidence": b.confidence, "accuracy": b.accuracy} for b in curve.bins],
        "others": {name: _against(name_N, said_N, class_N, len(labels), seed) for name, name_N in others.items()},
    }
    return facts | {"warnings": _warnings(facts)}


def confusion(class_N: Ints, said_N: Ints, num_classes: int) -> Ints:
    """(K, K) counts: row the true class, column what was said."""
    flat = np.bincount(class_N * num_classes + said_N, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def f1_intervals(
    class_N: Ints, said_N: Ints, num_classes: int, seed: int, num_resamples: int = NUM_RESAMPLES
) -> tuple[Interval, list[Interval | None]]:
    """(macro-F1, F1 of each class) with percentile bootstrap intervals over rows.

    F1 = 2 hits / (rows of the class + rows said to be it); macro-F1 is its mean over the classes that have rows here,
    the others having no F1 (None). A resample in which such a class neither stands nor is said leaves it out of its
    mean. Raises ValueError without rows.
    """
    if not len(class_N):
        raise ValueError("no rows to measure on")
    present_K = np.bincount(class_N, minlength=num_classes) > 0
    truth_NK, said_NK = np.eye(num_classes)[class_N], np.eye(num_classes)[said_N]
    hits_NK, both_NK = truth_NK * said_NK, truth_NK + said_NK
    rng, draws = generator(seed, "f1"), [np.ones((1, len(class_N)))]
    step = max(1, _AT_ONCE // len(class_N))
    for start in range(0, num_resamples, step):
        size = min(step, num_resamples - start)
        counts_RN = rng.multinomial(len(class_N), np.full(len(class_N), 1 / len(class_N)), size=size)
        draws.append(counts_RN.astype(float))
    values: list[Floats] = []
    for drawn_RN in draws:
        with np.errstate(invalid="ignore"):
            values.append(2 * (drawn_RN @ hits_NK) / (drawn_RN @ both_NK))
    f1_RK = np.concatenate(values)
    macro = _of_resamples(np.nanmean(f1_RK[:, present_K], axis=1))
    return macro, [_of_resamples(f1_RK[:, k]) if present_K[k] else None for k in range(num_classes)]


def _of_resamples(values_R: Floats) -> Interval:
    """The first is the estimate; a resample in which it does not exist is left out of the limits."""
    drawn = values_R[1:][np.isfinite(values_R[1:])]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(values_R[0]), float(low), float(high))


def _of_class(label: str, table_KK: Ints, k: int, f1: Interval | None) -> dict[str, Any]:
    """Precision and recall with Wilson's intervals, None where nothing was said to be the class or none is it."""
    hits, said, rows = int(table_KK[k, k]), int(table_KK[:, k].sum()), int(table_KK[k].sum())
    return {
        "label": label,
        "rows": rows,
        "said": said,
        "precision": _as_list(wilson_interval(hits, said)) if said else None,
        "recall": _as_list(wilson_interval(hits, rows)) if rows else None,
        "f1": _as_list(f1) if f1 else None,
    }


def _against(other_N: Ints, said_N: Ints, class_N: Ints, num_classes: int, seed: int) -> dict[str, Any]:
    """Another way to classify on the same rows: its figures, how far the classifier is ahead, and their exact test."""
    other, model = (other_N == class_N).tolist(), (said_N == class_N).tolist()
    test = exact_mcnemar(other, model)
    return {
        "accuracy": _as_list(wilson_interval(sum(other), len(other))),
        "macro_f1": _as_list(f1_intervals(class_N, other_N, num_classes, seed)[0]),
        "difference": _as_list(newcombe_paired_difference(other, model)),
        "rows_only_other": test.only_first,
        "rows_only_model": test.only_second,
        "p": test.p,
    }


def _warnings(facts: Mapping[str, Any]) -> list[str]:
    out = []
    for name, other in facts["others"].items():
        # Both: an interval over a handful of rows is no evidence by itself.
        if other["difference"][1] <= 0 or other["p"] >= 0.05:
            value, low, high = (100 * x for x in other["difference"])
            out.append(f"not shown to be better than {name}: difference {value:.1f} points [{low:.1f}, {high:.1f}].")
    if unsaid := [c["label"] for c in facts["classes"] if c["rows"] and not c["said"]]:
        out.append(f"{len(unsaid)} classes are never said, '{unsaid[0]}' for one.")
    return out


def _as_list(interval: Interval) -> list[float]:
    """[value, low, high]."""
    return [interval.value, interval.low, interval.high]
