"""What a person sees of ``tunesmith data bootstrap``: a bar with yield and time left, the report, the last lines."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.data.bootstrap.diversity import describe_rows
from tunesmith.data.bootstrap.prompts import looks_like_classification
from tunesmith.data.bootstrap.seeds import Instance, Task
from tunesmith.progress import Bar
from tunesmith.recipes.bootstrap import REJECTED_FILE, REQUESTS_FILE, ROWS_FILE
from tunesmith.recipes.bootstrap_ask import Asker
from tunesmith.recipes.bootstrap_config import BootstrapConfig
from tunesmith.recipes.bootstrap_stages import Made
from tunesmith.reports.bootstrap import REPORT_FILE, write_report
from tunesmith.runs import atomic_write_text, machine_summary

STAGES = ("instruction", "classification", "instance", "answer")


@contextmanager
def row_bar(num: int) -> Iterator[Callable[[Made, Asker], None]]:
    """A bar of the rows made of those wanted, as a function told how far it is after a round."""
    with Bar(num, "rows") as bar:

        def show(made: Made, asker: Asker) -> None:
            if not asker.num_asked:
                # Everything came from the requests' file so far.
                bar.skip(len(made.rows))
            text = f"{made.num_instruction_requests} tasks asked, yield {_yield(made)}"
            bar.update(len(made.rows), text, last=bool(made.stopped))

        yield show


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
