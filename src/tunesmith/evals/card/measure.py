"""One line of the report card: values an item, a statistic of them, its interval, and what two models differ by.

Letters in shapes: N items, K columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.randomness import generator
from tunesmith.stats import (
    Interval,
    clustered_proportion,
    exact_mcnemar,
    holm_adjusted,
    newcombe_paired_difference,
    wilson_interval,
)

Array = NDArray[np.float64]
Statistic = Callable[[Array], float]
Judgement = Literal[
    "better",
    "worse",
    "turned round",
    "no difference found",
    "at chance",
    "above chance",
    "below chance",
    "biased",
    "measured",
]

_NUM_RESAMPLES = 2000
_LEVEL = 0.05


def mean(values_NK: Array) -> float:
    """Mean of the first column."""
    return float(values_NK[:, 0].mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A figure of one model: values_NK, an item a row; cluster_N says which items are not independent.

    ideal: the best value there is; infinity where more is always better. chance: the value of a model that knows
    nothing, where there is one. For a bias both are the value of a model that prefers nobody. bounds: least and
    greatest value the statistic can have.
    """

    dimension: str
    name: str
    values_NK: Array
    cluster_N: tuple[str, ...]
    ideal: float
    statistic: Statistic = mean
    bounds: tuple[float, float] = (0.0, 1.0)
    chance: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if len(self.values_NK) != len(self.cluster_N) or not len(self.cluster_N):
            raise ValueError(f"'{self.name}' has {len(self.values_NK)} values in {len(self.cluster_N)} places")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the card. second, difference (second - first) and p are there where two models were measured.

    second_chance: where the value of a model that knows nothing depends on what the second one said. note and
    second_note: what else is to be known of either model's figure.
    """

    dimension: str
    name: str
    num_items: int
    ideal: float
    first: Interval
    second: Interval | None = None
    difference: Interval | None = None
    p: float | None = None
    chance: float | None = None
    second_chance: float | None = None
    unit: str = ""
    note: str = ""
    second_note: str = ""

    @property
    def detectable(self) -> float | None:
        """The smallest difference that four of five such cards would find at the 5 % level, before Holm.

        2.8 standard errors, which are read from the width of the difference's interval.
        """
        if self.difference is None:
            return None
        return (1.96 + 0.84) * (self.difference.high - self.difference.low) / (2 * 1.96)


def interval(measure: Measure, seed: int = 0) -> Interval:
    """The statistic with its 95 % interval: a score interval for shares, else a bootstrap over whole clusters."""
    _, which = np.unique(np.array(measure.cluster_N), return_inverse=True)
    if _is_share(measure):
        return clustered_proportion(measure.values_NK[:, 0].tolist(), which.tolist())
    value = measure.statistic(measure.values_NK)
    draws = [measure.statistic(measure.values_NK[rows]) for rows in _resamples(which, seed)]
    return _limits(value, draws, len(set(measure.cluster_N)), measure.bounds)


def paired_row(first: Measure, second: Measure | None, seed: int = 0) -> Row:
    """The row of one model, or of two on the same items.

    Shares of independent items: Newcombe's interval and the exact McNemar test. All else: a bootstrap of the difference
    over clusters, both models' items drawn together, and a randomisation test that swaps the two models cluster by
    cluster (Edgington 1980). Raises ValueError where the two were not measured on the same items.
    """
    one = interval(first, seed)
    known = {
        "dimension": first.dimension, "name": first.name, "num_items": len(first.cluster_N), "ideal": first.ideal,
        "chance": first.chance, "note": first.note, "first": one,
    }  # fmt: skip
    if second is None:
        return Row(**known)  # type: ignore[arg-type]
    if (first.name, first.cluster_N) != (second.name, second.cluster_N):
        raise ValueError(f"'{first.name}' and '{second.name}' were not measured on the same items")
    if _is_share(first) and _is_share(second) and len(set(first.cluster_N)) == len(first.cluster_N):
        a, b = first.values_NK[:, 0].tolist(), second.values_NK[:, 0].tolist()
        difference = newcombe_paired_difference([x == 1 for x in a], [x == 1 for x in b])
        p = exact_mcnemar(a, b).p
    else:
        difference = paired_difference(first, second, seed)
        p = swap_test(first, second, seed)
    known |= {"second": interval(second, seed), "second_chance": second.chance, "second_note": second.note}
    known |= {"difference": difference, "p": p}
    return Row(**known)  # type: ignore[arg-type]


def paired_difference(first: Measure, second: Measure, seed: int) -> Interval:
    """Percentile bootstrap of statistic(second) - statistic(first), the same clusters drawn for both."""
    _, which = np.unique(np.array(first.cluster_N), return_inverse=True)
    draws = [
        second.statistic(second.values_NK[rows]) - first.statistic(first.values_NK[rows])
        for rows in _resamples(which, seed)
    ]
    span = first.bounds[1] - first.bounds[0]
    value = second.statistic(second.values_NK) - first.statistic(first.values_NK)
    return _limits(value, draws, len(set(first.cluster_N)), (-span, span))


def swap_test(first: Measure, second: Measure, seed: int) -> float:
    """Two-sided p: how often a random exchange of the two models within clusters differs by as much.

    Exact up to the number of draws, whatever the statistic: were the models alike, every exchange would be as likely.
    """
    names, which = np.unique(np.array(first.cluster_N), return_inverse=True)
    rng = generator(seed, "card_swap", first.name)
    seen = abs(first.statistic(first.values_NK) - second.statistic(second.values_NK))
    as_far = 0
    for _ in range(_NUM_RESAMPLES):
        swapped_N1 = (rng.random(len(names)) < 0.5)[which][:, None]
        one = np.where(swapped_N1, second.values_NK, first.values_NK)
        two = np.where(swapped_N1, first.values_NK, second.values_NK)
        # Sums in another order may differ in their last bits.
        as_far += abs(first.statistic(one) - second.statistic(two)) >= seen - 1e-12
    return (1 + as_far) / (1 + _NUM_RESAMPLES)


def verdicts(rows: Sequence[Row]) -> list[Judgement]:
    """One word a row; with two models p is adjusted over all rows that have one (Holm).

    better and worse: the second is nearer to the ideal, or farther, than chance explains. turned round: the two differ,
    on either side of the ideal, and their distances from it cannot be told apart. at chance: neither model's interval
    leaves the value of one that knows nothing, or prefers nobody.
    """
    tested = [i for i, row in enumerate(rows) if row.p is not None]
    adjusted = dict(zip(tested, holm_adjusted([p for row in rows if (p := row.p) is not None]), strict=True))
    return [_judge(row, adjusted.get(i)) for i, row in enumerate(rows)]


def _judge(row: Row, p: float | None) -> Judgement:
    if row.second is not None and p is not None and p < _LEVEL:
        low, high = sorted((row.first.value, row.second.value))
        if low < row.ideal < high and not _apart(row.first, row.second, row.ideal):
            return "turned round"
        first, second = (_distance(one.value, row.ideal) for one in (row.first, row.second))
        return "better" if second < first else "worse"
    if _holds(row.first, row.chance) and (row.second is None or _holds(row.second, row.second_chance)):
        return "at chance"
    if row.second is not None:
        return "no difference found"
    if row.chance is None:
        return "measured"
    if row.chance == row.ideal:
        return "biased"
    nearer = abs(row.first.value - row.ideal) < abs(row.chance - row.ideal)
    return "above chance" if nearer else "below chance"


def _apart(first: Interval, second: Interval, ideal: float) -> bool:
    """Whether the two intervals, both laid on one side of the ideal, leave each other."""
    ends = [sorted((abs(one.low - ideal), abs(one.high - ideal))) for one in (first, second)]
    nearest = [0.0 if _holds(one, ideal) else end[0] for one, end in zip((first, second), ends, strict=True)]
    return ends[0][1] < nearest[1] or ends[1][1] < nearest[0]


def _holds(limits: Interval, value: float | None) -> bool:
    return value is not None and limits.low <= value <= limits.high


def _distance(value: float, ideal: float) -> float:
    return -value if math.isinf(ideal) else abs(value - ideal)


def _is_share(measure: Measure) -> bool:
    return measure.statistic is mean and set(measure.values_NK[:, 0].tolist()) <= {0.0, 1.0}


def _resamples(which_N: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    """Places of the items in each resample; every statistic of one card sees the same draws of its clusters."""
    rng = generator(seed, "card_bootstrap")
    order = np.argsort(which_N, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(which_N[order])) + 1)
    draws = rng.integers(len(members), size=(_NUM_RESAMPLES, len(members)))
    if len(members) == len(which_N):
        return [order[draw] for draw in draws]
    return [np.concatenate([members[c] for c in draw]) for draw in draws]


def _limits(value: float, draws: Sequence[float], num_clusters: int, bounds: tuple[float, float]) -> Interval:
    """Quantiles of the draws, moved so that their mean is the estimate.

    Resampling inflates what cannot be negative, such as a calibration error or a largest gap: unmoved, the limits could
    leave the estimate outside. The estimate's own inflation stays in; the row's note says how large it is by chance.
    """
    array, (least, greatest) = np.asarray(draws, float), bounds
    if not np.isfinite(array).all() or not math.isfinite(value):
        raise ValueError("a statistic of the card is not finite")
    if array.max() - array.min() < 1e-12:
        # Nothing varied: Wilson's limit says how large a share of others the clusters could have missed.
        missed = wilson_interval(0, num_clusters).high
        return Interval(value, value - missed * (value - least), value + missed * (greatest - value))
    low, high = np.quantile(array + (value - array.mean()), [0.025, 0.975])
    return Interval(value, min(max(float(low), least), value), max(min(float(high), greatest), value))
