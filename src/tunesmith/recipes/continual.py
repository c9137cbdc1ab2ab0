"""Continual learning: tasks one after the other, and what is left of the earlier ones.

Arms: one adapter that goes on learning (shared), one each (separate), one that goes on with a share of old rows among
the new (replay). After each task every task is measured: the task x task matrix of Lopez-Paz & Ranzato 2017
(arXiv:1706.08840); forgetting is the best that was reached before the last task less what is left (Chaudhry et
al. 2018, arXiv:1801.10112, section 3), so that a task which the last one helped has a negative one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from tunesmith.models.adapters import AdapterConfig
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.roles import Base
from tunesmith.randomness import permutation
from tunesmith.recipes.tuning_cells import (
    Cell,
    Interrupted,
    Measured,
    TaskConfig,
    TaskRows,
    measure_cells,
    read_task,
    refuse_full,
    train_cell,
)
from tunesmith.records import Conversation
from tunesmith.reports.continual import Matrix, draw_matrices, write_continual_report
from tunesmith.runs import atomic_write_text, machine_summary
from tunesmith.stats import Interval, bootstrap_ratio_difference, newcombe_paired_difference
from tunesmith.tokens.render import RenderConfig
from tunesmith.training.schedule import TrainConfig

Arm = Literal["shared", "separate", "replay"]
# Settings of a recipe that a cell's training takes over.
TAKEN = frozenset(name for kind in (ModelConfig, RenderConfig, TrainConfig) for name in kind.model_fields)
NOT_TAKEN = {"output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_total_limit"}


class CellsConfig(ModelConfig, RenderConfig, TrainConfig):
    """What experiments made of cells share."""

    adapter: AdapterConfig = AdapterConfig()
    """What is trained."""
    limit: int | None = Field(None, ge=1)
    """At most so many training rows a task, from the first."""
    validation_limit: int | None = Field(None, ge=1)
    """At most so many validation rows a task, from the first."""
    short_answer_words: int = Field(8, ge=0)
    """Exact match is asked of a task whose validation answers all have at most so many words; 0: never."""
    max_new_tokens: int = Field(32, ge=1)
    """Most tokens of an answer that is compared."""

    def cell_settings(self) -> dict[str, Any]:
        """What a cell's training takes over, by SFTConfig's keys."""
        names = sorted((self.model_fields_set & TAKEN) - NOT_TAKEN)
        taken = {name: getattr(self, name) for name in names}
        return {"model_name_or_path": self.model_name_or_path, "seed": self.seed, **taken}


class ContinualConfig(CellsConfig):
    """The whole recipe of ``tunesmith experiment continual``."""

    tasks: list[TaskConfig] = Field(min_length=2)
    """In the order they are learnt; another one is another entry."""
    arms: list[Arm] = ["shared", "separate", "replay"]
    """shared: one adapter goes on learning; separate: one each; replay: one, with old rows among the new."""
    replay_share: float = Field(0.25, gt=0, lt=1)
    """Share of old rows among those that the replay arm learns a later task from."""
    output_dir: str = "runs/continual"
    """Where cells, matrices and the report are written; what is there already is used again."""

    @model_validator(mode="after")
    def _names_differ(self) -> ContinualConfig:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names) or len(set(self.arms)) < len(self.arms) or not self.arms:
            raise ValueError("each task needs a name of its own, and each arm is named once")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """Of one earlier task in one arm: the best before the last stage less the last, positive where it was lost."""

    task: str
    loss: Interval
    exact: Interval | None


def run_continual(config: ContinualConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Train every arm's cells, measure every task after each, write the matrices; returns what ``--json`` prints."""
    # 1. Rows, and the one base.
    began, folder = time.perf_counter(), Path(config.output_dir)
    refuse_full(config.adapter)
    tasks = [
        read_task(
            task,
            limit=config.limit,
            validation_limit=config.validation_limit,
            most_words=config.short_answer_words,
            seed=config.seed,
        )
        for task in config.tasks
    ]
    folder.mkdir(parents=True, exist_ok=True)
    base = load_base(config)
    # 2. Every arm's stages: who answers which task after each.
    plans: dict[str, list[list[Cell | None]]] = {}
    try:
        for arm in config.arms:
            say(f"{arm}: {len(tasks)} tasks …")
            plans[arm] = _train_arm(config, base, folder / "cells", arm, tasks)
    except Interrupted as stopped:
        say(f"stopped in {stopped}; the same command goes on there.")
        return {"interrupted": True, "output_dir": str(folder)}
    # 3. Every task after every stage.
    say("measuring …")
    matrices = _measure(config, base, folder / "measured", tasks, plans)
    # 4. Report.
    forgotten: dict[str, list[Forgotten]] = {arm: forgetting(matrices[arm], tasks) for arm in config.arms}
    facts = _facts(config, base, tasks, plans, time.perf_counter() - began)
    summary = _summary(matrices, forgotten, facts)
    atomic_write_text(folder / "continual.json", json.dumps(summary, indent=2) + "\n")
    shown = [Matrix(arm=arm, tasks=[t.name for t in tasks], cells=matrices[arm]) for arm in config.arms]
    draw_matrices(shown, folder / "continual.png")
    write_continual_report(folder / "report.html", shown, summary, folder / "continual.png")
    return {**summary, "report": str(folder / "report.html")}


def _train_arm(
    config: ContinualConfig, base: Base, folder: Path, arm: Arm, tasks: Sequence[TaskRows]
) -> list[list[Cell | None]]:
    """stages x tasks: whose adapter answers a task after a stage; stage 0 is the bare base."""
    settings, stages = config.cell_settings(), list[list[Cell | None]]()
    stages.append([None] * len(tasks))
    for number, task in enumerate(tasks):
        rows = list(task.train)
        if arm == "replay":
            rows += replayed(tasks[:number], len(rows), config.replay_share, config.seed)
        start = stages[-1][0] if arm != "separate" else None
        cell = train_cell(base, folder, rows, settings, config.adapter, start)
        before = stages[-1]
        stages.append([cell] * len(tasks) if arm != "separate" else [*before[:number], cell, *before[number + 1 :]])
    return stages


def replayed(earlier: Sequence[TaskRows], num_new: int, share: float, seed: int) -> list[Conversation]:
    """Old rows that make up ``share`` of the new and old together, as evenly from the earlier tasks as they allow."""
    wanted, out = round(num_new * share / (1 - share)), list[Conversation]()
    # The small ones first: what they cannot give, the larger ones do.
    for position, task in enumerate(sorted(earlier, key=lambda task: len(task.train))):
        quota = (wanted - len(out)) // (len(earlier) - position)
        order = permutation(len(task.train), seed, "replay", position, len(earlier))
        out += [task.train[i] for i in order[:quota]]
    return out


def _measure(
    config: ContinualConfig,
    base: Base,
    folder: Path,
    tasks: Sequence[TaskRows],
    plans: dict[str, list[list[Cell | None]]],
) -> dict[str, list[list[Measured]]]:
    asked = [(cell, task) for stages in plans.values() for row in stages for cell, task in zip(row, tasks, strict=True)]
    budget = config.micro_batch_tokens
    found = iter(measure_cells(base, folder, asked, max_new_tokens=config.max_new_tokens, micro_batch_tokens=budget))
    return {arm: [[next(found) for _ in tasks] for _ in stages] for arm, stages in plans.items()}


def forgetting(stages: Sequence[Sequence[Measured]], tasks: Sequence[TaskRows]) -> list[Forgotten]:
    """What became of every task but the last: the best from when it was learnt to before the last stage, less that."""
    out = []
    for number, task in enumerate(tasks[:-1]):
        since, last = [row[number] for row in stages[number + 1 : -1]], stages[-1][number]
        best = min(since, key=lambda one: one.loss().value)
        loss = bootstrap_ratio_difference((best.loss_sum, best.weight), (last.loss_sum, last.weight), seed=0)
        exact = None
        if last.exact is not None:
            top = max((one.exact for one in since if one.exact is not None), key=sum)
            exact = newcombe_paired_difference(last.exact, top)
        out.append(Forgotten(task=task.name, loss=loss, exact=exact))
    return out


def _facts(
    config: ContinualConfig, base: Base, tasks: Sequence[TaskRows], plans: dict[str, Any], seconds: float
) -> dict[str, Any]:
    machine = machine_summary()
    trained = {cell.digest: cell for stages in plans.values() for row in stages for cell in row if cell is not None}
    return {
        "base": base.resolved.name,
        "base digest": base.resolved.base_digest[:16],
        "dtype": str(base.dtype).removeprefix("torch."),
        "method": config.adapter.method,
        "rows": ", ".join(f"{task.name} {len(task.train)} + {len(task.validation)}" for task in tasks),
        "replay share": config.replay_share,
        "adapters trained": len(trained),
        "training seconds": round(sum(cell.seconds for cell in trained.values()), 1),
        "minutes": round(seconds / 60, 1),
        "seed": config.seed,
        "processor": f"{machine['processor']}, {machine['cores']} cores",
        "date": time.strftime("%Y-%m-%d"),
    }


def _summary(
    matrices: dict[str, list[list[Measured]]], forgotten: dict[str, list[Forgotten]], facts: dict[str, Any]
) -> dict[str, Any]:
    return {
        "facts": facts,
        "matrices": {arm: [[one.as_dict() for one in row] for row in stages] for arm, stages in matrices.items()},
        "forgetting": {arm: [asdict(one) for one in found] for arm, found in forgotten.items()},
    }


def describe_continual(summary: dict[str, Any], config: ContinualConfig) -> list[str]:
    """What to tell the user: the last stage of every arm, what was forgotten, what was written."""
    lines = []
    for arm, stages in summary["matrices"].items():
        lost = {one["task"]: one for one in summary["forgetting"][arm]}
        lines.append(f"{arm}, after the last task:")
        for task, cell in zip(config.tasks, stages[-1], strict=True):
            text = f"  {task.name}: loss {_text(cell['loss'])}"
            text += f", exact {_text(cell['exact'], 100)} %" if cell["exact"] else ""
            if task.name in lost:
                loss, exact = lost[task.name]["loss"], lost[task.name]["exact"]
                text += f"; forgotten: loss {_text(list(loss.values()))}"
                text += f", exact {_text(list(exact.values()), 100)} points" if exact else ""
            lines.append(text)
    return [*lines, f"wrote {config.output_dir}: report.html, continual.png, continual.json"]


def _text(limits: list[float], times: float = 1.0) -> str:
    value, low, high = (times * x for x in limits)
    digits = 0 if times > 1 else 3
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
