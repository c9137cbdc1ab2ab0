"""Probabilities held against what came true, and detectors whose errors are known. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.randomness import generator
from tunesmith.stats import Interval


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """One bin: how many predictions, their mean probability, and how often they were right."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """ece: sum over bins of their share times |accuracy - confidence|; bins by rising probability.

    expected_ece: its mean where every probability is true and only chance speaks, which on few pairs is far from 0.
    """

    ece: float
    expected_ece: float
    bins: tuple[CalibrationBin, ...]


def calibration(
    probabilities: Sequence[float], outcomes: Sequence[float], seed: int, *, num_bins: int = 10, num_draws: int = 1000
) -> Calibration:
    """Expected calibration error over bins of equal mass (Nguyen and O'Connor 2015, arXiv:1508.05154).

    outcomes: 1 where what was predicted came true, 0 where not, halves for ties. Bins hold the same number of
    predictions, to within one; fewer predictions than bins make a bin each. Raises ValueError without predictions.
    """
    if not len(probabilities) or len(probabilities) != len(outcomes):
        raise ValueError(f"{len(probabilities)} probabilities for {len(outcomes)} outcomes")
    p, y = np.asarray(probabilities, float), np.asarray(outcomes, float)
    order = np.argsort(p, kind="stable")
    cuts = np.array_split(order, min(num_bins, len(p)))
    draws = (generator(seed, "calibration").random((num_draws, len(p))) < p).astype(float)
    by_chance = sum(len(cut) * np.abs(draws[:, cut].mean(axis=1) - p[cut].mean()) for cut in cuts) / len(p)
    bins = tuple(CalibrationBin(len(cut), float(p[cut].mean()), float(y[cut].mean())) for cut in cuts)
    ece = sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / len(p)
    return Calibration(ece, float(np.mean(by_chance)), bins)


def calibration_error(
    probabilities: Sequence[float], outcomes: Sequence[float], seed: int, *, num_bins: int = 10, num_draws: int = 1000
) -> Interval:
    """Expected calibration error as ``calibration`` has it, with the percentile bootstrap over predictions.

    The error is biased upwards on few predictions, and so are its limits: read ``expected_ece`` beside it.
    """
    p, y = np.asarray(probabilities, float), np.asarray(outcomes, float)
    value = calibration(p.tolist(), y.tolist(), seed, num_bins=num_bins, num_draws=1).ece
    rng, errors = generator(seed, "calibration_error"), []
    for _ in range(num_draws):
        drawn = rng.integers(len(p), size=len(p))
        order = drawn[np.argsort(p[drawn], kind="stable")]
        cuts = np.array_split(order, min(num_bins, len(p)))
        errors.append(sum(len(cut) * abs(float(y[cut].mean() - p[cut].mean())) for cut in cuts) / len(p))
    low, high = np.quantile(errors, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def selective_accuracy(confidences: Sequence[float], outcomes: Sequence[float]) -> list[tuple[float, float]]:
    """(coverage, accuracy) where only the most confident answers are given, from one of them to all.

    Answers of one confidence come together, for nothing tells which would be given first. Source: El-Yaniv and Wiener
    2010, JMLR 11:1605. Raises ValueError without answers.
    """
    if not len(confidences) or len(confidences) != len(outcomes):
        raise ValueError(f"{len(confidences)} confidences for {len(outcomes)} outcomes")
    c, y = np.asarray(confidences, float), np.asarray(outcomes, float)
    order = np.argsort(-c, kind="stable")
    right, falls = np.cumsum(y[order]), np.flatnonzero(np.append(np.diff(c[order]) < 0, True))
    return [(float((i + 1) / len(c)), float(right[i] / (i + 1))) for i in falls]


def rogan_gladen(
    flagged: tuple[int, int], sensitivity: tuple[int, int], specificity: tuple[int, int], seed: int
) -> Interval:
    """A prevalence read by an imperfect detector, corrected for its errors, with a 95 % interval that carries them.

    Each is (successes, trials): items flagged, known positives found, known negatives passed. The estimate is (flagged
    + specificity - 1) / (sensitivity + specificity - 1) within [0, 1] (Rogan and Gladen 1978, Am. J. Epidemiol.
    107:71); limits are quantiles over draws of the three rates from their Jeffreys posteriors, draws of a detector no
    better than chance telling nothing: there the rate may be anything. Raises ValueError for counts that are no
    proportion, and for a detector no better than chance.
    """
    for successes, trials in (flagged, sensitivity, specificity):
        if trials <= 0 or not 0 <= successes <= trials:
            raise ValueError(f"{successes} successes of {trials} trials is no proportion")
    rate, sens, spec = (successes / trials for successes, trials in (flagged, sensitivity, specificity))
    if sens + spec <= 1:
        raise ValueError(f"a detector of sensitivity {sens:.2f} and specificity {spec:.2f} is no better than chance")
    rng = generator(seed, "rogan_gladen")
    rates_3R = np.stack([rng.beta(k + 0.5, n - k + 0.5, size=20_000) for k, n in (flagged, sensitivity, specificity)])
    better_R = rates_3R[1] + rates_3R[2] - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn_R = np.clip((rates_3R[0] + rates_3R[2] - 1) / better_R, 0, 1)
    # A blind draw stands for both ends at once.
    blind_R = better_R <= 0
    low = float(np.quantile(np.where(blind_R, 0.0, drawn_R), 0.025))
    high = float(np.quantile(np.where(blind_R, 1.0, drawn_R), 0.975))
    return Interval(float(np.clip((rate + spec - 1) / (sens + spec - 1), 0, 1)), low, high)
