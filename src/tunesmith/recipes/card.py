"""A report card: how good, how sure, how steady, how fair and how fast is a model, beside the one it came from.

Read top to bottom: config, load, speed, plan and estimate, ask, rows, write. Asking goes through one results file, so
a card that was stopped goes on, and two cards of one base share its answers.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field

from tunesmith.errors import ConfigError
from tunesmith.evals.card.efficiency import efficiency_rows, measure_speed, peak_memory_bytes, read_joules
from tunesmith.evals.card.gather import details_of, measures_of
from tunesmith.evals.card.measure import Row, paired_row, verdicts
from tunesmith.evals.card.plan import Part, Plan, PlanConfig, make_plan
from tunesmith.evals.estimate import NO_WORK, Work, remaining
from tunesmith.evals.run import TaskResult, run_task
from tunesmith.evals.subject import Subject, local_subject
from tunesmith.models.adapters import is_adapter_folder, load_adapter
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.resolve import EMBEDDED_MODEL
from tunesmith.models.roles import Base
from tunesmith.progress import Bar
from tunesmith.recipes.chat import base_of
from tunesmith.reports.card import describe_rows, write_card_report
from tunesmith.rollout.generate import LocalGenerator
from tunesmith.rollout.likelihood import LocalLikelihood
from tunesmith.runs import atomic_write_text, machine_summary

RESULTS_FILE, CARD_FILE, PAGE_FILE, CLASSIFIER_FILE = "results.jsonl", "card.json", "card.html", "toxicity.npz"
BARE = "base"


class CardConfig(ModelConfig, PlanConfig):
    """What ``tunesmith card`` can be told."""

    adapter: str | None = None
    """Folder of the adapter to be measured; empty: the bare base alone."""
    compare: str | None = None
    """Folder of the adapter it is compared with; empty or 'base': the bare base."""
    output_dir: str = "runs/card"
    """Where card.json, the page, the pictures and the classifier are written."""
    results: str | None = None
    """The results file; empty: results.jsonl in output_dir. Two cards of one base that share it ask the base once."""
    max_minutes: float | None = Field(None, gt=0)
    """Refuse to begin where the estimate is above this."""


def run_card(config: CardConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Load, estimate, ask, write; returns what ``--json`` prints."""
    began = time.perf_counter()
    folder = Path(config.output_dir)
    base, adapters = _open(config)
    for note in base.notes:
        say(note)
    plan = make_plan(config, folder / CLASSIFIER_FILE)
    generator = LocalGenerator(base)
    subjects = [
        local_subject(base, generator, name, label, chat_template=config.chat_template)
        for label, name in adapters.items()
    ]
    names = " against ".join(reversed(list(adapters)))
    say(f"{names}: measuring the speed of this machine")
    speeds = measure_speed(base, list(adapters.values()))
    results_path = Path(config.results) if config.results else folder / RESULTS_FILE
    work = _estimate(plan, subjects, speeds[0].many_rows_rate, results_path, config, say)
    found = _ask(plan, subjects, results_path)
    rows = _rows(plan, found, config.seed) + efficiency_rows(speeds[0], speeds[1] if len(speeds) > 1 else None)
    facts = {
        "labels": list(adapters),
        "base": {"name": base.resolved.name, "digest": base.digest, "dtype": str(base.dtype)},
        "identities": [dict(subject.identity) for subject in subjects],
        "rows": [_row_dict(row, word) for row, word in zip(rows, verdicts(rows), strict=True)],
        "details": [details_of(plan, one, config.seed) for one in found],
        "classifier": plan.instrument.as_dict(),
        "peak_memory_bytes": peak_memory_bytes(base),
        "energy": "read" if read_joules() is not None else "absent: this machine shows no RAPL counter",
        "tasks": [_task_dict(part) for part in plan.parts],
        "asked_now": asdict(work),
        "limit": config.limit,
        "seed": config.seed,
        "machine": machine_summary(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    plain = json.loads(json.dumps(facts, default=asdict))
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / CARD_FILE, json.dumps(plain, indent=1, allow_nan=False) + "\n")
    write_card_report(folder, plain)
    return dict(plain)


def _open(config: CardConfig) -> tuple[Base, dict[str, str | None]]:
    """The base, and label -> adapter in memory: what is compared with first, then what is measured."""
    if config.compare is not None and config.adapter is None:
        raise ConfigError("compare", "there is nothing to compare with it.", "Name what is measured with --adapter.")
    if config.adapter == BARE:
        raise ConfigError("adapter", "'base' is no adapter.", "Leave --adapter out to measure the bare base.")
    wanted = [] if config.adapter is None else [config.compare or BARE, config.adapter]
    model = config.model_name_or_path
    for folder in (Path(name) for name in wanted if name != BARE):
        if not is_adapter_folder(folder):
            raise ConfigError(str(folder), "is no folder of an adapter.", "Name one; a whole model goes to --model.")
        if model == EMBEDDED_MODEL:
            model = base_of(folder) or model
    base = load_base(config.model_copy(update={"model_name_or_path": model}))
    adapters: dict[str, str | None] = {}
    for number, name in enumerate(wanted or [BARE]):
        label = BARE if name == BARE else Path(name).resolve().name
        # Two folders of one name are told apart by their number.
        label = label if label not in adapters else f"{label} ({number + 1})"
        adapters[label] = None if name == BARE else load_adapter(base, Path(name), f"adapter_{number}").adapter
    return base, adapters


def _estimate(
    plan: Plan,
    subjects: Sequence[Subject],
    write_rates: Sequence[float],
    results_path: Path,
    config: CardConfig,
    say: Callable[[str], None],
) -> Work:
    """Say what the results file does not know yet and how long that may take. Raises ConfigError beyond max_minutes."""
    left = [remaining(part.task, who, part.sampling, results_path) for who in subjects for part in plan.parts]
    work = sum(left, NO_WORK)
    read_rate = _reading_rate(plan, subjects[0])
    minutes = (work.read_tokens / read_rate + work.generated_tokens / fmean(write_rates)) / 60
    say(
        f"{work.num_requests:,} requests to {len(subjects)} in all: {work.read_tokens:,} tokens to read at "
        f"{read_rate:,.0f} a second, {work.generated_tokens:,} at most to write: up to {minutes:.1f} minutes"
    )
    if config.max_minutes is not None and minutes > config.max_minutes:
        raise ConfigError(
            "max_minutes", f"the card may take {minutes:.1f} minutes.", "Lower limit, or raise max_minutes."
        )
    return work


def _reading_rate(plan: Plan, subject: Subject) -> float:
    """Tokens a second of a few requests like those to come."""
    assert isinstance(subject.likelihood, LocalLikelihood)
    items = [item for part in plan.parts for item in part.task.items[:4] if item.choices]
    before, began = subject.likelihood.num_tokens, time.perf_counter()
    subject.likelihood.score([(item.messages, item.choices) for item in items])
    return max(1.0, (subject.likelihood.num_tokens - before) / (time.perf_counter() - began))


def _ask(plan: Plan, subjects: Sequence[Subject], results_path: Path) -> list[list[TaskResult]]:
    """Every part's result, one list a subject."""
    out = []
    for subject in subjects:
        done, found = 0, []
        with Bar(sum(len(part.task.items) for part in plan.parts), f"{subject.label}: items") as bar:
            for part in plan.parts:
                began, text = done, f"{part.dimension}, {part.task.name}"
                asking = partial(_tell, bar, began, text)
                found.append(run_task(part.task, subject, part.sampling, results_path, on_progress=asking))
                done += len(part.task.items)
        out.append(found)
    return out


def _tell(bar: Bar, began: int, text: str, done: int, asked: int) -> None:
    bar.update(began + done, text)


def _rows(plan: Plan, found: Sequence[list[TaskResult]], seed: int) -> list[Row]:
    """One row a measure, both models' on the same items."""
    measures = [measures_of(plan, one, seed) for one in found]
    if len(measures) == 1:
        return [paired_row(measure, None, seed) for measure in measures[0]]
    return [paired_row(a, b, seed) for a, b in zip(*measures, strict=True)]


def _row_dict(row: Row, verdict: str) -> dict[str, Any]:
    # Infinity is not JSON: no ideal means the more the better.
    ideal = None if math.isinf(row.ideal) else row.ideal
    return {**asdict(row), "ideal": ideal, "detectable": row.detectable, "verdict": verdict}


def _task_dict(part: Part) -> dict[str, Any]:
    return {
        "name": part.task.name,
        "version": part.task.version,
        "dimension": part.dimension,
        "items": len(part.task.items),
        "source": part.source,
        "sampling": part.sampling.model_dump(),
    }


def describe(config: CardConfig, facts: dict[str, Any]) -> list[str]:
    """What the verb prints at the end: the rows, what was written, the next command."""
    folder = Path(config.output_dir)
    return [
        *describe_rows(facts),
        f"wrote {folder / CARD_FILE}, {folder / PAGE_FILE} and its pictures in {facts['seconds']:.0f} s",
    ]
