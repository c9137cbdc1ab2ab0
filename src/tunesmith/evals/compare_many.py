"""Statistics over several tasks: each subject pair on each task, Holm over them, and what could have been found at all.

One metric a task decides, its headline; the others are shown with intervals and differences but are not tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tunesmith.evals.reading import READING_METRICS
from tunesmith.evals.run import Comparison, TaskResult, compare
from tunesmith.evals.task import Task
from tunesmith.stats import Interval, holm_adjusted, smallest_detectable_difference

ALPHA, POWER = 0.05, 0.8
Finding = Literal["better", "worse", "mixed", "nothing found"]


def less_is_better(task: Task, metric: str) -> bool:
    """Whether a metric is a loss; all others are shares and scores of which more is better."""
    return metric in READING_METRICS or metric in task.losses


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskComparison:
    """The second subject minus the first on one task.

    differences: one interval a metric, all metrics of the task. p: of the headline, by itself; p_holm: adjusted for all
    tests made together. smallest: the difference of the headline that this many items would have shown with the power
    of 0.8 at 0.05 over the number of tests; None where it cannot be told. less_is_better: of the headline.
    """

    task: str
    first: str
    second: str
    num_items: int
    headline: str
    differences: Mapping[str, Interval]
    only_first: int
    only_second: int
    p: float
    p_holm: float
    smallest: float | None
    less_is_better: bool = False

    @property
    def finding(self) -> Finding:
        """What may be said of the second subject; mixed where more items gained than lost but the mean fell, or so."""
        if self.p_holm >= ALPHA:
            return "nothing found"
        sign = -1 if self.less_is_better else 1
        by_items = sign * (self.only_second - self.only_first)
        by_mean = sign * self.differences[self.headline].value
        if by_items * by_mean <= 0:
            return "mixed"
        return "better" if by_items > 0 else "worse"

    def as_dict(self) -> dict[str, Any]:
        """For JSON; intervals as value, low and high."""
        return {**asdict(self), "finding": self.finding}


def compare_many(
    pairs: Sequence[tuple[TaskResult, TaskResult]], headlines: Mapping[str, str], *, seed: int = 0
) -> list[TaskComparison]:
    """Compare each pair of results of one task, second minus first; Holm's correction is over all pairs.

    headlines: task name -> the metric that is tested. Raises ValueError for results over different items,
    and where an item was put in other words or after other examples.
    """
    made = []
    for first, second in pairs:
        metrics = dict.fromkeys([headlines[first.task.name], *first.task.metrics])
        made.append([compare(first, second, metric, seed) for metric in metrics])
        if [a.messages for a in first.answers] != [a.messages for a in second.answers]:
            raise ValueError(f"'{first.label}' and '{second.label}' were asked in different words")
    adjusted = holm_adjusted([own[0].test.p for own in made])
    return [
        TaskComparison(
            task=first.task.name,
            first=first.label,
            second=second.label,
            num_items=len(first.answers),
            headline=own[0].metric,
            differences={one.metric: one.difference for one in own},
            only_first=own[0].test.only_first,
            only_second=own[0].test.only_second,
            p=own[0].test.p,
            p_holm=p_holm,
            smallest=smallest_found(first, second, own[0], alpha=ALPHA / len(pairs)),
            less_is_better=less_is_better(first.task, own[0].metric),
        )
        for (first, second), own, p_holm in zip(pairs, made, adjusted, strict=True)
    ]


def smallest_found(first: TaskResult, second: TaskResult, made: Comparison, *, alpha: float) -> float | None:
    """The smallest difference these items would show with a power of 0.8.

    Of 0/1 values of independent items by Connor's formula from the share of items that differ; else 2.8 standard errors
    at alpha 0.05 (z of 1 - alpha / 2 plus z of the power), the standard error being the interval's width over 3.92.
    None where the interval has no width, so that nothing tells how much the difference varies.
    """
    from scipy.special import ndtri

    values = [result.values(made.metric) for result in (first, second)]
    grouped = len(set(first.groups)) < len(first.answers)
    if made.metric not in first.task.ratios and not grouped and {*values[0], *values[1]} <= {0.0, 1.0}:
        differ = (made.test.only_first + made.test.only_second) / len(first.answers)
        return smallest_detectable_difference(len(first.answers), differ, alpha=alpha, power=POWER)
    width = made.difference.high - made.difference.low
    if width <= 0:
        return None
    return float((ndtri(1 - alpha / 2) + ndtri(POWER)) * width / (2 * ndtri(0.975)))
