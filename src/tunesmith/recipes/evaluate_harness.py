"""Tasks of lm-evaluation-harness in ``tunesmith eval``: the harness asks, the comparison and the page are ours."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from tunesmith.errors import ConfigError, DataError, MissingExtraError
from tunesmith.evals.lm_eval import HarnessResult, lm_eval_suite
from tunesmith.evals.subject import Subject
from tunesmith.evals.suite import Suite, SuiteConfig
from tunesmith.evals.task import Task
from tunesmith.progress import Bar
from tunesmith.recipes.evaluate_config import EvalConfig
from tunesmith.recipes.evaluate_measure import Measured
from tunesmith.recipes.evaluate_open import Opened, Plan
from tunesmith.rollout.sampling import Sampling

PREFIX = "lm-eval:"


def split_suites(config: EvalConfig, opened: Opened) -> tuple[list[str], list[str]]:
    """Names of our suites and of the harness's, as they were given.

    Raises MissingExtraError where the harness is wanted and not installed, ConfigError for what it cannot do.
    """
    ours = [name for name in config.suites if not name.startswith(PREFIX)]
    harness = [name for name in config.suites if name.startswith(PREFIX)]
    if not harness:
        return ours, []
    place = f"suites {', '.join(harness)}"
    if find_spec("lm_eval") is None:
        raise MissingExtraError("lm-eval", "lm-evaluation-harness is not installed.", "pip install 'tunesmith[eval]'")
    if opened.earlier:
        cause = "the harness asks by itself, so an earlier evaluation's replies cannot be matched with what it asks."
        raise ConfigError(place, cause, "Compare with base or an adapter, or leave them out.")
    if any(subject.likelihood is None for subject in opened.subjects):
        raise ConfigError(place, "the harness measures weights on this machine.", "Leave them out for an endpoint.")
    if config.select_shots or config.samples > 1:
        cause = "the harness has no validation part for us to choose shots on, and draws one answer."
        raise ConfigError(place, cause, "Measure them in a call of their own, with --shots.")
    return ours, harness


def measure_harness(
    config: EvalConfig, name: str, subjects: Sequence[Subject], results_path: Path
) -> list[tuple[Plan, list[Measured]]]:
    """Every task the name stands for, for every subject. Raises DataError where the subjects were asked other words."""
    found: list[tuple[list[HarnessResult], float]] = []
    for subject in subjects:
        began = time.perf_counter()
        found.append((_ask(config, name, subject, results_path), time.perf_counter() - began))
    out = []
    for results in zip(*(own for own, _ in found), strict=True):
        tasks = [one.result.task for one in results]
        if any(task.items != tasks[0].items for task in tasks):
            cause = "the models were not asked the same words: their chat templates differ."
            raise DataError(name, cause, "Ask as plain text, with --no-chat-template.")
        seconds = [took / len(own) for own, took in found]
        measured = [Measured(result=one.result, seconds=took) for one, took in zip(results, seconds, strict=True)]
        out.append((_plan(config, name, results), measured))
    return out


def _ask(config: EvalConfig, name: str, subject: Subject, results_path: Path) -> list[HarnessResult]:
    bars: dict[int, Bar] = {}
    with ExitStack() as stack:

        def tell(done: int, asked: int) -> None:
            # The harness asks task by task, so that what is asked grows: a new bar for each size.
            if asked not in bars:
                bars[asked] = stack.enter_context(Bar(asked, f"{name}, {subject.label}: answer", first=done))
            bars[asked].update(done)

        return lm_eval_suite(
            name.removeprefix(PREFIX),
            subject,
            results_path,
            limit=config.limit,
            num_shots=config.shots,
            chat_template=config.chat_template,
            on_progress=tell,
        )


def _plan(config: EvalConfig, name: str, results: Sequence[HarnessResult]) -> Plan:
    task, first = results[0].result.task, results[0]

    def build(asked: SuiteConfig) -> Task:
        return task

    told = ", ".join(f"{metric} {value:.4f}" for metric, value in first.reported.items())
    about = f"A task of lm-evaluation-harness, which reports for {first.result.label}: {told}."
    if first.left_out:
        about += f" Over all items together, so not shown: {', '.join(first.left_out)}."
    if any(one.num_cut for one in results):
        about += f" Contexts that had to be cut: {', '.join(f'{one.num_cut}' for one in results)}."
    written = all(not item.choices for item in task.items)
    suite = Suite(
        name=task.name,
        version=task.version,
        source="lm-evaluation-harness",
        licence="the data set's own",
        about=about,
        answers="text" if written else "choice",
        headline="acc" if "acc" in task.metrics else task.metrics[0],
        build=build,
    )
    settings = {
        "version": task.version,
        "chat_template": config.chat_template,
        "shots": config.shots,
        "samples": 1,
        "sampling": None,
    }
    return Plan(suite=suite, task=task, sampling=Sampling(), settings=settings)
