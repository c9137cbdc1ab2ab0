"""One task of a mixture: its rows, checked against every template, and the share of them held out."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from tunesmith.config import Config
from tunesmith.data.check import FaultLog, RowError, shown
from tunesmith.data.parse import json_type
from tunesmith.data.read import SUFFIXES, Rows, Split, open_rows
from tunesmith.data.templates import Filled, Template, TemplateConfig, ThoughtConfig, compile_template, with_options
from tunesmith.errors import ConfigError, DataError
from tunesmith.randomness import derive_seed
from tunesmith.records import Where

Mode = Literal["zero_shot", "few_shot", "chain_of_thought", "few_shot_chain_of_thought"]
MODES: tuple[Mode, ...] = ("zero_shot", "few_shot", "chain_of_thought", "few_shot_chain_of_thought")


class ModeShares(Config):
    """How a task's examples are asked; zero-shot takes what the others leave."""

    few_shot: float = Field(0.0, ge=0, le=1)
    """Share with solved examples of the same task, in the same wording, as earlier turns."""
    chain_of_thought: float = Field(0.0, ge=0, le=1)
    """Share that answers with the row's rationale before the target; only for tasks that have one."""
    few_shot_chain_of_thought: float = Field(0.0, ge=0, le=1)
    """Share with both."""

    @model_validator(mode="after")
    def _leave_no_less_than_nothing(self) -> ModeShares:
        if self.few_shot + self.chain_of_thought + self.few_shot_chain_of_thought > 1 + 1e-9:
            raise ValueError("the shares of the modes add up to more than 1")
        return self

    def shares(self, *, has_rationale: bool) -> tuple[float, ...]:
        """One share a mode of MODES; without a rationale the shares with thoughts go to the modes without."""
        few, thought, both = self.few_shot, self.chain_of_thought, self.few_shot_chain_of_thought
        if not has_rationale:
            few, thought, both = few + both, 0.0, 0.0
        return (max(0.0, 1 - few - thought - both), few, thought, both)


class TaskConfig(Config):
    """Where one task's rows are and how they are worded."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    """What reports, results and held_out call it."""
    source: str = Field(min_length=1)
    """A file, folder or hub data set as in data.train; a relative path begins at the mixture's folder."""
    test: str | None = Field(None, min_length=1)
    """Rows that are only evaluated on."""
    columns: dict[str, str] = Field(default_factory=dict)
    """The templates' field -> the file's column, where they differ."""
    select: dict[str, list[str]] = Field(default_factory=dict)
    """Column -> values: only rows that have one of them."""
    group: str | None = Field(None, min_length=1)
    """A column: rows that are the same in it (one question in several wordings) are never split between training and
    validation, and never shots for each other."""
    limit: int | None = Field(None, ge=1)
    """Only the first rows, of the selected ones."""
    weight: float | None = Field(None, ge=0)
    """Share of the mixture in proportion to the other weights; all tasks that are trained on have one, or none has."""
    templates: list[TemplateConfig] = Field(min_length=1)
    """The wordings; each is used equally often."""
    plain: TemplateConfig | None = None
    """The bare input and target, without an instruction; only the instructions experiment asks for it."""
    options: list[str] | str | None = None
    """The classes, or the column that lists a row's own; the target must then be one of them."""
    rationale: str | None = Field(None, min_length=1)
    """The column with the reasoning that chain-of-thought examples answer with."""
    modes: ModeShares | None = None
    """How this task is asked; empty: as the mixture says."""
    num_shots: int = Field(2, ge=1, le=32)
    """Solved examples of a few-shot example."""

    @model_validator(mode="after")
    def _consistent(self) -> TaskConfig:
        names = [template.name for template in self.templates if template.name]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"task '{self.name}' has several templates called '{twice[0]}'")
        if isinstance(self.options, list) and (len(self.options) < 2 or len(set(self.options)) < len(self.options)):
            raise ValueError(f"task '{self.name}' needs at least two options, all different")
        thoughts = self.modes is not None and self.modes.chain_of_thought + self.modes.few_shot_chain_of_thought > 0
        if thoughts and self.rationale is None:
            raise ValueError(f"task '{self.name}' has a share of chain_of_thought and no rationale column")
        if self.rationale is not None and all(template.inverted for template in self.templates):
            raise ValueError(f"task '{self.name}' has a rationale, and only inverted templates, which cannot use it")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task with its rows open. ``row_ids`` (n,) int64 are trained on, ``held_ids`` validate; ``num_read`` counts
    the selected rows, the faulty ones among them."""

    config: TaskConfig
    templates: tuple[Template, ...]
    plain: Template | None
    thought: Template
    rows: Rows
    row_ids: NDArray[np.int64]
    held_ids: NDArray[np.int64]
    num_read: int = 0

    @property
    def name(self) -> str:
        return self.config.name

    def fields(self, row_id: int) -> tuple[dict[str, Any], Where]:
        """What the templates see of one row, and its place. Raises RowError."""
        row, where = self.rows[row_id]
        return self._fields(row, where), where

    def _fields(self, row: Mapping[str, Any], where: Where) -> dict[str, Any]:
        taken = set(self.config.columns.values())
        out = {name: value for name, value in row.items() if name not in taken}
        for ours, theirs in self.config.columns.items():
            if theirs not in row:
                fix = "Add it, or correct the task's columns."
                raise RowError(where.at(shown(theirs)), f"the column of task '{self.name}' is missing.", fix)
            out[ours] = row[theirs]
        return with_options(out, self.config.options, where)

    def group_of(self, fields: Mapping[str, Any], where: Where) -> str:
        """What rows of one group share, as text; empty without a group column. Raises RowError where it is missing."""
        column = self.config.group
        if column is None:
            return ""
        if fields.get(column) is None:
            fix = "Add it, or correct the task's group."
            raise RowError(where.at(shown(column)), f"the group column of task '{self.name}' is missing.", fix)
        return json.dumps(fields[column], sort_keys=True, default=str)

    def fill(self, template: Template, fields: Mapping[str, Any], where: Where) -> Filled:
        """Input and target of one row. Raises RowError for a missing field and a target that is no option."""
        filled = template.fill(fields, where)
        if self.config.options is not None and not template.inverted and filled.target not in fields["options"]:
            raise RowError(
                where,
                f"the target of template '{template.label}' is none of the task's options.",
                "Correct the row, the template or the options.",
                detail=f"it is '{shown(filled.target)}'",
            )
        return filled

    def think(self, filled: Filled, fields: Mapping[str, Any], where: Where) -> Filled:
        """The chain-of-thought form of an example. Raises RowError for a row without a rationale."""
        column = self.config.rationale or ""
        value = fields.get(column)
        if not isinstance(value, str) or not value.strip():
            detail = "it is empty" if isinstance(value, str) else f"it is {json_type(value)}"
            fix = "Fill it in, or remove the row."
            raise RowError(where.at(shown(column)), "a rationale is expected.", fix, detail=detail)
        parts = {"input": filled.input, "target": filled.target, "rationale": value.strip()}
        return self.thought.fill(parts, where)

    def selected(self) -> Iterator[int | RowError]:
        """Numbers of the rows that ``select`` and ``limit`` leave, or the fault of one that cannot be read."""
        count = 0
        for row_id in range(len(self.rows)):
            try:
                row, _ = self.rows[row_id]
            except RowError as error:
                count += 1
                yield error
            else:
                if any(row.get(column) not in values for column, values in self.config.select.items()):
                    continue
                count += 1
                yield row_id
            if count == self.config.limit:
                return


def open_task(config: TaskConfig, source: str, split: Split, thought: ThoughtConfig, place: str) -> Task:
    """Compile the templates and open the rows, none of which is looked at yet."""
    where = f"{place}:tasks.{config.name}"
    names = [template.name or str(number) for number, template in enumerate(config.templates, 1)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{where}.templates", f"two templates are called '{twice}'.", "Name one of them anew.")
    templates = tuple(
        compile_template(template, config.name, name, f"{where}.templates[{name}]")
        for name, template in zip(names, config.templates, strict=True)
    )
    none = np.zeros(0, np.int64)
    return Task(
        config=config,
        templates=templates,
        plain=compile_template(config.plain, config.name, "plain", f"{where}.plain") if config.plain else None,
        thought=compile_template(thought, config.name, "chain_of_thought", f"{place}:thought"),
        rows=open_rows(source, split=split, limit=None if config.select else config.limit),
        row_ids=none,
        held_ids=none,
    )


def source_path(source: str, folder: Path) -> str:
    """A task's source as ``open_rows`` takes it: a path that is relative begins at the mixture's folder."""
    path = Path(source).expanduser()
    beside = Path(os.path.normpath(folder / path))
    # A name that is nothing here may be a data set of the hub; one that looks like a path is reported as that path.
    looks_local = path.suffix.lower() in SUFFIXES or source.startswith(".")
    return str(beside) if beside.exists() or looks_local else source


def may_share_rows(one: TaskConfig, other: TaskConfig) -> bool:
    """Whether two tasks may use the same rows: they have one source, and select no column's values apart."""
    if os.path.normpath(one.source) != os.path.normpath(other.source):
        return False
    both = one.select.keys() & other.select.keys()
    return not any(set(one.select[column]).isdisjoint(other.select[column]) for column in both)


def held_out_by_another(tasks: Sequence[Task]) -> int:
    """Rows that one task holds out for validation and another one with the same source trains on."""
    total = 0
    for task in tasks:
        others = [other.row_ids for other in tasks if other is not task and may_share_rows(task.config, other.config)]
        if others:
            total += int(np.isin(task.held_ids, np.concatenate(others)).sum())
    return total


def check_rows(task: Task, faults: FaultLog, *, validation_share: float, seed: int, scope: str = "") -> Task:
    """One pass over the rows with every template; faults are logged, and a share of the different rows is held out.

    Rows of one group, else rows that say the same in the fields the templates read, fall on one side. Tasks of one
    ``scope``, their name where it is empty, hold out the same rows if they read the same fields of them. Raises
    DataError when nothing is selected.
    """
    good, keys, num_read = array("q"), array("q"), 0
    known = sorted(set().union(*(template.fields for template in task.templates)))
    for item in task.selected():
        num_read += 1
        if isinstance(item, RowError):
            faults.add(item.fault)
            continue
        try:
            fields, where = task.fields(item)
            filled = [task.fill(template, fields, where) for template in task.templates]
            if task.plain is not None:
                task.fill(task.plain, fields, where)
            if task.config.rationale is not None:
                task.think(filled[0], fields, where)
            group = task.group_of(fields, where)
        except RowError as error:
            faults.add(error.fault)
            continue
        good.append(item)
        said = group or json.dumps([fields.get(name) for name in known], sort_keys=True, default=str)
        keys.append(derive_seed(seed, "mixture_validation", scope or task.name, said))
    if not num_read:
        chosen = ", ".join(f"{column}: {values}" for column, values in task.config.select.items())
        raise DataError(task.rows.path, f"task '{task.name}' selects no row ({chosen}).", "Correct its select.")
    row_ids = np.array(good, np.int64)
    held = _held_out(np.array(keys, np.int64), validation_share, task)
    return replace(task, row_ids=row_ids[~held], held_ids=row_ids[held], num_read=num_read)


def _held_out(keys: NDArray[np.int64], share: float, task: Task) -> NDArray[np.bool_]:
    different = np.unique(keys)
    if share == 0 or not len(keys):
        return np.zeros(len(keys), bool)
    if len(different) < 2:
        raise ConfigError(
            "data.validation_share",
            f"task '{task.name}' has only one different row, which cannot be split.",
            "Add rows, or set validation_share: 0.",
        )
    num_held = min(max(1, round(len(different) * share)), len(different) - 1)
    return np.asarray(keys <= different[num_held - 1])
