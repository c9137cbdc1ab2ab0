"""A mixture's task as an evaluation: its test rows asked zero-shot, answered exactly or not."""

from __future__ import annotations

from pathlib import Path

from tunesmith.data.mixing import choose
from tunesmith.data.mixture import Mixture
from tunesmith.data.mixture_styles import Style, templates_in
from tunesmith.data.templates import compile_template
from tunesmith.evals.scorers import exact_text
from tunesmith.evals.task import Item, Task, bare_prompt
from tunesmith.randomness import permutation
from tunesmith.records import Message

METRICS = ("exact", "contained")


def mixture_task(mixture: Mixture, name: str, style: Style, *, num_rows: int | None, seed: int = 0) -> Task:
    """One task's test rows, or a seeded subset that every style and model shares, each in one of the style's wordings.

    The wordings are used equally often. Raises ConfigError for a task without test rows, DataError for faulty ones.
    """
    task = mixture.evaluated(name)
    place = str(Path(mixture.path))
    templates = [
        compile_template(config, name, config.name or str(number), f"{place}:tasks.{name}")
        for number, config in enumerate(templates_in(task.config, mixture.path, style), 1)
    ]
    order = permutation(len(task.row_ids), seed, "mixture_eval_rows", name)[:num_rows]
    items = []
    for place_in_order, index in enumerate(order):
        row_id = int(task.row_ids[index])
        fields, where = task.fields(row_id)
        shares = (1 / len(templates),) * len(templates)
        template = templates[choose(shares, place_in_order, seed, "mixture_eval_template", name)]
        filled = task.fill(template, fields, where)
        items.append(
            Item(
                id=f"{name}-{row_id}",
                messages=(Message(role="user", content=filled.input),),
                target=filled.target,
                metadata={"template": template.label},
            )
        )
    return Task(
        name=f"mixture_{name}_{style}",
        version=1,
        items=tuple(items),
        solver=bare_prompt,
        scorer=exact_text,
        metrics=METRICS,
    )
