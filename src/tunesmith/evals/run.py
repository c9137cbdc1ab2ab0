"""Run a task against a generator, keep every answer in one append-only file, compare two runs item by item."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import DataError
from tunesmith.evals.results import ResultsFile
from tunesmith.evals.task import Item, Reply, Request, Task
from tunesmith.randomness import derive_seed
from tunesmith.records import Message, StopReason, Verdict
from tunesmith.rollout.generate import Generator, Prompt, Sampling
from tunesmith.stats import (
    Interval,
    McNemar,
    bootstrap_mean,
    bootstrap_paired_difference,
    exact_mcnemar,
    newcombe_paired_difference,
    wilson_interval,
)
from tunesmith.tokens.render import render_prompt

# Answers are written in portions of this size: a killed run loses at most one.
_REQUESTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One item's answer, the messages it answers, and what the scorer said of it."""

    item: Item
    messages: tuple[Message, ...]
    text: str
    stop_reason: StopReason
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """All answers of one task under one label, in the order of its items."""

    task: Task
    label: str
    answers: tuple[Answer, ...]

    @property
    def num_cut(self) -> int:
        """Answers that were cut off at the most tokens allowed."""
        return sum(answer.stop_reason == "length" for answer in self.answers)

    def values(self, metric: str) -> list[float]:
        """One value in [0, 1] an item."""
        return [float(answer.verdict.values[metric]) for answer in self.answers]

    def outcomes(self, metric: str) -> list[bool]:
        """Whether each item reached the full value."""
        return [value >= 1.0 for value in self.values(metric)]

    def interval(self, metric: str) -> Interval:
        """Mean over the items with its 95 % interval: Wilson's where every value is 0 or 1, else a bootstrap."""
        values = self.values(metric)
        if _is_binary(values):
            return wilson_interval(int(sum(values)), len(values))
        return bootstrap_mean(values, seed=0)

    def intervals(self) -> dict[str, Interval]:
        """Every metric of the task with its mean and 95 % interval."""
        return {metric: self.interval(metric) for metric in self.task.metrics}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The second result minus the first on one metric over the same items."""

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
    taken over from other settings. Raises DataError naming the item that cannot be asked, RunError for a results file
    that is damaged, and ValueError for a solver or scorer that breaks its contract.
    """
    adapter_digest = generator.sync(adapter)
    settings = {
        "task": task.name,
        "version": task.version,
        "model": model_digest,
        "adapter": adapter_digest,
        "sampling": sampling.model_dump(),
    }
    results = ResultsFile(results_path)

    def generate(requests: Sequence[Request]) -> list[Reply]:
        keys = [_key(settings, request) for request in requests]
        todo = {key: request for key, request in zip(keys, requests, strict=True) if key not in results}
        for portion in _portions(list(todo)):
            asked = [todo[key] for key in portion]
            replies = _ask(asked, generator, tokenizer, sampling, adapter, adapter_digest)
            results.append(
                [
                    {"key": key, "label": label, "item": reply.request.item.id, **settings, **_as_row(task, reply)}
                    for key, reply in zip(portion, replies, strict=True)
                ]
            )
        return [_from_row(request, results[key]) for key, request in zip(keys, requests, strict=True)]

    replies = task.solver(task.items, generate)
    if [reply.request.item.id for reply in replies] != [item.id for item in task.items]:
        raise ValueError(f"the solver of '{task.name}' did not return one reply an item in their order")
    return TaskResult(task=task, label=label, answers=tuple(_answer(task, reply) for reply in replies))


def compare(first: TaskResult, second: TaskResult, metric: str, seed: int = 0) -> Comparison:
    """Paired comparison of two results: exact McNemar test and 95 % interval of the difference.

    On 0/1 values the interval is Newcombe's; on graded ones it is a bootstrap and the test is the sign test. Raises
    ValueError when the two are not over the same items of the same task version.
    """
    same_task = (first.task.name, first.task.version) == (second.task.name, second.task.version)
    if not same_task or [a.item for a in first.answers] != [a.item for a in second.answers]:
        raise ValueError(f"'{first.label}' and '{second.label}' answered different items")
    one, two = first.values(metric), second.values(metric)
    if _is_binary(one) and _is_binary(two):
        difference = newcombe_paired_difference(first.outcomes(metric), second.outcomes(metric))
    else:
        difference = bootstrap_paired_difference(one, two, seed)
    return Comparison(metric=metric, difference=difference, test=exact_mcnemar(one, two))


def _ask(
    requests: Sequence[Request],
    generator: Generator,
    tokenizer: Any,
    sampling: Sampling,
    adapter: str | None,
    adapter_digest: str,
) -> list[Reply]:
    # Draws are keyed by the item, not by its place: a subset of the items gets the same answers.
    row_ids = [derive_seed(0, "eval_item", request.item.id) for request in requests]
    prompts = [
        Prompt(ids=_render(request, tokenizer), row_id=row_id)
        for request, row_id in zip(requests, row_ids, strict=True)
    ]
    try:
        rollouts = generator.generate(prompts, sampling, adapter)
    except DataError as error:
        names = {f"prompt {row_id}": request.item.id for request, row_id in zip(requests, row_ids, strict=True)}
        raise DataError(f"item {names.get(error.place, error.place)}", error.cause, error.fix) from None
    if changed := {rollout.adapter_digest for rollout in rollouts} - {adapter_digest}:
        raise ValueError(f"the adapter changed from {adapter_digest} to {sorted(changed)} while it was measured")
    return [
        Reply(request=request, text=rollout.text, stop_reason=rollout.stop_reason)
        for request, rollout in zip(requests, rollouts, strict=True)
    ]


def _render(request: Request, tokenizer: Any) -> NDArray[np.int64]:
    try:
        return render_prompt(request.messages, tokenizer)
    except DataError as error:
        raise DataError(f"item {request.item.id}", error.cause, error.fix) from None


def _as_row(task: Task, reply: Reply) -> dict[str, Any]:
    verdict = _score(task, reply)
    return {
        "answer": reply.text,
        "stop_reason": reply.stop_reason,
        "values": dict(verdict.values),
        "explanation": verdict.explanation,
    }


def _from_row(request: Request, row: Mapping[str, Any]) -> Reply:
    return Reply(request=request, text=row["answer"], stop_reason=row["stop_reason"])


def _answer(task: Task, reply: Reply) -> Answer:
    # Scored anew: the text is what is kept, and a scorer's mistake must not live on in a file.
    return Answer(
        item=reply.request.item,
        messages=reply.request.messages,
        text=reply.text,
        stop_reason=reply.stop_reason,
        verdict=_score(task, reply),
    )


def _score(task: Task, reply: Reply) -> Verdict:
    verdict = task.scorer(reply.request.item, reply.text)
    wrong = {name: verdict.values.get(name) for name in task.metrics if not 0 <= verdict.values.get(name, -1) <= 1}
    if wrong:
        raise ValueError(f"the scorer of '{task.name}' must give a value in [0, 1] a metric, not {wrong}")
    return verdict


def _key(settings: Mapping[str, Any], request: Request) -> str:
    said = [(message.role, message.content) for message in request.messages]
    text = json.dumps([settings, request.item.id, said], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _portions(keys: list[str]) -> list[list[str]]:
    return [keys[i : i + _REQUESTS_AT_ONCE] for i in range(0, len(keys), _REQUESTS_AT_ONCE)]


def _is_binary(values: Sequence[float]) -> bool:
    return set(values) <= {0.0, 1.0}
