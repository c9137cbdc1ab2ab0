"""What a person sees of a long job, and the trackers that see it too."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tunesmith.errors import MissingExtraError
from tunesmith.models.budget import memory_in_use_bytes

# Without a terminal a line now and then says that the job is alive.
QUIET_SECONDS = 20.0


class Watch:
    """A progress bar with loss, tokens/s, time left and memory; plain lines where there is no terminal."""

    def __init__(self, num_steps: int, first_step: int, device: torch.device) -> None:
        self.num_steps, self.device = num_steps, device
        self._metrics: dict[str, float] = {}
        self._last_line = time.perf_counter()
        self._progress: Progress | None = None
        self._task = TaskID(0)
        if sys.stderr.isatty():
            self._progress = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._progress.add_task("steps", total=num_steps, completed=first_step, text="")

    def __enter__(self) -> Watch:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the newest numbers of a step."""
        self._metrics.update(metrics)
        shown = [f"loss {self._metrics.get('loss', float('nan')):.3f}"]
        if "eval_loss" in self._metrics:
            shown.append(f"eval {self._metrics['eval_loss']:.3f}")
        shown.append(f"{self._metrics.get('tokens_per_second', 0.0):.0f} tok/s")
        shown.append(f"{memory_in_use_bytes(self.device) / 1e9:.1f} GB")
        text = "  ".join(shown)
        if self._progress is not None:
            self._progress.update(self._task, completed=step, text=text)
        elif time.perf_counter() - self._last_line > QUIET_SECONDS or step == self.num_steps:
            self._last_line = time.perf_counter()
            print(f"step {step}/{self.num_steps}  {text}", file=sys.stderr, flush=True)


class Trackers:
    """The trackers of ``report_to``, through their own libraries; none of them is imported unless asked for."""

    def __init__(self, names: Sequence[str], folder: Path, recipe: Mapping[str, Any]) -> None:
        self._wandb: Any = None
        self._trackio: Any = None
        self._tensorboard: Any = None
        try:
            if "tensorboard" in names:
                from torch.utils.tensorboard import SummaryWriter

                self._tensorboard = SummaryWriter(str(folder / "tensorboard"))
            if "wandb" in names:
                import wandb

                self._wandb = wandb.init(project="tunesmith", dir=str(folder), config=dict(recipe))
            if "trackio" in names:
                import trackio

                trackio.init(project="tunesmith", config=dict(recipe))
                self._trackio = trackio
        except ImportError as error:
            raise MissingExtraError(
                "report_to", f"{error.name} is not installed.", "Run: pip install 'tunesmith[track]'"
            ) from None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send one step's metrics to every tracker."""
        if self._tensorboard is not None:
            for key, value in metrics.items():
                self._tensorboard.add_scalar(key, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(metrics), step=step)
        if self._trackio is not None:
            self._trackio.log(dict(metrics), step=step)

    def close(self) -> None:
        """Flush and leave every tracker."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()
        if self._trackio is not None:
            self._trackio.finish()
