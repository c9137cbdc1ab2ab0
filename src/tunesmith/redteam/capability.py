"""What is kept of a model's use, as facts beside those of its attacks: the same items before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tunesmith.evals.compare_many import less_is_better
from tunesmith.evals.run import TaskResult, compare
from tunesmith.redteam.goal_stats import smallest_found


def capability_facts(
    results: Mapping[str, TaskResult], metric: str, *, lower: bool | None = None, seed: int = 0
) -> dict[str, Any]:
    """One task under several models: what each reached, and each minus the first, tested.

    lower: whether less is better, where the task does not say. On 0/1 values the exact McNemar test with Newcombe's
    interval, else the sign test with a bootstrap. Raises ValueError for results over different items.
    """
    (_, first), *others = results.items()
    lower = less_is_better(first.task, metric) if lower is None else lower
    changes = {}
    for label, result in others:
        made = compare(first, result, metric, seed)
        changes[label] = {
            "difference": asdict(made.difference),
            "corrected": None,
            "num_goals": len(set(first.groups)),
            "only_before": made.test.only_first,
            "only_after": made.test.only_second,
            "p": made.test.p,
            "smallest": smallest_found(made.difference),
        }
    values = {label: asdict(result.interval(metric)) for label, result in results.items()}
    return {
        "task": first.task.name,
        "unit": metric,
        "less_is_better": lower,
        "num": len(first.answers),
        "values": values,
        "changes": changes,
    }
