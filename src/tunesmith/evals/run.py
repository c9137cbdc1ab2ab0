"""Run a task against a generator, keep every answer in one append-only file, compare two runs item by item."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import RunError
from tunesmith.evals.task import Item, Task
from tunesmith.records import Message, Verdict
from tunesmith.rollout.generate import Generator, Prompt, Sampling
from tunesmith.stats import Interval, McNemar, bootstrap_paired_difference, exact_mcnemar, wilson_interval
from tunesmith.tokens.render import render_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One item's answer and what the scorer said of it."""

    item: Item
    messages: tuple[Message, ...]
    text: str
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """All answers of one task under one label, in the order of its items."""

    task: Task
    label: str
    answers: tuple[Answer, ...]

    def outcomes(self, metric: str) -> list[bool]:
        """Whether each item passed a 0/1 metric."""
        return [answer.verdict.values[metric] >= 1.0 for answer in self.answers]

    def interval(self, metric: str) -> Interval:
        """Share of items that pass, with its 95 % Wilson interval."""
        outcomes = self.outcomes(metric)
        return wilson_interval(sum(outcomes), len(outcomes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """second minus first on one metric over the same items."""

    metric: str
    difference: Interval
    test: McNemar


def run_task(
    task: Task,
    label: str,
    generator: Generator,
    tokenizer: Any,
    sampling: Sampling,
    results_path: Path,
    *,
    model_digest: str,
    adapter: str | None = None,
) -> TaskResult:
    """Answer and score every item; answers already in the results file are used again.

    The key of an answer is a digest of task, version, item, messages, base, adapter and sampling, so that nothing is
    taken over from other settings.
    """
    adapter_digest = generator.sync(adapter)
    settings = {
        "task": task.name,
        "version": task.version,
        "model": model_digest,
        "adapter": adapter_digest,
        "sampling": sampling.model_dump(),
    }
    messages = [task.solver(item) for item in task.items]
    keys = [_key(settings, item, turns) for item, turns in zip(task.items, messages, strict=True)]
    known = read_results(results_path)
    todo = [i for i, key in enumerate(keys) if key not in known]
    prompts = [Prompt(ids=render_prompt(messages[i], tokenizer), row_id=i) for i in todo]
    with results_path.open("a", encoding="utf-8") as stream:
        for i, rollout in zip(todo, generator.generate(prompts, sampling, adapter), strict=True):
            verdict = task.scorer(task.items[i], rollout.text)
            row = {
                "key": keys[i],
                "label": label,
                "item": task.items[i].id,
                **settings,
                "answer": rollout.text,
                "stop_reason": rollout.stop_reason,
                "values": dict(verdict.values),
                "explanation": verdict.explanation,
            }
            known[keys[i]] = row
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    answers = tuple(
        _answer(task, item, turns, known[key]) for item, turns, key in zip(task.items, messages, keys, strict=True)
    )
    return TaskResult(task=task, label=label, answers=answers)


def _answer(task: Task, item: Item, messages: tuple[Message, ...], row: Mapping[str, Any]) -> Answer:
    # Scored anew: the text is what is kept, and a scorer's mistake must not live on in a file.
    return Answer(item=item, messages=messages, text=row["answer"], verdict=task.scorer(item, row["answer"]))


def _key(settings: Mapping[str, Any], item: Item, messages: Sequence[Message]) -> str:
    said = [(message.role, message.content) for message in messages]
    text = json.dumps([settings, item.id, said], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """key -> row of a results file; a torn last line is left out with a warning, any other damage is an error."""
    if not path.exists():
        return {}
    out: dict[str, dict[str, Any]] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            out[row["key"]] = row
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                raise RunError(f"{path}:{number}", "is not a result.", "Remove the line.") from None
            warnings.warn(f"{path}:{number}: the last line was cut off and is left out.", stacklevel=2)
            path.write_text("".join(f"{kept}\n" for kept in lines[:-1]), encoding="utf-8")
    return out


def compare(first: TaskResult, second: TaskResult, metric: str, seed: int = 0) -> Comparison:
    """Paired comparison of two results. Raises ValueError when they are not over the same items."""
    if [a.item.id for a in first.answers] != [a.item.id for a in second.answers]:
        raise ValueError(f"'{first.label}' and '{second.label}' answered different items")
    a, b = first.outcomes(metric), second.outcomes(metric)
    difference = bootstrap_paired_difference([float(x) for x in a], [float(x) for x in b], seed)
    return Comparison(metric=metric, difference=difference, test=exact_mcnemar(a, b))
