"""An open run: the folder it writes, the state it goes on from, and who hears of its steps.

Every recipe that trains opens its run here, between what it prepares and its loop.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from tunesmith.errors import CheckpointError, ConfigError
from tunesmith.models.budget import Budget
from tunesmith.models.roles import Base
from tunesmith.runs import Run
from tunesmith.training.checkpoint import ResumeState, find_latest_valid, load_checkpoint
from tunesmith.training.distribute import World, one_process
from tunesmith.training.watch import Trackers


class RunConfig(Protocol):
    """Any recipe's config that says where its run is, whether it goes on, and who hears of it."""

    @property
    def output_dir(self) -> str: ...
    @property
    def overwrite_output_dir(self) -> bool: ...
    @property
    def resume_from_checkpoint(self) -> str | None: ...
    @property
    def report_to(self) -> Sequence[str]: ...
    @property
    def seed(self) -> int: ...
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


class Ready(Protocol):
    """What a recipe's ``prepare`` gives: all that is known before the first step."""

    @property
    def config(self) -> RunConfig: ...
    @property
    def base(self) -> Base: ...
    @property
    def budget(self) -> Budget: ...
    def identity(self) -> Mapping[str, Any]:
        """What must be the same for a resume to continue the same run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A run under way; all of it that moves is in ``state``, ``optimizer`` and ``parameters``.

    resumed: whether it goes on from a checkpoint. first_tokens: seen before this process began. began: seconds of
    time.perf_counter.
    """

    run: Run
    state: ResumeState
    optimizer: torch.optim.Optimizer
    parameters: Mapping[str, nn.Parameter]
    trackers: Trackers
    world: World
    device: torch.device
    resumed: bool
    first_tokens: int
    began: float = field(default_factory=time.perf_counter)

    def log(self, metrics: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, and the same to the trackers."""
        self.run.log_metrics(self.state.step, dict(metrics))
        self.trackers.log(self.state.step, metrics)


@contextmanager
def open_session(
    prepared: Ready,
    checkpoint: Path | None,
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    facts: Mapping[str, Any],
    world: World | None = None,
) -> Iterator[Session]:
    """Take the run folder, put a checkpoint's state back, note the facts, start the trackers; last, leave the world.

    checkpoint: where to go on, by ``checkpoint_to_resume``. facts: for run.json, beside the plan and the base's notes.
    Raises RunError for a folder in use, CheckpointError for one that does not fit, and what trackers raise.
    """
    config, world = prepared.config, world or one_process()
    recipe, identity = config.model_dump(mode="json"), prepared.identity()
    planned = decisions(prepared.base, prepared.budget)
    with ExitStack() as stack:
        folder = Path(config.output_dir)
        if not world.is_main:
            # Every rank keeps books, but only the first one's are the run's.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tunesmith-books-"))) / "books"
        resume = config.resume_from_checkpoint is not None
        run = stack.enter_context(Run.create(folder, recipe, resume=resume, overwrite=config.overwrite_output_dir))
        state = ResumeState(seed=config.seed, plan=planned, recipe=identity)
        if checkpoint is not None:
            state = load_checkpoint(checkpoint, optimizer, parameters, recipe=identity)
            _keep_to_plan(checkpoint, state.plan, planned, prepared.base.notes)
        # A run that died before its first checkpoint begins anew.
        run.truncate_metrics(after_step=state.step if checkpoint is not None else -1)
        run.note({"plan": dict(state.plan), **facts, "notes": prepared.base.notes})
        names = config.report_to if world.is_main else []
        yield Session(
            run=run,
            state=state,
            optimizer=optimizer,
            parameters=parameters,
            trackers=stack.enter_context(Trackers(names, run.folder, recipe, first_step=state.step)),
            world=world,
            device=prepared.base.device,
            resumed=checkpoint is not None,
            first_tokens=state.num_tokens,
        )
    world.close()


def decisions(base: Base, budget: Budget) -> dict[str, Any]:
    """What the planner decided; written in the run and replayed on resume."""
    return {
        "checkpointing": budget.checkpointing,
        "micro_batch_tokens": budget.micro_batch_tokens,
        "dtype": str(base.dtype).removeprefix("torch."),
        "kernels": "fast" if base.decoder is not None else "reference",
        "num_threads": torch.get_num_threads(),
    }


def checkpoint_to_resume(config: RunConfig) -> Path | None:
    """The checkpoint ``resume_from_checkpoint`` names, None to begin. Raises CheckpointError, ConfigError."""
    wanted = config.resume_from_checkpoint
    if wanted is None:
        return None
    if wanted == "auto":
        return find_latest_valid(Path(config.output_dir))
    if not Path(wanted).is_dir():
        raise CheckpointError(wanted, "no such checkpoint.", "Name a checkpoint-<step> folder, or auto.")
    if Path(wanted).resolve().parent != Path(config.output_dir).resolve():
        raise ConfigError(
            "resume_from_checkpoint", f"'{wanted}' is not in output_dir.", "Set output_dir to its folder."
        )
    return Path(wanted)


def _keep_to_plan(checkpoint: Path, planned: Mapping[str, Any], now: Mapping[str, Any], notes: list[str]) -> None:
    """Refuse to go on with other numbers or other kernels; other threads round otherwise, which is noted.

    planned, now: the decisions of the run and those of this process.
    """
    for name in ("dtype", "kernels"):
        if planned[name] != now[name]:
            raise CheckpointError(
                str(checkpoint), f"ran with {name} {planned[name]}, which here is {now[name]}.", "Start a new run."
            )
    if planned["num_threads"] != now["num_threads"]:
        notes.append(
            f"resumed on {now['num_threads']} threads instead of {planned['num_threads']}: sums may round otherwise."
        )
