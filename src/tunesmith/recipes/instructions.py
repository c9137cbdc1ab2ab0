"""What do instructions teach? The same rows with and without them, measured on seen and on held-out tasks.

FLAN's claim (arXiv:2109.01652, section 4.2) is that tuning on many tasks helps on unseen ones because the tasks are
described in words. Three adapters are trained on the same rows in the same order: with instruction templates, with the
task's name before the bare input, and with the bare input alone; then all answer the same instructions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.load import DataConfig
from tunesmith.data.mixture import Mixture, is_mixture, load_mixture
from tunesmith.data.mixture_styles import Style, styled, write_mixture
from tunesmith.errors import ConfigError
from tunesmith.evals.run import TaskResult, run_task
from tunesmith.evals.subject import local_subject
from tunesmith.evals.suites.mixture import mixture_task
from tunesmith.evals.task import Task
from tunesmith.models.load import load_base
from tunesmith.models.roles import Base
from tunesmith.recipes.prepare import ADAPTER_NAME, SFTConfig
from tunesmith.recipes.sft import train
from tunesmith.reports.html import Report
from tunesmith.rollout.generate import LocalGenerator, Sampling
from tunesmith.runs import atomic_write_text, file_digest, machine_summary
from tunesmith.stats import exact_mcnemar, holm_adjusted, wilson_interval

# Folder -> the wording it is trained on.
ARMS: dict[str, Style] = {"instructions": "instructions", "task_name": "name", "bare": "plain"}
# What is measured: label -> (arm, or None for the base; the wording it is asked in).
CONDITIONS: dict[str, tuple[str | None, Style]] = {
    "base": (None, "instructions"),
    "tuned bare": ("bare", "instructions"),
    "tuned with name": ("task_name", "instructions"),
    "same, asked by name": ("task_name", "name"),
    "tuned with instructions": ("instructions", "instructions"),
}
SUBJECT = "tuned with instructions"
METRICS = {"exact": "the answer is the target", "contained": "the target's words stand in the answer"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything measured: label -> task -> answers, and the training of each arm."""

    mixture: Mixture
    results: dict[str, dict[str, TaskResult]]
    trained: dict[str, dict[str, Any]]


def run_experiment(
    config: SFTConfig, folder: Path, *, num_rows: int | None, max_new_tokens: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train the arms, measure all conditions, write report.html and results.json; returns what ``--json`` prints."""
    # 1. The mixture in three wordings.
    began = time.perf_counter()
    mixture = _mixture_of(config)
    folder.mkdir(parents=True, exist_ok=True)
    recipes = {arm: _arm_recipe(config, mixture, folder, arm) for arm in ARMS}
    names = [task.name for task in mixture.tasks if task.config.test] + mixture.config.held_out
    tasks = {
        (name, style): mixture_task(mixture, name, style, num_rows=num_rows, seed=config.seed)
        for name in names
        for style in {asked for _, asked in CONDITIONS.values()}
    }
    # 2. The base, then each arm on a base of its own: full tuning changes it.
    results, trained = dict[str, dict[str, TaskResult]](), dict[str, dict[str, Any]]()
    for arm in (None, *ARMS):
        base = load_base(config)
        if arm is None:
            say(base.notes[0])
        else:
            say(f"tuning {arm} …")
            done = train(recipes[arm], base=base)
            if done.interrupted:
                say(f"stopped; the same command begins this arm anew and uses the answers in {folder} again.")
                return {"interrupted": True, "output_dir": str(folder)}
            trained[arm] = {"num_tokens": done.num_tokens, "num_steps": done.num_steps, "seconds": done.train_seconds}
        for label, (whose, style) in CONDITIONS.items():
            if whose == arm:
                say(f"measuring {label} …")
                asked = [tasks[name, style] for name in names]
                results[label] = _measure(asked, names, label, base, arm, folder, max_new_tokens)
    # 3. Report.
    outcome = Outcome(mixture=mixture, results=results, trained=trained)
    facts = _facts(config, outcome, base, time.perf_counter() - began)
    rows = {metric: measured_rows(outcome, metric) for metric in METRICS}
    summary = {"facts": facts, "metrics": rows, "report": str(folder / "report.html")}
    atomic_write_text(folder / "results.json", json.dumps(summary, indent=2) + "\n")
    write_report(folder / "report.html", outcome, rows, facts)
    _show(rows, facts, folder, say)
    return summary


def _measure(
    tasks: Sequence[Task],
    names: Sequence[str],
    label: str,
    base: Base,
    arm: str | None,
    folder: Path,
    max_new_tokens: int,
) -> dict[str, TaskResult]:
    """Task name -> answers. A fully tuned base answers as itself, known by the weights it saved."""
    adapter, digest = None, base.digest
    if arm is not None and ADAPTER_NAME in base.methods:
        adapter = ADAPTER_NAME
    elif arm is not None:
        digest = file_digest(next((folder / arm).glob("model*.safetensors")))
    subject = local_subject(base, LocalGenerator(base), adapter, label, model_digest=digest)
    sampling = Sampling(max_new_tokens=max_new_tokens)
    return {
        name: run_task(task, subject, sampling, folder / "results.jsonl")
        for name, task in zip(names, tasks, strict=True)
    }


def _mixture_of(config: SFTConfig) -> Mixture:
    if not is_mixture(config.data.train):
        raise ConfigError("data.train", f"'{config.data.train}' is no mixture.", "Name a mixture's .yaml file.")
    mixture = load_mixture(Path(config.data.train).expanduser(), validation_share=0)
    if not mixture.config.held_out:
        raise ConfigError(f"{mixture.path}:held_out", "names no task to measure on.", "Hold out one task or more.")
    return mixture


def _arm_recipe(config: SFTConfig, mixture: Mixture, folder: Path, arm: str) -> SFTConfig:
    """The recipe of one arm; all rows are trained on and the last weights kept, so that only the wording differs."""
    path = folder / f"{arm}.yaml"
    write_mixture(styled(mixture.config, mixture.path, ARMS[arm]), path)
    data = DataConfig(train=str(path), validation_share=0, limit=config.data.limit)
    # The arms are measured on their own tasks; what tuning broke besides is `tunesmith after`'s to say.
    own = {"output_dir": str(folder / arm), "overwrite_output_dir": True, "after_training": "off"}
    return config.model_copy(update={"data": data, **own})


def measured_rows(outcome: Outcome, metric: str) -> list[dict[str, Any]]:
    """One entry a task and one for all seen and all held-out tasks together.

    Each has a share with its Wilson interval a condition, and the exact McNemar test of the instruction-tuned model
    against every other one, Holm-adjusted over the entries.
    """
    held_out = outcome.mixture.config.held_out
    names = list(outcome.results[SUBJECT])
    groups = {name: [name] for name in names}
    groups["all seen tasks"] = [name for name in names if name not in held_out]
    groups["all held-out tasks"] = [name for name in names if name in held_out]
    groups = {name: tasks for name, tasks in groups.items() if tasks}
    entries: list[dict[str, Any]] = []
    for name, tasks in groups.items():
        right = {
            label: [good for task in tasks for good in outcome.results[label][task].outcomes(metric)]
            for label in CONDITIONS
        }
        entry: dict[str, Any] = {"task": name, "held_out": tasks[0] in held_out, "rows": len(right[SUBJECT])}
        for label, good in right.items():
            interval = wilson_interval(sum(good), len(good))
            entry[label] = [interval.value, interval.low, interval.high]
        entry["tests"] = {}
        for label, good in right.items():
            if label != SUBJECT:
                test = exact_mcnemar(good, right[SUBJECT])
                entry["tests"][label] = {"only_it": test.only_first, "only_instructions": test.only_second, "p": test.p}
        entries.append(entry)
    for label in entries[0]["tests"]:
        adjusted = holm_adjusted([entry["tests"][label]["p"] for entry in entries])
        for entry, p in zip(entries, adjusted, strict=True):
            entry["tests"][label]["holm_p"] = p
    return entries


def _facts(config: SFTConfig, outcome: Outcome, base: Base, seconds: float) -> dict[str, str | int | float]:
    machine = machine_summary()
    tokens = ", ".join(f"{arm} {done['num_tokens']}" for arm, done in outcome.trained.items())
    return {
        "base": base.resolved.name,
        "base digest": base.digest[:16],
        "dtype": str(base.dtype).removeprefix("torch."),
        "training examples": len(outcome.mixture.train[: config.data.limit]),
        "steps": outcome.trained["instructions"]["num_steps"],
        "training tokens": tokens,
        "learning rate": config.learning_rate,
        "seed": config.seed,
        "minutes": round(seconds / 60, 1),
        "processor": f"{machine['processor']}, {machine['cores']} cores",
        "date": time.strftime("%Y-%m-%d"),
    }


def _columns() -> list[str]:
    return ["task", "rows", *CONDITIONS, *(f"p against {label}" for label in CONDITIONS if label != SUBJECT)]


def _cells(entry: dict[str, Any]) -> list[str]:
    shares = [f"{100 * v:.0f} % [{100 * low:.0f}, {100 * high:.0f}]" for v, low, high in (entry[c] for c in CONDITIONS)]
    tests = [entry["tests"][label] for label in CONDITIONS if label != SUBJECT]
    ps = [f"{test['holm_p']:.2g} ({test['only_it']} : {test['only_instructions']})" for test in tests]
    return [f"{entry['task']}{' *' if entry['held_out'] else ''}", str(entry["rows"]), *shares, *ps]


def write_report(path: Path, outcome: Outcome, rows: dict[str, list[dict[str, Any]]], facts: dict[str, Any]) -> None:
    """The one-file page: a table a metric, and an example of each task."""
    report = Report(
        "The same rows with and without instructions", f"{facts['base']}, {facts['training examples']} rows"
    )
    report.text(
        "All arms saw the same rows in the same order and number of steps; only the wording differed. All models are "
        "asked with instructions, the one tuned with the task's name also by that name. * marks held-out tasks, of "
        "which no arm saw a row."
    )
    report.text(
        "Shares of test rows with 95 % Wilson intervals. p: exact two-sided McNemar test of the model tuned with "
        "instructions against the other, Holm-adjusted down the column; in brackets the rows only the other : only it "
        "got right. The pooled rows speak of these tasks and not of tasks in general."
    )
    for metric, meaning in METRICS.items():
        report.heading(f"{metric}: {meaning}, letter case and punctuation aside")
        report.table(_columns(), [_cells(entry) for entry in rows[metric]])
    report.heading("The first test row of each task")
    for name in outcome.results[SUBJECT]:
        answers = {label: results[name].answers[0] for label, results in outcome.results.items()}
        asked = answers[SUBJECT]
        report.example(
            {f"{name}: asked": asked.messages[-1].content, "expected": asked.item.target}
            | {label: answer.text for label, answer in answers.items()}
        )
    report.footer(facts)
    report.write(path)


def _show(
    rows: dict[str, list[dict[str, Any]]], facts: dict[str, Any], folder: Path, say: Callable[[str], None]
) -> None:
    for metric, meaning in METRICS.items():
        say(f"\n{metric}: {meaning}; * held out; p: exact McNemar, Holm-adjusted")
        for line in _aligned([_columns(), *(_cells(entry) for entry in rows[metric])]):
            say(line)
    say("\n" + " · ".join(f"{key} {value}" for key, value in facts.items()))
    say(f"wrote {folder / 'report.html'}, results.json and one adapter an arm")
    say(f"next:  tunesmith chat --adapter {folder / 'instructions'}")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
