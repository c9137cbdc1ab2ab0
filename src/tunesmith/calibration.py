"""Probabilities held against what came true, and detectors whose errors are known. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.randomness import generator
from tunesmith.stats import Interval

_NUM_DRAWS = 20_000


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
    flagged: tuple[int, int], sensitivity: tuple[int, int], specificity: tuple[int, int], seed: int, *, unread: int = 0
) -> Interval:
    """A prevalence read by an imperfect detector, corrected for its errors, with a 95 % interval that carries them.

    Each is (successes, trials): items flagged of those read, known positives found, known negatives passed. unread:
    further items that the detector says nothing of and that are no positives; the prevalence is that of all items. The
    estimate is (flagged + specificity - 1) / (sensitivity + specificity - 1) within [0, 1] (Rogan and Gladen 1978, Am.
    J. Epidemiol. 107:71) times the share read; limits are quantiles over draws of the rates from their Jeffreys
    posteriors, draws of a detector no better than chance telling nothing: there the rate may be anything. Raises
    ValueError for counts that are no proportion, and for a detector no better than chance.
    """
    _check_proportion(*flagged)
    rate = flagged[0] / flagged[1]
    sens, spec = _better_than_chance(sensitivity, specificity)
    rng = generator(seed, "rogan_gladen")
    counts = (flagged, sensitivity, specificity)
    rates_3R = np.stack([rng.beta(k + 0.5, n - k + 0.5, size=_NUM_DRAWS) for k, n in counts])
    read, read_R = 1.0, np.ones(_NUM_DRAWS)
    if unread:
        read = flagged[1] / (flagged[1] + unread)
        read_R = rng.beta(flagged[1] + 0.5, unread + 0.5, size=_NUM_DRAWS)
    drawn_R, blind_R = _corrected(rates_3R[0] * read_R, read_R, rates_3R[1], rates_3R[2])
    low = float(np.quantile(np.where(blind_R, 0.0, drawn_R), 0.025))
    high = float(np.quantile(np.where(blind_R, read_R, drawn_R), 0.975))
    return Interval(float(np.clip((rate + spec - 1) / (sens + spec - 1), 0, 1)) * read, low, high)


def rogan_gladen_difference(
    before: Sequence[bool | None],
    after: Sequence[bool | None],
    sensitivity: tuple[int, int],
    specificity: tuple[int, int],
    seed: int,
) -> Interval:
    """Corrected prevalence of ``after`` minus that of ``before``, both read on the same items by one detector.

    None: the detector says nothing of the item, which is no positive. The detector's errors are the same on both sides,
    so they are drawn once for both; the table of pairs is drawn from its Dirichlet posterior under a prior of weight 1
    spread evenly over the cells (Perks 1947, J. Inst. Actuaries 73:285), which gives a single rate Jeffreys' prior
    where every item is read. It holds where the detector errs alike before and after. Raises ValueError as
    rogan_gladen does.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} values are paired with {len(after)}")
    sens, spec = _better_than_chance(sensitivity, specificity)
    kinds = (True, False, None) if None in (*before, *after) else (True, False)
    table = np.array(
        [[sum(b is one and a is two for b, a in zip(before, after, strict=True)) for two in kinds] for one in kinds]
    )
    rng = generator(seed, "rogan_gladen_difference")
    drawn_RC = rng.dirichlet(table.ravel() + 1 / table.size, size=_NUM_DRAWS)
    sens_R, spec_R = (rng.beta(k + 0.5, n - k + 0.5, size=_NUM_DRAWS) for k, n in (sensitivity, specificity))
    sides, estimates, blind_R = [], [], np.zeros(_NUM_DRAWS, dtype=bool)
    for axis in (1, 0):
        shares_RK = drawn_RC.reshape(-1, *table.shape).sum(axis=axis + 1)
        rates_R, blind_R = _corrected(shares_RK[:, 0], shares_RK[:, :2].sum(axis=1), sens_R, spec_R)
        sides.append(rates_R)
        own = table.sum(axis=axis) / table.sum()
        rate, _ = _corrected(own[:1], own[:2].sum(keepdims=True), np.array([sens]), np.array([spec]))
        estimates.append(float(rate[0]))
    drawn_R = sides[1] - sides[0]
    low = float(np.quantile(np.where(blind_R, -1.0, drawn_R), 0.025))
    high = float(np.quantile(np.where(blind_R, 1.0, drawn_R), 0.975))
    return Interval(estimates[1] - estimates[0], low, high)


def _better_than_chance(sensitivity: tuple[int, int], specificity: tuple[int, int]) -> tuple[float, float]:
    _check_proportion(*sensitivity)
    _check_proportion(*specificity)
    sens, spec = sensitivity[0] / sensitivity[1], specificity[0] / specificity[1]
    if sens + spec <= 1:
        raise ValueError(f"a detector of sensitivity {sens:.2f} and specificity {spec:.2f} is no better than chance")
    return sens, spec


def _check_proportion(successes: int, trials: int) -> None:
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials is no proportion")


def _corrected(
    flagged_R: NDArray[np.float64],
    read_R: NDArray[np.float64],
    sens_R: NDArray[np.float64],
    spec_R: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Shares of all items that are positive, and where the detector is blind, from shares of all that are flagged."""
    better_R = sens_R + spec_R - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        rates_R = np.clip((flagged_R - (1 - spec_R) * read_R) / better_R, 0, read_R)
    return rates_R, better_R <= 0
