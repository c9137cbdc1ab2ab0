"""The same mixture worded in three ways, to measure what the instructions do (FLAN, arXiv:2109.01652, section 4.2).

Only the wording differs: task and row of every example are the same, all of them zero-shot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml

from tunesmith.data.mixture import MixtureConfig
from tunesmith.data.mixture_task import ModeShares, TaskConfig, source_path
from tunesmith.data.templates import TemplateConfig
from tunesmith.errors import ConfigError
from tunesmith.runs import atomic_write_text

Style = Literal["instructions", "name", "plain"]


def styled(config: MixtureConfig, path: Path, style: Style) -> MixtureConfig:
    """The mixture with its tasks' instruction templates, with the task's name before the bare input, or bare.

    ``path`` is the mixture's file, from which relative sources are resolved. Raises ConfigError for a task without a
    plain wording, or with inverted templates only.
    """
    tasks = []
    for task in config.tasks:
        changes: dict[str, Any] = {
            "templates": templates_in(task, path, style),
            "plain": None,
            "rationale": None,
            "modes": None,
            "source": _absolute(task.source, path),
            "test": _absolute(task.test, path) if task.test else None,
        }
        tasks.append(task.model_copy(update=changes))
    return config.model_copy(update={"tasks": tasks, "modes": ModeShares()})


def templates_in(task: TaskConfig, path: Path, style: Style) -> list[TemplateConfig]:
    """A task's wordings in one style; inverted ones answer another question and are left out."""
    if style == "instructions":
        kept = [template for template in task.templates if not template.inverted]
        if not kept:
            raise ConfigError(f"{path}:tasks.{task.name}", "has only inverted templates.", "Add one that is not.")
        return kept
    if task.plain is None:
        raise ConfigError(
            f"{path}:tasks.{task.name}.plain",
            "is not set, so the task cannot be given without instructions.",
            'Set for example plain: {input: "{{ text }}", target: "{{ label }}"}.',
        )
    if style == "plain":
        return [task.plain]
    return [task.plain.model_copy(update={"input": f"[{task.name}] {task.plain.input}"})]


def _absolute(source: str, path: Path) -> str:
    found = source_path(source, path.parent)
    return str(Path(found).resolve()) if Path(found).exists() else found


def write_mixture(config: MixtureConfig, path: Path) -> None:
    """Write a mixture as the YAML it can be read from."""
    tree = config.model_dump(mode="json", exclude_defaults=True)
    atomic_write_text(path, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
