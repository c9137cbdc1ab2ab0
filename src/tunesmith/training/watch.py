"""What a person sees of a long job, and the trackers that see it too."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
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
)

from tunesmith.errors import MissingExtraError, RunError
from tunesmith.models.budget import memory_in_use_bytes

# Without a terminal a line now and then says that the job is alive.
QUIET_SECONDS = 20.0


class Watch:
    """A progress bar with loss, learning rate, tokens/s, memory and time left; plain lines where there is no terminal.

    console: where to show it, standard error by default. what: what is counted.
    """

    def __init__(
        self,
        num_steps: int,
        first_step: int,
        device: torch.device,
        console: Console | None = None,
        *,
        what: str = "step",
    ) -> None:
        self.what = what
        self.num_steps, self.first_step, self.device = num_steps, first_step, device
        self._console = console or Console(stderr=True)
        self._metrics: dict[str, float] = {}
        self._began = self._last_line = time.perf_counter()
        self._progress: Progress | None = None
        self._task = TaskID(0)
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn(what),
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[text]}", markup=False),
                TimeElapsedColumn(),
                console=self._console,
                expand=True,
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
        """Show the newest numbers of a step; numbers not given keep their last value."""
        self._metrics.update(metrics)
        now = time.perf_counter()
        text = "  ".join([*self._numbers(), self._left(step, now - self._began)])
        if self._progress is not None:
            self._progress.update(self._task, completed=step, text=text)
        elif now - self._last_line > QUIET_SECONDS or step == self.num_steps:
            self._last_line = now
            print(f"{self.what} {step}/{self.num_steps}  {text}", file=self._console.file, flush=True)

    def _numbers(self) -> list[str]:
        formats = {
            "loss": "loss {:.3f}",
            "eval_loss": "eval {:.3f}",
            "objective/scores": "reward {:.3f}",
            "objective/kl": "KL {:.2f}",
            "learning_rate": "lr {:.1e}",
            "tokens_per_second": "{:.0f} tok/s",
        }
        shown = [text.format(self._metrics[key]) for key, text in formats.items() if key in self._metrics]
        return [*shown, f"{memory_in_use_bytes(self.device) / 1e9:.1f} GB"]

    def _left(self, step: int, seconds: float) -> str:
        """Time left at the pace since this process began, evaluations and checkpoints included."""
        done = step - self.first_step
        return f"{_clock(seconds / done * (self.num_steps - step))} left" if done > 0 else "-:-- left"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Trackers:
    """The trackers of ``report_to``, through their own libraries; none of them is imported unless asked for.

    folder: the run folder, whose name becomes the run's. first_step: where a resumed run goes on; TensorBoard then
    drops what an interrupted run had written beyond it. Use it as a context manager, so that a run that fails is
    closed too. Raises MissingExtraError, and RunError when a tracker refuses to start.
    """

    def __init__(self, names: Sequence[str], folder: Path, recipe: Mapping[str, Any], first_step: int = 0) -> None:
        self._wandb: Any = None
        self._trackio: Any = None
        self._tensorboard: Any = None
        start: dict[str, Callable[[], None]] = {
            "tensorboard": lambda: self._start_tensorboard(folder, first_step),
            "wandb": lambda: self._start_wandb(folder, recipe),
            "trackio": lambda: self._start_trackio(folder, recipe),
        }
        try:
            for name in dict.fromkeys(names):
                if name != "none":
                    _start(name, start[name])
        except BaseException:
            self.close(failed=True)
            raise

    def _start_tensorboard(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = first_step + 1 if first_step else None
        self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def _start_wandb(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        import wandb

        self._wandb = wandb.init(project="tunesmith", name=folder.name, dir=str(folder), config=dict(recipe))

    def _start_trackio(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        import trackio

        self._trackio = trackio
        trackio.init(project="tunesmith", name=folder.name, config=dict(recipe))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send one step's metrics to every tracker."""
        if self._tensorboard is not None:
            for key, value in metrics.items():
                self._tensorboard.add_scalar(key, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(metrics), step=step)
        if self._trackio is not None:
            self._trackio.log(dict(metrics), step=step)

    def close(self, *, failed: bool = False) -> None:
        """Flush and leave every tracker; a second call does nothing."""
        with redirect_stdout(sys.stderr):
            if self._tensorboard is not None:
                self._tensorboard.close()
            if self._wandb is not None:
                self._wandb.finish(exit_code=int(failed))
            if self._trackio is not None:
                self._trackio.finish()
        self._tensorboard = self._wandb = self._trackio = None

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)


def _start(name: str, begin: Callable[[], None]) -> None:
    place = f"report_to: {name}"
    try:
        # What a tracker prints must not land in the middle of --json.
        with redirect_stdout(sys.stderr):
            begin()
    except ImportError as error:
        raise MissingExtraError(
            place, f"{error.name or name} is not installed.", "Run: pip install 'tunesmith[track]'"
        ) from None
    except Exception as error:
        raise RunError(
            place,
            f"did not start: {str(error).rstrip('.') or type(error).__name__}.",
            "Log in or choose its offline mode (WANDB_MODE=offline), or take it out of report_to.",
        ) from error
