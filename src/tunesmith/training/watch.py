"""What a person sees of a long job, and the trackers that see it too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console

from tunesmith.errors import MissingExtraError, RunError
from tunesmith.models.budget import memory_in_use_bytes
from tunesmith.progress import Bar

# What is shown of a step's metrics, in this order.
SHOWN = {
    "loss": "loss {:.3f}",
    "eval_loss": "eval {:.3f}",
    "objective/scores": "reward {:.3f}",
    "objective/kl": "KL {:.2f}",
    "learning_rate": "lr {:.1e}",
    "tokens_per_second": "{:.0f} tok/s",
}


@contextmanager
def watch(
    num_steps: int, first_step: int, device: torch.device, console: Console | None = None, *, what: str = "step"
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """The bar of a training job, as a function told a step and its metrics; those not given keep their last value.

    first_step: where this process goes on. device: whose memory is told. what: what is counted.
    """
    newest: dict[str, float] = {}
    memory = partial(memory_in_use_bytes, device)
    # Tokens a second are told instead of steps a second.
    with Bar(num_steps, what, first=first_step, pace=False, memory_bytes=memory, console=console) as bar:

        def show(step: int, metrics: Mapping[str, float]) -> None:
            newest.update(metrics)
            bar.update(step, "  ".join(text.format(newest[key]) for key, text in SHOWN.items() if key in newest))

        yield show


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
