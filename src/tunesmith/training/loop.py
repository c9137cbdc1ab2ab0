"""The loop that every recipe with rows and steps shares: steps, evaluations, checkpoints, an end, a way back.

A recipe gives what only it knows, how a step's gradients come about and what an evaluation says; it calls
``run_loop`` where a reader expects the loop. No state lives here: all of it is in ``ResumeState``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from tunesmith.errors import CheckpointError, ConfigError, NonFiniteLossError
from tunesmith.runs import Run
from tunesmith.runtime import release_memory
from tunesmith.training.checkpoint import ResumeState, find_latest_valid, load_checkpoint, prune, save_checkpoint
from tunesmith.training.distribute import World
from tunesmith.training.optim import clip_gradients, learning_rate_at
from tunesmith.training.schedule import TrainConfig, rows_per_step, stop_on_signal
from tunesmith.training.watch import Trackers, watch

# Rows of other lengths every step leave holes in the heap; without this the process grows by a GB in 20 steps.
TRIM_EVERY_STEPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """What filling one step's gradients told: its metrics (``loss`` among them), and its tokens over all ranks."""

    metrics: Mapping[str, float]
    num_tokens: int


@dataclass(slots=True, kw_only=True)
class Loop:
    """A run under way.

    num_examples: rows of one epoch. gradients: the 0-based step -> its gradients in ``.grad``. evaluate: metrics of
    the validation rows, ``eval_loss`` among them (lower is better); None without such rows. name_rows: where the rows
    of a step come from, for an error. write_adapter: writes what a user loads into a checkpoint's folder.
    """

    config: TrainConfig
    run: Run
    state: ResumeState
    optimizer: torch.optim.Optimizer
    parameters: Mapping[str, nn.Parameter]
    trackers: Trackers
    world: World
    device: torch.device
    num_steps: int
    num_examples: int
    gradients: Callable[[int], Gradients]
    evaluate: Callable[[], Mapping[str, float]] | None
    name_rows: Callable[[int], str]
    write_adapter: Callable[[Path], None]
    began: float = field(default_factory=time.perf_counter)
    first_tokens: int = field(init=False)
    stopped_early: bool = False

    def __post_init__(self) -> None:
        self.first_tokens = self.state.num_tokens

    def log(self, metrics: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, and the same to the trackers."""
        self.run.log_metrics(self.state.step, dict(metrics))
        self.trackers.log(self.state.step, metrics)


def run_loop(loop: Loop) -> bool:
    """Steps, evaluations and checkpoints until the end, the patience or the user says stop; True if the user did."""
    state, config = loop.state, loop.config
    eval_every = config.eval_steps or max(1, math.ceil(loop.num_steps / 10))
    save_every = config.save_steps or eval_every
    patience, stopping = config.early_stopping_patience, False
    loop.stopped_early = bool(patience) and state.evaluations_without_improvement >= patience
    with stop_on_signal() as stop, watch(loop.num_steps, state.step, loop.device) as show:
        if state.step == 0 and loop.evaluate is not None:
            before = _evaluated(loop.evaluate)
            state.initial_metric = before["eval_loss"]
            loop.log(before)
        while state.step < loop.num_steps and not stopping and not loop.stopped_early:
            metrics = _step(loop)
            # One rank asked to stop stops them all, after the same step.
            stopping = loop.world.sum(float(stop.asked)) > 0
            show(state.step, metrics)
            if state.step % TRIM_EVERY_STEPS == 0:
                release_memory()
            if state.step % config.logging_steps == 0:
                loop.log(metrics)
            last = state.step == loop.num_steps
            if loop.evaluate is not None and (state.step % eval_every == 0 or last):
                after = _evaluated(loop.evaluate)
                improved = state.judge(after["eval_loss"])
                show(state.step, after)
                loop.log({**after, "generalization_gap": after["eval_loss"] - metrics["loss"]})
                loop.stopped_early = bool(patience) and state.evaluations_without_improvement >= patience
                if improved:
                    _save(loop)
            if state.step % save_every == 0 or stopping or last:
                _save(loop)
    return stopping and state.step < loop.num_steps


def _step(loop: Loop) -> dict[str, float]:
    """One optimiser step; returns its metrics."""
    state, config = loop.state, loop.config
    rate = learning_rate_at(state.step, loop.num_steps, config)
    for group in loop.optimizer.param_groups:
        group["lr"] = rate
    step = state.step
    result = loop.gradients(step)
    norm = clip_gradients(list(loop.parameters.values()), config.max_grad_norm)
    if not math.isfinite(norm):
        raise NonFiniteLossError(loop.name_rows(step), f"the gradient's norm is {norm}.", "Lower learning_rate.")
    loop.optimizer.step()
    loop.optimizer.zero_grad(set_to_none=True)
    rows = rows_per_step(config, loop.world)
    state.advance(num_tokens=result.num_tokens, epoch=step * rows // loop.num_examples)
    return {
        **result.metrics,
        "learning_rate": rate,
        "grad_norm": norm,
        "epoch": round(state.step * rows / loop.num_examples, 4),
        "num_tokens": state.num_tokens,
        "tokens_per_second": round((state.num_tokens - loop.first_tokens) / (time.perf_counter() - loop.began), 1),
    }


def _evaluated(evaluate: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    metrics = dict(evaluate())
    release_memory()
    return metrics


def _save(loop: Loop) -> None:
    state = loop.state
    if loop.world.is_main and state.saved_step != state.step:
        save_checkpoint(loop.run.folder, state, loop.optimizer, loop.parameters, write_adapter=loop.write_adapter)
        prune(loop.run.folder, loop.config.save_total_limit, keep={state.best_step})
    loop.world.barrier()


def keep_best(loop: Loop) -> float | None:
    """Put the best evaluation's weights back after the loop; returns the metric of the weights that are there now."""
    state = loop.state
    if state.best_step in (0, state.step):
        return state.last_metric
    load_checkpoint(Path(loop.config.output_dir) / f"checkpoint-{state.best_step}", None, loop.parameters)
    return state.best_metric


class Resumable(Protocol):
    """Any recipe's config that says where its run is and whether it goes on."""

    @property
    def output_dir(self) -> str: ...

    @property
    def resume_from_checkpoint(self) -> str | None: ...


def checkpoint_to_resume(config: Resumable) -> Path | None:
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


def go_on_as_planned(checkpoint: Path, planned: Mapping[str, Any], now: Mapping[str, Any], notes: list[str]) -> None:
    """Refuse to go on with other numbers or other kernels; other threads round otherwise, which is noted.

    planned, now: the decisions of the run and those of this process, with dtype, kernels and num_threads.
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
