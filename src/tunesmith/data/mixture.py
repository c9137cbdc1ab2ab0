"""A mixture of tasks as one sequence of conversations: instruction tuning over many tasks in many wordings.

The i-th example's task, row, template, mode and shots are a function of (the mixture's seed, i), so it can be read in
any order and from any place. Sources: FLAN, arXiv:2109.01652 (templates, held-out tasks); T5, arXiv:1910.10683 section
3.5.2 (proportions).
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from tunesmith.config import Config, load_config
from tunesmith.data.check import FaultLog
from tunesmith.data.mixing import Schedule, choose, rates_by_size, rates_by_weight, row_of
from tunesmith.data.mixture_task import (
    MODES,
    Mode,
    ModeShares,
    Task,
    TaskConfig,
    check_rows,
    held_out_by_another,
    may_share_rows,
    open_task,
    source_path,
)
from tunesmith.data.read import Split, find_split
from tunesmith.data.templates import Filled, Template, ThoughtConfig
from tunesmith.errors import ConfigError, DataError
from tunesmith.randomness import derive_seed, generator
from tunesmith.records import Conversation, Message
from tunesmith.runs import file_digest

MIXTURE_SUFFIXES = (".yaml", ".yml")


class MixtureConfig(Config):
    """The tasks and how much of each there is."""

    tasks: list[TaskConfig] = Field(min_length=1)
    """What is mixed."""
    held_out: list[str] = Field(default_factory=list)
    """Tasks that are never trained on: for zero-shot evaluation."""
    cap: int | None = Field(None, ge=1)
    """Rows beyond this do not raise a task's share; without weights a share is in proportion to min(rows, cap)."""
    temperature: float = Field(1.0, gt=0, le=1000)
    """Shares are raised to the power 1 / temperature; above 1 small tasks gain."""
    num_examples: int | None = Field(None, ge=1)
    """Length of the mixture, which is what one epoch of a recipe is."""
    num_epochs: float | None = Field(None, gt=0)
    """The same as a multiple of all tasks' rows, each task's up to the cap; 1 where neither is set."""
    modes: ModeShares = ModeShares()
    """How tasks are asked that do not say it themselves; thoughts only where there is a rationale."""
    thought: ThoughtConfig = ThoughtConfig()
    """How chain-of-thought examples are worded."""
    seed: int = Field(0, ge=0)
    """Keys everything that is drawn: order, wordings, modes, shots, the rows held out for validation."""

    @model_validator(mode="after")
    def _consistent(self) -> MixtureConfig:
        names = [task.name for task in self.tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"several tasks are called '{twice[0]}'")
        for name in self.held_out:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean '{near[0]}'" if near else f"the tasks are {', '.join(names)}"
                raise ValueError(f"held_out names '{name}', which is no task; {hint}")
        weights = [task.weight for task in self.trained()]
        if not weights:
            raise ValueError("all tasks are held out, and none is left to train on")
        if None in weights and set(weights) != {None}:
            without = next(task.name for task in self.trained() if task.weight is None)
            raise ValueError(f"some tasks have a weight and '{without}' has none; give all of them one, or none")
        if None not in weights and not any(weights):
            raise ValueError("all weights are 0")
        if None not in weights and self.cap is not None:
            raise ValueError("cap has no effect on tasks with weights; remove one of the two")
        if self.num_examples is not None and self.num_epochs is not None:
            raise ValueError("num_examples and num_epochs both say how long the mixture is; keep one")
        return self

    def trained(self) -> list[TaskConfig]:
        """The tasks that are not held out."""
        return [task for task in self.tasks if task.name not in self.held_out]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What one example is made of; ``template`` is its place in the task's list."""

    task: Task
    row_id: int
    template: Template
    mode: Mode
    shots: tuple[int, ...] = ()
    """Row ids of the solved examples before it."""


@dataclass(frozen=True, slots=True)
class MixtureRecords(Sequence[Conversation]):
    """Conversations rendered when they are asked for; ``draw`` says what each is made of, ``places`` (N,) which are in.

    A conversation's ``where`` is its row's place with task.template and mode as its field.
    """

    draw_at: Callable[[int], Draw]
    places: NDArray[np.int64]
    seed: int
    shape: str = "mixture"

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, i: int) -> Conversation: ...

    @overload
    def __getitem__(self, i: slice) -> MixtureRecords: ...

    def __getitem__(self, i: int | slice) -> Conversation | MixtureRecords:
        if isinstance(i, slice):
            return MixtureRecords(self.draw_at, self.places[i], self.seed)
        return self.example(i)[1]

    def draw(self, i: int) -> Draw:
        """Task, row, template and mode of an example, without its shots: nothing is rendered."""
        return self.draw_at(int(self.places[i]))

    def example(self, i: int) -> tuple[Draw, Conversation]:
        """What an example is made of, its shots included, and the example; ``row_id`` is its place in the mixture."""
        place = int(self.places[i])
        draw = self.draw_at(place)
        fields, where = draw.task.fields(draw.row_id)
        filled = draw.task.fill(draw.template, fields, where)
        shots = list(_shots(draw, filled, self.seed, place)) if draw.mode.startswith("few_shot") else []
        turns = [text for _, shot in shots for text in (shot.input, shot.target)]
        if draw.mode.endswith("chain_of_thought"):
            filled = draw.task.think(filled, fields, where)
        # Each shot is trained on where its own row's turn comes; here only the last answer is.
        messages = [
            Message(role="assistant" if number % 2 else "user", content=text, train=number % 2 == 0)
            for number, text in enumerate([*turns, filled.input])
        ]
        messages.append(Message(role="assistant", content=filled.target))
        record = Conversation(
            messages=tuple(messages), row_id=place, where=where.at(f"{draw.template.label} {draw.mode}")
        )
        with_shots = Draw(
            task=draw.task,
            row_id=draw.row_id,
            template=draw.template,
            mode=draw.mode,
            shots=tuple(row_id for row_id, _ in shots),
        )
        return with_shots, record


def _shots(draw: Draw, asked: Filled, seed: int, place: int) -> Iterator[tuple[int, Filled]]:
    """Row ids and texts of the solved examples: other training rows of the task, none of which says the same."""
    task, wanted, told = draw.task, draw.task.config.num_shots, {asked}
    own_group = task.group_of(*task.fields(draw.row_id))
    draws = generator(seed, "mixture_shots", place)
    num_rows = len(task.row_ids)
    # A few rows are nearly always enough; only a task that says the same thing over and over needs all of them.
    for size in (min(num_rows, 4 * wanted + 8), num_rows):
        for candidate in draws.choice(num_rows, size=size, replace=False):
            row_id = int(task.row_ids[candidate])
            if row_id == draw.row_id:
                continue
            fields, where = task.fields(row_id)
            filled = task.fill(draw.template, fields, where)
            if filled in told or (own_group and task.group_of(fields, where) == own_group):
                continue
            told.add(filled)
            yield row_id, task.think(filled, fields, where) if draw.mode.endswith("chain_of_thought") else filled
            if len(told) > wanted:
                return
    raise DataError(
        task.rows.path,
        f"template '{draw.template.label}' says fewer than {wanted + 1} different things over the training rows.",
        "Lower the task's num_shots or its few_shot share.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """A mixture with its rows checked. ``rates`` (M,) are the shares of ``tasks``, the ones trained on, in order."""

    path: Path
    config: MixtureConfig
    tasks: tuple[Task, ...]
    rates: NDArray[np.float64]
    train: MixtureRecords
    validation: MixtureRecords
    rows_read: int
    rows_dropped: dict[str, int]
    """Cause -> number of rows left out because of it; empty unless faulty rows are dropped."""
    digest: str
    validation_rows_in_train: int = 0
    """Validation examples whose row another task of the same source trains on."""

    def files(self) -> set[Path]:
        """The mixture's own file and all files its tasks name, test rows and held-out tasks included."""
        named = {source for task in self.config.tasks for source in (task.source, task.test) if source is not None}
        sources = [source_path(source, self.path.parent) for source in named]
        inside = [find_split(source, split) for source in sources for split in get_args(Split)]
        return {path.resolve() for path in [self.path, *map(Path, sources), *inside] if path is not None}

    def evaluated(self, name: str) -> Task:
        """A task over the rows it is evaluated on: its test rows, or all rows of a held-out one without any.

        Raises ConfigError for a trained task without test rows, DataError for faulty rows.
        """
        config = next(task for task in self.config.tasks if task.name == name)
        if config.test is not None:
            # The limit is on the rows of the source.
            config = config.model_copy(update={"limit": None})
        if config.test is None and name not in self.config.held_out:
            raise ConfigError(f"{self.path}:tasks.{name}.test", "the task has no test rows.", "Name a file with some.")
        source = source_path(config.test or config.source, self.path.parent)
        split: Split = "test" if config.test else "train"
        task = open_task(config, source, split, self.config.thought, str(self.path))
        faults = FaultLog()
        task = check_rows(task, faults, validation_share=0, seed=self.config.seed)
        faults.raise_if_any(task.rows.path, task.num_read)
        return task


def is_mixture(source: str) -> bool:
    """Whether a training source is the file of a mixture and not of rows."""
    return Path(source).suffix.lower() in MIXTURE_SUFFIXES


def load_mixture(path: Path, *, validation_share: float, drop_faulty: bool = False) -> Mixture:
    """Read a mixture and check every row of its trained tasks against every template.

    Raises ConfigError for settings that contradict each other, DataError for a source that cannot be read, for faulty
    rows in one table unless they are dropped, and where they leave a task without any.
    """
    if not path.is_file():
        raise ConfigError(str(path), "no such mixture.", "Check the path; a mixture is a .yaml file of tasks.")
    config, _ = load_config(MixtureConfig, path)
    digest = hashlib.sha256(file_digest(path).encode())
    tasks, faults = [], FaultLog()
    for task_config in config.tasks:
        source = source_path(task_config.source, path.parent)
        task = open_task(task_config, source, "train", config.thought, str(path))
        digest.update(f"{task.name} {task.rows.digest()}".encode())
        if task_config.test is not None:
            test = open_task(task_config, source_path(task_config.test, path.parent), "test", config.thought, str(path))
            digest.update(f"{task.name} test {test.rows.digest()}".encode())
        if task.name not in config.held_out and task_config.weight != 0:
            shared = any(may_share_rows(task_config, other) for other in config.trained() if other is not task_config)
            scope = os.path.normpath(task_config.source) if shared else task.name
            tasks.append(check_rows(task, faults, validation_share=validation_share, seed=config.seed, scope=scope))
    rows_read = sum(task.num_read for task in tasks)
    if not drop_faulty:
        faults.raise_if_any(str(path), rows_read)
    for task in tasks:
        if not len(task.row_ids):
            cause = f"all {task.num_read} rows of task '{task.name}' are faulty.\n{faults.table()}\n"
            raise DataError(task.rows.path, cause, "Correct the rows.")
        _check_shots(task, _shares(task, config))
    sizes = [len(task.row_ids) for task in tasks]
    if tasks[0].config.weight is None:
        rates = rates_by_size(sizes, cap=config.cap, temperature=config.temperature)
    else:
        rates = rates_by_weight([task.config.weight or 0.0 for task in tasks], temperature=config.temperature)
    num_examples = config.num_examples
    if num_examples is None:
        capped = sum(min(size, config.cap or size) for size in sizes)
        num_examples = max(1, round((config.num_epochs or 1.0) * capped))
    return Mixture(
        path=path,
        config=config,
        tasks=tuple(tasks),
        rates=rates,
        train=_training(tasks, rates, num_examples, config),
        validation=_validation(tasks, config.seed),
        rows_read=rows_read,
        rows_dropped=faults.by_cause(),
        digest=digest.hexdigest(),
        validation_rows_in_train=held_out_by_another(tasks),
    )


def _shares(task: Task, config: MixtureConfig) -> tuple[float, ...]:
    return (task.config.modes or config.modes).shares(has_rationale=task.config.rationale is not None)


def _check_shots(task: Task, shares: tuple[float, ...]) -> None:
    if not shares[1] and not shares[3]:
        return
    wanted = task.config.num_shots + 1
    for template in task.templates:
        told = set[Filled | str]()
        for row_id in task.row_ids:
            fields, where = task.fields(int(row_id))
            told.add(task.group_of(fields, where) or task.fill(template, fields, where))
            if len(told) == wanted:
                break
        else:
            raise ConfigError(
                f"{task.rows.path}: task '{task.name}'",
                f"template '{template.label}' says {len(told)} different things over the training rows; "
                f"{wanted - 1} shots and the example itself need {wanted}.",
                "Lower num_shots, set few_shot: 0 for the task, or add rows.",
            )


def _training(
    tasks: Sequence[Task], rates: NDArray[np.float64], num_examples: int, config: MixtureConfig
) -> MixtureRecords:
    schedule = Schedule(rates, num_examples, config.seed)
    shares = [_shares(task, config) for task in tasks]

    def draw_at(place: int) -> Draw:
        number, ordinal = int(schedule.task_N[place]), int(schedule.ordinal_N[place])
        task = tasks[number]
        mode = MODES[choose(shares[number], ordinal, config.seed, "mixture_mode", task.name)]
        return Draw(
            task=task,
            row_id=int(task.row_ids[row_of(ordinal, len(task.row_ids), config.seed, task.name)]),
            template=_template(task, mode, ordinal, config.seed),
            mode=mode,
        )

    return MixtureRecords(draw_at, np.arange(num_examples), config.seed)


def _template(task: Task, mode: Mode, ordinal: int, seed: int) -> Template:
    """The wording of a task's ordinal-th example; a rationale leads to the target, so never an inverted one."""
    thinks = mode.endswith("chain_of_thought")
    usable = [template for template in task.templates if not (thinks and template.inverted)]
    shares = (1 / len(usable),) * len(usable)
    return usable[choose(shares, ordinal, seed, "mixture_template", task.name, int(thinks))]


def _validation(tasks: Sequence[Task], seed: int) -> MixtureRecords:
    """The held-out rows once each, zero-shot, in an order that mixes the tasks: any first part holds all of them."""
    pairs = [(task, int(row_id)) for task in tasks for row_id in task.held_ids]
    pairs.sort(key=lambda pair: derive_seed(seed, "mixture_validation_order", pair[0].name, pair[1]))

    def draw_at(place: int) -> Draw:
        task, row_id = pairs[place]
        return Draw(task=task, row_id=row_id, template=_template(task, "zero_shot", row_id, seed), mode="zero_shot")

    return MixtureRecords(draw_at, np.arange(len(pairs)), seed)
