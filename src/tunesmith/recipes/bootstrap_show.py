"""What a person sees of ``tunesmith data bootstrap``: a bar with yield and time left, the report, the last lines."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tunesmith.data.bootstrap.diversity import describe_rows
from tunesmith.data.bootstrap.prompts import looks_like_classification
from tunesmith.data.bootstrap.seeds import Instance, Task
from tunesmith.recipes.bootstrap import REJECTED_FILE, REQUESTS_FILE, ROWS_FILE, BootstrapConfig, Made
from tunesmith.recipes.bootstrap_ask import Asker
from tunesmith.reports.bootstrap import REPORT_FILE, write_report
from tunesmith.runs import atomic_write_text, machine_summary

# Without a terminal a line now and then says that the job is alive.
QUIET_SECONDS = 20.0
STAGES = ("instruction", "classification", "instance", "answer")


class Bar:
    """Rows wanted and made, yield, and time left at the pace of this process; plain lines without a terminal."""

    def __init__(self, num: int, console: Console | None = None) -> None:
        self._num, self._console = num, console or Console(stderr=True)
        self._began = self._last_line = time.monotonic()
        self._first_rows: int | None = None
        self._task = TaskID(0)
        self._progress: Progress | None = None
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("rows"),
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[text]}", markup=False),
                TimeElapsedColumn(),
                console=self._console,
                expand=True,
            )
            self._task = self._progress.add_task("rows", total=num, text="")

    def __enter__(self) -> Bar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, made: Made, asker: Asker) -> None:
        """Show how far it is after a round."""
        now = time.monotonic()
        if not asker.num_asked:
            # Everything came from the requests' file so far: no pace to tell the time by.
            self._first_rows, self._began = len(made.rows), now
        text = f"{made.num_instruction_requests} tasks asked, yield {_yield(made)}, {self._left(made, now)}"
        if self._progress is not None:
            self._progress.update(self._task, completed=len(made.rows), text=text)
        elif now - self._last_line > QUIET_SECONDS or made.stopped:
            self._last_line = now
            print(f"rows {len(made.rows)}/{self._num}  {text}", file=self._console.file, flush=True)

    def _left(self, made: Made, now: float) -> str:
        new = len(made.rows) - (self._first_rows or 0)
        if new <= 0:
            return "-:-- left"
        minutes, seconds = divmod(round((now - self._began) / new * (self._num - len(made.rows))), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"


def _yield(made: Made) -> str:
    return f"{len(made.tasks)}/{made.num_instruction_requests}"


def make_report(
    config: BootstrapConfig, made: Made, asker: Asker, seeds: Sequence[Task], seconds: float
) -> dict[str, Any]:
    """Count, describe and write report.json, report.html and diversity.png; returns what ``--json`` prints."""
    folder = Path(config.output_dir)
    machine = machine_summary()
    facts: dict[str, Any] = {
        "rows": len(made.rows),
        "wanted": config.num,
        "stopped": made.stopped,
        "yield": stage_yield(made, asker),
        "kinds": kind_facts(config, made, seeds),
        "diversity": describe_rows(
            [row["instruction"] for row in made.rows],
            [Instance(row["input"], row["output"]) for row in made.rows],
            seeds,
            seed=config.seed,
        ),
        "requests": {
            "asked": dict(asker.num_asked),
            "found": dict(asker.num_found),
            "tokens": dict(asker.num_tokens),
        },
        "writer": dict(asker.identity),
        "scheme": config.scheme,
        "seconds": round(seconds, 1),
        "machine": f"{machine['processor']}, {machine['cores']} cores",
        "date": time.strftime("%Y-%m-%d"),
        "output_dir": config.output_dir,
    }
    atomic_write_text(folder / "report.json", json.dumps(facts, indent=2) + "\n")
    write_report(folder, facts, made.rows, made.rejected)
    return facts


def stage_yield(made: Made, asker: Asker) -> dict[str, dict[str, Any]]:
    """For every stage: answers, and how many were turned down for each reason."""
    out: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        answers = asker.num_asked[stage] + asker.num_found[stage]
        reasons = Counter(row["reason"] for row in made.rejected if row["stage"] == stage)
        if answers or reasons:
            ordered = dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
            out[stage] = {"answers": answers, "rejected": ordered}
    return out


def kind_facts(config: BootstrapConfig, made: Made, seeds: Sequence[Task]) -> dict[str, Any]:
    """Rows of each kind, how the kind was told, and how often the rule agrees with the seeds that say their kind."""
    said = [task for task in seeds if task.is_classification is not None]
    right = sum(looks_like_classification(task.instruction) is task.is_classification for task in said)
    kinds = [row["lineage"]["is_classification"] for row in made.rows]
    return {
        "classification_rows": sum(kinds),
        "other_rows": len(kinds) - sum(kinds),
        "told_by": "rule" if config.scheme == "small" else "writer",
        "unreadable_answers": made.unread_kinds,
        "rule_agrees_with_seeds": f"{right} of {len(said)}" if said else "the seeds do not say",
    }


def last_lines(config: BootstrapConfig, facts: dict[str, Any]) -> list[str]:
    """What was written, why it ended, and the next command."""
    folder = Path(config.output_dir)
    why = {
        "num": "",
        "idle": f" Stopped: {config.max_idle_requests} requests in a row gave no new row (--max-idle).",
        "interrupted": " Stopped; the same command goes on, and asks nothing twice.",
    }
    lines = [f"{facts['rows']} of {config.num} rows.{why[facts['stopped']]}"]
    for stage, counts in facts["yield"].items():
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts["rejected"].items()) or "none"
        lines.append(f"  {stage}: {counts['answers']} answers, turned down: {reasons}")
    new, found = (sum(facts["requests"][name].values()) for name in ("asked", "found"))
    lines.append(f"requests: {new} asked now, {found} found in {REQUESTS_FILE}.")
    lines.append(f"wrote {folder}/{{{ROWS_FILE}, {REJECTED_FILE}, {REQUESTS_FILE}, report.json, {REPORT_FILE}}}")
    if facts["rows"]:
        lines.append(
            f"next: read some rows, then tunesmith sft recipes/instructions.yaml data.train={folder / ROWS_FILE}"
        )
    return lines
