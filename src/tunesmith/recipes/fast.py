"""Fast adaptation: how good a task gets from 10, 30, 100, 300 rows, and in how many seconds, a method at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from tunesmith.models.adapters import AdapterConfig
from tunesmith.models.load import load_base
from tunesmith.recipes.continual import CellsConfig
from tunesmith.recipes.tuning_cells import Interrupted, TaskConfig, measure_cells, read_task, refuse_full, train_cell
from tunesmith.reports.fast import draw_curves, write_fast_report
from tunesmith.runs import atomic_write_text, machine_summary


class FastConfig(CellsConfig):
    """The whole recipe of ``tunesmith experiment fast``."""

    task: TaskConfig
    """The task that is learnt."""
    rows: list[int] = [10, 30, 100, 300]
    """So many of its training rows, from the first; the base is measured as 0."""
    methods: dict[str, AdapterConfig] = {}
    """What each curve is called -> its adapter; empty: the one of ``adapter``."""
    passes: float = Field(3.0, gt=0)
    """Times that each row is seen, whatever their number; num_train_epochs and max_steps have no say here."""
    output_dir: str = "runs/fast"
    """Where cells, curves and the report are written; what is there already is used again."""

    @field_validator("rows")
    @classmethod
    def _rising(cls, rows: list[int]) -> list[int]:
        if not rows or rows[0] < 1 or sorted(set(rows)) != rows:
            raise ValueError("rows must be rising numbers from 1")
        return rows

    @model_validator(mode="after")
    def _one_length(self) -> FastConfig:
        if fixed := {"num_train_epochs", "max_steps"} & self.model_fields_set:
            raise ValueError(f"{min(fixed)} is not taken here: every number of rows gets the same 'passes'")
        return self

    def curves(self) -> dict[str, AdapterConfig]:
        """Name -> adapter."""
        return self.methods or {self.adapter.method: self.adapter}


def run_fast(config: FastConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Train a cell for every method and number of rows, measure all; returns what ``--json`` prints.

    Raises DataError where the task has fewer training rows than the most that are asked for.
    """
    began, folder = time.perf_counter(), Path(config.output_dir)
    for adapter in config.curves().values():
        refuse_full(adapter)
    task = read_task(
        config.task,
        limit=config.limit,
        validation_limit=config.validation_limit,
        most_words=config.short_answer_words,
        seed=config.seed,
    )
    too_many = [count for count in config.rows if count > len(task.train)]
    for count in too_many:
        say(f"{count} rows are left out: '{task.name}' has {len(task.train)} to learn from.")
    counts = [count for count in config.rows if count <= len(task.train)] or [len(task.train)]
    folder.mkdir(parents=True, exist_ok=True)
    base = load_base(config)
    settings = {**config.cell_settings(), "num_train_epochs": config.passes}
    cells = {}
    try:
        for name, adapter in config.curves().items():
            for count in counts:
                say(f"{name}, {count} rows …")
                cells[name, count] = train_cell(base, folder / "cells", task.train[:count], settings, adapter)
    except Interrupted as stopped:
        say(f"stopped in {stopped}; the same command goes on there.")
        return {"interrupted": True, "output_dir": str(folder)}
    say("measuring …")
    asked = [(None, task), *((cell, task) for cell in cells.values())]
    budget = config.micro_batch_tokens
    base_found, *found = measure_cells(
        base, folder / "measured", asked, max_new_tokens=config.max_new_tokens, micro_batch_tokens=budget
    )
    points = [{"method": "base", "num_rows": 0, "seconds": 0.0, **base_found.as_dict()}]
    for ((name, count), cell), measured in zip(cells.items(), found, strict=True):
        size = (cell.folder / "adapter_model.safetensors").stat().st_size
        points.append(
            {"method": name, "num_rows": count, "seconds": cell.seconds, "num_bytes": size, **measured.as_dict()}
        )
    machine = machine_summary()
    facts = {
        "base": base.resolved.name,
        "dtype": str(base.dtype).removeprefix("torch."),
        "task": task.name,
        "validation rows": len(task.validation),
        "passes": config.passes,
        "seed": config.seed,
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "processor": f"{machine['processor']}, {machine['cores']} cores",
        "date": time.strftime("%Y-%m-%d"),
    }
    summary = {"facts": facts, "points": points}
    atomic_write_text(folder / "fast.json", json.dumps(summary, indent=2) + "\n")
    draw_curves(points, folder / "fast.png")
    write_fast_report(folder / "report.html", points, facts, folder / "fast.png")
    return {**summary, "report": str(folder / "report.html")}


def describe_fast(summary: dict[str, Any], config: FastConfig) -> list[str]:
    """A line a point."""
    lines = [_line(point) for point in summary["points"]]
    return [*lines, f"wrote {config.output_dir}: report.html, fast.png, fast.json"]


def _line(point: dict[str, Any]) -> str:
    exact = f", exact {_limits(point['exact'], 100)} %" if point["exact"] else ""
    where = f"{point['method']}, {point['num_rows']} rows, {point['seconds']:.1f} s"
    return f"{where}: loss {_limits(point['loss'])}{exact}"


def _limits(limits: Sequence[float], times: float = 1.0) -> str:
    value, low, high = (times * x for x in limits)
    digits = 0 if times > 1 else 3
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
