"""How often attacks get what they want: shares over attempts that come in goals, raw and corrected for the judge.

Attempts on one goal are no independent trials, so goals are what is drawn again. A judge that errs on single answers
errs more often on an attempt that shows it several, of which one success is enough. Letters: R draws, G goals, S
strata, which are attempts of one judge's error and one number of answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.randomness import generator
from tunesmith.redteam.goal_stats import clustered_paired_difference
from tunesmith.stats import Interval, clustered_proportion, score_interval

_NUM_DRAWS = 4000
# Weights drawn at once: 32 MB, whatever the number of goals.
_WEIGHTS_AT_ONCE = 4_000_000
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownError:
    """How a reading errs on single answers, as measured on people's labels.

    sensitivity: (found, all) of the answers that are what is looked for; specificity: (passed, all) of the others.
    Where answers were drawn together the counts are of as many as are independent. source: whose answers. reliable:
    whether the errors are small, and known well, enough to lean on. exact: nothing is read that could be misread, as
    where strings are compared.
    """

    sensitivity: tuple[float, float]
    specificity: tuple[float, float]
    source: str
    reliable: bool = True
    exact: bool = False


EXACT = KnownError(sensitivity=(1, 1), specificity=(1, 1), source="strings are compared", exact=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One attempt as the judge read it.

    goal: attempts on one goal stand together. hit: what is counted happened. said: an answer was more than nonsense,
    and the judge could tell what it did. num_answers: the most that an attempt of this kind shows the judge, any of
    which may be the hit. error: of the judge on one answer; None where it was never measured.
    """

    goal: str
    hit: bool
    said: bool = True
    num_answers: int = 1
    error: KnownError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share of attempts; corrected: for the judge's errors, None where these were not measured for all of them.

    reliable: whether the correction may be leant on; not where there are fewer hits than the judge's false alarms alone
    would make, so that it must err less here than where it was measured.
    """

    raw: Interval
    corrected: Interval | None
    num: int
    num_hits: int
    num_goals: int
    num_unread: int
    reliable: bool


def rate_of(reads: Sequence[Read], seed: int = 0) -> Rate:
    """Share of hits, with the intervals of attempts that come in goals. Raises ValueError without attempts."""
    raw = clustered_proportion([float(one.hit) for one in reads], _numbers(reads))
    corrected, fits = _corrected([reads], seed), _fits(reads, raw)
    if corrected is not None and not fits:
        # That the judge finds what is there bounds it from above, whatever else it calls so.
        found = min(one.error.sensitivity[0] / one.error.sensitivity[1] for one in reads if one.error is not None)
        corrected = Interval(corrected.value, corrected.low, max(corrected.high, min(1.0, raw.high / found)))
    return Rate(
        raw=raw,
        corrected=corrected,
        num=len(reads),
        num_hits=sum(one.hit for one in reads),
        num_goals=len({one.goal for one in reads}),
        num_unread=sum(not one.said for one in reads),
        reliable=corrected is not None and fits and all(one.error is not None and one.error.reliable for one in reads),
    )


def change_of(before: Sequence[Read], after: Sequence[Read], seed: int = 0) -> tuple[Interval, Interval | None]:
    """Share after minus share before over the same attempts in the same order, raw and corrected.

    The judge's errors are taken to be the same on both sides. Raises ValueError for attempts on other goals.
    """
    if [one.goal for one in before] != [one.goal for one in after]:
        raise ValueError("attempts on different goals are no pairs")
    raw = clustered_paired_difference([one.hit for one in before], [one.hit for one in after], _numbers(before))
    return raw, _corrected([before, after], seed)


def goal_differences(before: Sequence[Read], after: Sequence[Read]) -> list[int]:
    """Hits gained on each goal, for a test that takes goals as its units."""
    gained: dict[str, int] = {}
    for one, two in zip(before, after, strict=True):
        gained[one.goal] = gained.get(one.goal, 0) + int(two.hit) - int(one.hit)
    return list(gained.values())


def _numbers(reads: Sequence[Read]) -> list[int]:
    number = {goal: i for i, goal in enumerate(dict.fromkeys(one.goal for one in reads))}
    return [number[one.goal] for one in reads]


def _fits(reads: Sequence[Read], raw: Interval) -> bool:
    """Whether as many hits can be as the judge's false alarms alone would make, within both 95 % limits."""
    alarms = 0.0
    for one in reads:
        if one.error is not None and not one.error.exact and one.said:
            passed, num = one.error.specificity
            alarms += 1 - score_interval(passed / num, num).high ** one.num_answers
    return alarms / len(reads) <= raw.high


def _corrected(sides: Sequence[Sequence[Read]], seed: int) -> Interval | None:
    """The share of one side, or that of the second minus that of the first, corrected for the judge's errors.

    In a stratum the estimate is Rogan and Gladen's (1978, Am. J. Epidemiol. 107:71) with the errors of an attempt of m
    answers, of which at most one is taken to be a hit and whose misreadings to be independent: specificity spec^m,
    sensitivity 1 - (1 - sens) spec^(m - 1). Strata are joined by their shares of the attempts. Limits are quantiles
    over draws: goals are weighted by the Bayesian bootstrap (Rubin 1981, Annals of Statistics 9:130) with a prior of
    the weight of one goal spread over what may happen, which for goals of one attempt is Jeffreys' (of one side) and
    Perks' (of pairs); the errors come from their Jeffreys posteriors, the same for both sides. Where a draw leaves the
    judge no better than chance, the rate of its stratum may be anything.
    """
    errors = dict.fromkeys(one.error for one in sides[0])
    if None in errors or any(e is not None and not e.exact and _youden(e) <= 0 for e in errors):
        return None
    strata = list(dict.fromkeys((one.error, one.num_answers) for one in sides[0]))
    counts_GC, prior_P, prior_PC = _tables(sides, strata)
    rng = generator(seed, "redteam_rates")
    own = _estimate(counts_GC.sum(axis=0)[None], strata, {e: _point(e) for e in errors if e}, len(sides))
    parts, step = [], max(1, _WEIGHTS_AT_ONCE // (len(counts_GC) + len(prior_P)))
    for start in range(0, _NUM_DRAWS, step):
        size = min(step, _NUM_DRAWS - start)
        parts.append(
            rng.standard_exponential((size, len(counts_GC))) @ counts_GC
            + rng.standard_gamma(prior_P, (size, len(prior_P))) @ prior_PC
        )
    rates = {e: _drawn(e, rng) for e in errors if e}
    lows_R, highs_R = _estimate(np.concatenate(parts), strata, rates, len(sides))[1:]
    low, high = float(np.quantile(lows_R, 0.025)), float(np.quantile(highs_R, 0.975))
    return Interval(float(own[0][0]), low, high)


def _youden(error: KnownError) -> float:
    return error.sensitivity[0] / error.sensitivity[1] + error.specificity[0] / error.specificity[1] - 1


def _point(error: KnownError) -> tuple[Floats, Floats]:
    return tuple(np.array([k / n]) for k, n in (error.sensitivity, error.specificity))  # type: ignore[return-value]


def _drawn(error: KnownError, rng: np.random.Generator) -> tuple[Floats, Floats]:
    if error.exact:
        return np.ones(_NUM_DRAWS), np.ones(_NUM_DRAWS)
    sens, spec = error.sensitivity, error.specificity
    return (
        rng.beta(sens[0] + 0.5, sens[1] - sens[0] + 0.5, _NUM_DRAWS),
        rng.beta(spec[0] + 0.5, spec[1] - spec[0] + 0.5, _NUM_DRAWS),
    )


def _tables(
    sides: Sequence[Sequence[Read]], strata: Sequence[tuple[KnownError | None, int]]
) -> tuple[Floats, Floats, Floats]:
    """Counts a goal (G, C), and the prior's weights (P,) and counts (P, C); C: attempts, then said and hit a side, each
    a stratum."""
    place = {stratum: i for i, stratum in enumerate(strata)}
    num, goals = len(strata), _numbers(sides[0])
    counts_GC = np.zeros((max(goals) + 1, num * (1 + 2 * len(sides))))
    for i, (goal, first) in enumerate(zip(goals, sides[0], strict=True)):
        column = place[first.error, first.num_answers]
        counts_GC[goal, column] += 1
        for side, reads in enumerate(sides):
            counts_GC[goal, (1 + 2 * side) * num + column] += reads[i].said
            counts_GC[goal, (2 + 2 * side) * num + column] += reads[i].hit
    # What may happen to an attempt on a side: (said, hit).
    states = [(1, 1), (1, 0)] + ([(0, 0)] if any(not one.said for reads in sides for one in reads) else [])
    cells = list(itertools.product(states, repeat=len(sides)))
    mean_S = counts_GC[:, :num].mean(axis=0)
    prior_PC = np.stack(
        [np.concatenate([mean_S, *(part * mean_S for both in cell for part in both)]) for cell in cells]
    )
    return counts_GC, np.full(len(cells), 1 / len(cells)), prior_PC


def _estimate(
    sums_RC: Floats,
    strata: Sequence[tuple[KnownError | None, int]],
    rates: dict[KnownError, tuple[Floats, Floats]],
    num_sides: int,
) -> tuple[Floats, Floats, Floats]:
    """(estimate, its least and its most where the judge is blind), from sums of counts and the judge's rates."""
    num = len(strata)
    num_RS = sums_RC[:, :num]
    shares_RS = num_RS / num_RS.sum(axis=1, keepdims=True)
    value, least, most = (np.zeros(len(sums_RC)) for _ in range(3))
    for side in range(num_sides):
        sign = -1 if num_sides == 2 and side == 0 else 1
        for s, (error, num_answers) in enumerate(strata):
            assert error is not None
            sens_R, spec_R = rates[error]
            with np.errstate(invalid="ignore", divide="ignore"):
                said_R = np.nan_to_num(sums_RC[:, (1 + 2 * side) * num + s] / num_RS[:, s])
                hit_R = np.nan_to_num(sums_RC[:, (2 + 2 * side) * num + s] / num_RS[:, s])
                passed_R = spec_R**num_answers
                better_R = spec_R ** (num_answers - 1) * (sens_R + spec_R - 1)
                own_R = np.clip((hit_R - (1 - passed_R) * said_R) / better_R, 0, said_R)
            blind_R = better_R <= 0
            ends = (np.where(blind_R, 0.0, own_R), np.where(blind_R, said_R, own_R))
            value += sign * shares_RS[:, s] * own_R
            least += sign * shares_RS[:, s] * ends[0 if sign > 0 else 1]
            most += sign * shares_RS[:, s] * ends[1 if sign > 0 else 0]
    return value, least, most
