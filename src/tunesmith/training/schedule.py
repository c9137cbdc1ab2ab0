"""How long a run is, which rows a step takes, and how it is asked to stop."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from tunesmith.randomness import permutation
from tunesmith.training.distribute import World
from tunesmith.training.optim import OptimConfig


class TrainConfig(OptimConfig):
    """How long, in which batches, and what is written on the way; Hugging Face's names."""

    output_dir: str = "runs/sft"
    """Where the run is written; a folder in use is refused."""
    overwrite_output_dir: bool = False
    """Delete what an earlier, finished run left in output_dir."""
    num_train_epochs: float = Field(1.0, gt=0)
    """Passes over the rows; a fraction stops inside one."""
    max_steps: int = Field(-1, ge=-1)
    """Optimiser steps; -1 derives them from num_train_epochs."""
    per_device_train_batch_size: int = Field(8, ge=1)
    """Rows of one device that enter a step together with the accumulated ones."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Multiplies the rows of a step; batch x accumulation x world rows make one step, always."""
    micro_batch_tokens: int = Field(1024, ge=64)
    """Most tokens in memory at once; never changes the step, only its memory."""
    gradient_checkpointing: Literal["auto", "attention"] | bool = "auto"
    """Recompute activations in the backward pass; attention: keep attention's; auto: only where memory demands it."""
    seed: int = Field(0, ge=0)
    """Keys all randomness: adapter start, order of rows, splits, dropout."""
    shuffle: bool = True
    """A new order of the rows every epoch; false keeps the file's order."""
    logging_steps: int = Field(1, ge=1)
    """Steps between two lines of metrics.jsonl."""
    eval_steps: int | None = Field(None, ge=1)
    """Steps between two evaluations on the validation rows; empty: about ten a run."""
    save_steps: int | None = Field(None, ge=1)
    """Steps between two checkpoints, the most a crash can lose; empty: about ten a run."""
    save_total_limit: int = Field(2, ge=1)
    """Checkpoints kept besides the best one."""
    early_stopping_patience: int = Field(3, ge=0)
    """Evaluations without improvement before training stops; 0 never stops."""
    resume_from_checkpoint: str | None = None
    """auto continues the newest whole checkpoint of output_dir; a path continues that one."""
    report_to: list[Literal["none", "tensorboard", "wandb", "trackio"]] = []
    """Trackers that also get the metrics, through their own libraries."""


def num_steps_of(config: TrainConfig, num_examples: int, world: World) -> int:
    """Optimiser steps of a run: max_steps, or the epochs' rows over the rows of a step, rounded up."""
    if config.max_steps > 0:
        return config.max_steps
    return max(1, math.ceil(num_examples * config.num_train_epochs / rows_per_step(config, world) - 1e-9))


def rows_per_step(config: TrainConfig, world: World) -> int:
    """Rows that enter one optimiser step over all ranks."""
    return config.per_device_train_batch_size * config.gradient_accumulation_steps * world.size


def examples_of_step(config: TrainConfig, num_examples: int, world: World, step: int) -> list[int]:
    """Indices of this rank's examples in one step: a function of the step alone, so the step is the data cursor.

    The epochs' orders lie end to end; a step may reach into the next epoch, and no row is skipped to round one.
    """
    size = rows_per_step(config, world)
    if config.max_steps > 0:
        total = config.max_steps * size
    else:
        total = math.ceil(num_examples * config.num_train_epochs - 1e-9)
    places = range(step * size, min((step + 1) * size, total))
    orders = {epoch: _order(config, num_examples, epoch) for epoch in {place // num_examples for place in places}}
    mine = [place for place in places if place % world.size == world.rank]
    return [orders[place // num_examples][place % num_examples] for place in mine]


def _order(config: TrainConfig, num_examples: int, epoch: int) -> list[int]:
    if not config.shuffle:
        return list(range(num_examples))
    return permutation(num_examples, config.seed, "row_order", epoch)


@dataclass(slots=True)
class StopRequest:
    """Whether the user or the system asked the run to end after this step."""

    asked: bool = False


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Ctrl-C and SIGTERM finish the step, save and leave; a second one leaves at once."""
    stop = StopRequest()

    def ask(number: int, _: Any) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
