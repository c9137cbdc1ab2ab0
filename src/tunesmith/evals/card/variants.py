"""A task asked again in changed forms, and the worst case over an item's forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tunesmith.evals.card.perturb import Change
from tunesmith.evals.run import TaskResult
from tunesmith.evals.task import Item, Task

PLAIN = "plain"


def with_forms(task: Task, dimension: str, changes: Mapping[str, Change], seed: int) -> Task:
    """Every item as it is and in each form that changes its last user message; the forms of one item are a group."""
    items = []
    for item in task.items:
        group = f"{task.name}:{item.id}"
        items.append(replace(item, id=f"{item.id}|{PLAIN}", group=group, metadata={**item.metadata, "form": PLAIN}))
        for form, change in changes.items():
            changed = _changed(item, change, seed)
            if changed.messages != item.messages:
                metadata = {**item.metadata, "form": form}
                items.append(replace(changed, id=f"{item.id}|{form}", group=group, metadata=metadata))
    return replace(task, name=f"{task.name}/{dimension}", items=tuple(items))


def _changed(item: Item, change: Change, seed: int) -> Item:
    asked = [i for i, message in enumerate(item.messages) if message.role == "user"]
    if not asked:
        return item
    last = item.messages[asked[-1]]
    new = replace(last, content=change(last.content, seed, item.id))
    return replace(item, messages=(*item.messages[: asked[-1]], new, *item.messages[asked[-1] + 1 :]))


def values_by_form(result: TaskResult, metric: str) -> dict[str, dict[str, float]]:
    """group -> form -> value, groups in the order of the task's items."""
    out: dict[str, dict[str, float]] = {}
    for item, value in zip(result.task.items, result.values(metric), strict=True):
        out.setdefault(str(item.group), {})[str(item.metadata["form"])] = value
    return out


def worst_case(by_form: Mapping[str, Mapping[str, float]]) -> NDArray[np.float64]:
    """(N, 1): the least value of each group over its forms, the plain one among them (arXiv:2211.09110, §4.3)."""
    return np.array([[min(forms.values())] for forms in by_form.values()])


def against_plain(by_form: Mapping[str, Mapping[str, float]], form: str) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """(N, 2) values of the plain and the changed form, and the groups that have both."""
    groups = tuple(group for group, forms in by_form.items() if form in forms)
    return np.array([[by_form[group][PLAIN], by_form[group][form]] for group in groups]).reshape(-1, 2), groups
