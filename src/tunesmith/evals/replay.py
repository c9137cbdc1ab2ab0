"""An earlier evaluation's folder as a subject: its kept replies are scored anew, nothing is asked.

The replies are keyed by item, words, subject and settings, so a comparison with it is over the same items, prompts and
settings or is refused: an item asked otherwise has another key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError, RunError
from tunesmith.evals.run import TaskResult, run_task, unanswered
from tunesmith.evals.subject import Subject
from tunesmith.evals.task import Task
from tunesmith.records import Likelihood
from tunesmith.rollout.likelihood import Asked as AskedLikelihood
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Written

RESULTS_FILE, FACTS_FILE = "results.jsonl", "eval.json"
# What decides how a suite is asked, as eval.json keeps it a suite.
SETTINGS = ("version", "chat_template", "shots", "samples", "sampling")


def refuse_other(path: Path, asked: Mapping[str, Any], *, overwrite: bool) -> None:
    """Raise RunError where a file of results holds those of another evaluation, unless it may be replaced.

    asked: what the result depends on, as the file keeps it under this name.
    """
    if overwrite or not path.is_file():
        return
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))["asked"]
    except (ValueError, KeyError, TypeError):
        raise RunError(path, "is not the result of an evaluation.", "Choose another --output.") from None
    if differing := sorted(key for key in {*earlier, *asked} if earlier.get(key) != asked.get(key)):
        fix = "Choose another --output, or --overwrite to replace the result; its replies are kept and used again."
        raise RunError(path.parent, f"holds the result of an evaluation with another {', '.join(differing)}.", fix)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """Stands for the model that answered then: the same identities, no voice."""

    identity: Mapping[str, str]

    def write(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[tuple[int, Written]]:
        if asked:
            raise AssertionError("a kept subject is never asked")
        return iter(())

    def score(self, asked: Sequence[AskedLikelihood]) -> list[tuple[Likelihood, ...]]:
        raise AssertionError("a kept subject is never asked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """A finished evaluation: who was measured, how each suite was asked, and where the replies lie."""

    folder: Path
    label: str
    subject: Subject
    suites: Mapping[str, Mapping[str, Any]]

    @classmethod
    def open(cls, folder: Path, label: str) -> Earlier:
        """The first subject of a folder's eval.json, under a label of ours. Raises RunError for another folder."""
        path = folder / FACTS_FILE
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            first = facts["subjects"][0]
            writer, likelihood = _Kept(identity=first["identity"]), first["likelihood_identity"]
            suites = {suite["name"]: {key: suite[key] for key in SETTINGS} for suite in facts["suites"]}
        except FileNotFoundError:
            fix = "Name the output folder of a finished `tunesmith eval`, an adapter's folder, or base."
            raise RunError(folder, f"holds no finished evaluation ({FACTS_FILE}).", fix) from None
        except (ValueError, KeyError, TypeError, IndexError):
            raise RunError(path, "is not the result of an evaluation.", "Evaluate anew into another folder.") from None
        subject = Subject(
            label=label, writer=writer, likelihood=None if likelihood is None else _Kept(identity=likelihood)
        )
        return cls(folder=folder, label=label, subject=subject, suites=suites)

    def result(self, task: Task, sampling: Sampling, settings: Mapping[str, Any]) -> TaskResult:
        """The task's result from the kept replies, scored by today's scorer.

        settings: how the task is asked now (SETTINGS). Raises DataError naming what differs where the folder does not
        hold every reply to exactly these requests.
        """
        place = f"{self.folder}: {task.name}"
        then = self.suites.get(task.name)
        if then is None:
            cause = f"the suite was not measured there, only {', '.join(self.suites)}."
            raise DataError(place, cause, "Compare suites that both measured.")
        if differing := [key for key in SETTINGS if then[key] != settings[key]]:
            told = "; ".join(f"{key} {_short(then[key])} there, {_short(settings[key])} here" for key in differing)
            raise DataError(place, f"was asked with other settings: {told}.", "Measure both with the same settings.")
        missing = unanswered(task, self.subject, sampling, self.folder / RESULTS_FILE)
        if missing:
            items = list(dict.fromkeys(request.item.id for request in missing))
            cause = f"{len(items)} of {len(task.items)} items were not asked there in these words, {items[0]} for one."
            fix = "Measure both on the same rows with the same --limit, --seed and shots; then compare."
            raise DataError(place, cause, fix)
        return run_task(task, self.subject, sampling, self.folder / RESULTS_FILE)


def _short(value: object) -> str:
    return json.dumps(value)
