"""What a person sees of a PPO run: a table of answers now and then, its warnings, and the last words."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.models.roles import Base
from tunesmith.rollout.rewards import Answered
from tunesmith.runs import atomic_write_text
from tunesmith.training.guards import Iteration

SAMPLES_FILE = "samples.jsonl"
# Characters of a prompt and of an answer that a table on a terminal has room for; the file has all of them.
SHOWN_CHARACTERS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """What a finished or interrupted run left behind.

    first, best, last: what the policy earned before the run, at the checkpoint that was kept, and at the end.
    """

    output_dir: Path
    base: Base
    num_iterations: int
    num_episodes: int
    first: Iteration | None
    best: Iteration | None
    last: Iteration | None
    warnings: list[str]
    interrupted: bool
    train_seconds: float
    peak_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """For --json: everything but the model."""
        kept = {name: getattr(self, name) for name in self.__slots__ if name != "base"}
        for name in ("first", "best", "last"):
            kept[name] = None if kept[name] is None else asdict(kept[name])
        return {**kept, "output_dir": str(self.output_dir)}


@dataclass(slots=True)
class Clock:
    """Seconds between laps, added up under each lap's name."""

    laps: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        """The time since the last lap belongs to ``name``."""
        now = time.perf_counter()
        self.laps[name] = round(self.laps.get(name, 0.0) + now - self._last, 3)
        self._last = now


class Samples:
    """samples.jsonl of a run folder, and the same as a table on standard error.

    after_step: rounds beyond it are forgotten, since a resumed run writes them again; -1 forgets all.
    """

    def __init__(self, folder: Path, after_step: int, console: Console | None = None) -> None:
        self.path = folder / SAMPLES_FILE
        self._console = console or Console(stderr=True)
        if self.path.exists():
            kept = [line for line in self._lines() if _step_of(line) <= after_step]
            atomic_write_text(self.path, "".join(f"{line}\n" for line in kept))

    def rows(self) -> list[dict[str, Any]]:
        """What was written so far."""
        return [json.loads(line) for line in self._lines()] if self.path.exists() else []

    def _lines(self) -> list[str]:
        # A text may hold line breaks of Unicode's (U+0085, U+2028), at which str.splitlines would cut it.
        return [line for line in self.path.read_text(encoding="utf-8").split("\n") if line]

    def write(
        self, step: int, items: Sequence[Answered], scores_B: NDArray[np.float64], kl_B: NDArray[np.float64]
    ) -> None:
        """One line an answer: prompt, answer, score, KL to the reference in nats, why it ended."""
        rows = [
            {
                "step": step,
                "row_id": item.row_id,
                "prompt": item.messages[-1].content,
                "answer": item.text,
                "score": round(float(score), 6),
                "kl": round(float(kl), 6),
                "stop_reason": item.stop_reason,
            }
            for item, score, kl in zip(items, scores_B, kl_B, strict=True)
        ]
        with self.path.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._console.print(sample_table(f"round {step}", rows))

    def tell(self, text: str) -> None:
        """A line beside the progress bar."""
        if self._console.is_terminal:
            self._console.print(Text(text))
        else:
            print(text, file=sys.stderr, flush=True)


def sample_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Prompt, answer, score and KL of some answers; what a model wrote is shown as it is, never as markup."""
    table = Table(title=title, title_justify="left", show_lines=True)
    for name in ("prompt", "answer"):
        table.add_column(name, overflow="fold", ratio=1)
    for name in ("score", "kl"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        texts = [Text(_short(row[name])) for name in ("prompt", "answer")]
        table.add_row(*texts, f"{row['score']:.3f}", f"{row['kl']:.2f}")
    return table


def describe_result(aligned: Mapping[str, Any], recipe: str) -> list[str]:
    """What to tell the user at the end: the numbers, what was written, the next command.

    aligned: ``Aligned.as_dict()``. recipe: as it was called, with the overrides that make it this run but its folder.
    """
    folder, rounds = aligned["output_dir"], aligned["num_iterations"]
    if aligned["interrupted"]:
        return [
            f"stopped after iteration {rounds}; nothing is lost.",
            f"next:  tunesmith ppo {recipe} {shlex.quote(f'output_dir={folder}')} resume_from_checkpoint=auto",
        ]
    first, best, last = aligned["first"], aligned["best"], aligned["last"]
    lines = [f"warning: {text}" for text in aligned["warnings"][-3:]]
    lines.append(f"reward {first['reward']:.4f} -> {best['reward']:.4f}, KL {best['kl']:.2f} nats an answer")
    if best["step"] != last["step"]:
        lines.append(
            f"kept the policy of iteration {best['step']}, the best within kl_budget; the last one has reward "
            f"{last['reward']:.4f} at KL {last['kl']:.2f}."
        )
    if best["step"] == 0:
        lines.append("no iteration beat the policy it started from: look at the samples, and at learning_rate.")
    lines.append(
        f"{rounds} iterations, {aligned['num_episodes']} answers, {aligned['train_seconds']:.0f} s, "
        f"peak {aligned['peak_bytes'] / 1e9:.2f} GB"
    )
    lines.append(f"wrote {folder}: adapter, metrics.jsonl, {SAMPLES_FILE}")
    return [*lines, f"next:  tunesmith chat --adapter {shlex.quote(str(folder))}"]


def _step_of(line: str) -> int:
    """The round a line belongs to; a torn last line is forgotten."""
    try:
        return int(json.loads(line)["step"])
    except ValueError:
        return sys.maxsize


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "\u2026"
