"""The domain suite: a hospital's abbreviations, asked for in wordings that were never trained on."""

from __future__ import annotations

from tunesmith.data.examples import jargon
from tunesmith.evals.scorers import exact_text
from tunesmith.evals.task import Task, bare_prompt, few_shot, items_from_rows, subset

METRICS = ("exact", "contained")


def jargon_task(num_items: int | None, *, num_shots: int = 0, seed: int = 0) -> Task:
    """The test rows, or a seeded subset of them that every condition shares; shots come from the training rows.

    Shots show the form of an answer and tell nothing of other abbreviations: the knowledge must be tuned in.
    """
    items = items_from_rows(jargon.read_rows("test"), "test")
    examples = items_from_rows(jargon.read_rows("train"), "train") if num_shots else []
    return Task(
        name="jargon",
        version=1,
        items=subset(items, num_items, seed),
        solver=few_shot(examples, num_shots, seed) if num_shots else bare_prompt,
        scorer=exact_text,
        metrics=METRICS,
    )
