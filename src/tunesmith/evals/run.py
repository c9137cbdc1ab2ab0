"""Run a task on a subject, keep every answer in one append-only file, compare two runs item by item."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError
from tunesmith.evals.subject import Subject
from tunesmith.evals.task import Item, Reply, Request, Task
from tunesmith.randomness import derive_seed
from tunesmith.records import Likelihood, Message, Verdict
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked
from tunesmith.stats import (
    Interval,
    McNemar,
    bootstrap_ratio,
    bootstrap_ratio_difference,
    clustered_bootstrap_mean,
    clustered_proportion,
    exact_mcnemar,
    newcombe_paired_difference,
)

# Likelihoods are written in portions of this size: a killed run loses at most one.
_REQUESTS_AT_ONCE = 64
_BLANK = (Likelihood(logprob=0.0, num_tokens=1, greedy=False),)
# Replies there are by now, kept ones included, of those asked for so far.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One item, the reply to it, and what the scorer said of that."""

    item: Item
    reply: Reply
    verdict: Verdict

    @property
    def text(self) -> str:
        """The answer's words; empty where likelihoods were asked for."""
        return self.reply.text

    @property
    def messages(self) -> tuple[Message, ...]:
        """What was asked, shots included."""
        return self.reply.request.messages


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """All answers of one task under one label, in the order of its items."""

    task: Task
    label: str
    answers: tuple[Answer, ...]

    @property
    def num_cut(self) -> int:
        """Answers, every draw by itself, that were cut off at the most tokens allowed."""
        stops = [stop for answer in self.answers for stop in (answer.reply.stop_reason, *answer.reply.sample_stops)]
        return stops.count("length")

    def values(self, metric: str) -> list[float]:
        """One value an item."""
        return [float(answer.verdict.values[metric]) for answer in self.answers]

    def outcomes(self, metric: str) -> list[bool]:
        """Whether each item reached the full value."""
        return [value >= 1.0 for value in self.values(metric)]

    @property
    def groups(self) -> list[int]:
        """A number an item; items of one group have the same."""
        numbers: dict[tuple[str, bool], int] = {}
        keys = [(a.item.id, False) if a.item.group is None else (a.item.group, True) for a in self.answers]
        return [numbers.setdefault(key, len(numbers)) for key in keys]

    def interval(self, metric: str) -> Interval:
        """Mean over the items with its 95 % interval, which knows of groups.

        Wilson's score interval where every value is 0 or 1, else a bootstrap; a ratio's is that of sums over sums.
        """
        if metric in self.task.ratios:
            over, under = self.task.ratios[metric]
            return bootstrap_ratio(self.values(over), self.values(under), seed=0, clusters=self.groups)
        values = self.values(metric)
        if _is_binary(values):
            return clustered_proportion(values, self.groups)
        return clustered_bootstrap_mean(values, self.groups, seed=0)

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
    subject: Subject,
    sampling: Sampling,
    results_path: Path,
    *,
    label: str | None = None,
    on_progress: Progress = lambda done, asked: None,
) -> TaskResult:
    """Answer and score every item; replies already in the results file are used again.

    The key of a reply is a digest of task, version, item, messages, the subject's identity and, for drawn answers, the
    sampling, so that nothing is taken over from other settings. label: instead of the subject's. Raises DataError
    naming the item that cannot be asked, RunError for a results file that is damaged, EndpointError, and ValueError for
    a solver or scorer that breaks its contract.
    """
    label = subject.label if label is None else label
    asking = _Asking(task, subject, sampling, ResultsFile(results_path), label, on_progress)
    replies = task.solver(task.items, asking.generate)
    if [reply.request.item.id for reply in replies] != [item.id for item in task.items]:
        raise ValueError(f"the solver of '{task.name}' did not return one reply an item in their order")
    # Scored anew: the reply is what is kept, and a scorer's mistake must not live on in a file.
    answers = tuple(Answer(item=reply.request.item, reply=reply, verdict=_score(task, reply)) for reply in replies)
    return TaskResult(task=task, label=label, answers=answers)


def unanswered(task: Task, subject: Subject, sampling: Sampling, results_path: Path) -> list[Request]:
    """Requests of a task to which the results file holds no reply; nothing is asked.

    A solver that asks again by what it was replied sees an empty reply in the place of each of them here.
    """
    asking = _Asking(task, subject, sampling, ResultsFile(results_path), subject.label, lambda done, asked: None)
    missing: dict[str, Request] = {}

    def look(requests: Sequence[Request]) -> list[Reply]:
        keys = [asking.key(request) for request in requests]
        missing.update({key: one for key, one in zip(keys, requests, strict=True) if key not in asking.results})
        return [
            Reply(request=request, likelihoods=_BLANK * len(request.continuations))
            if key in missing
            else _from_row(request, asking.results[key])
            for key, request in zip(keys, requests, strict=True)
        ]

    task.solver(task.items, look)
    return list(missing.values())


def compare(first: TaskResult, second: TaskResult, metric: str, seed: int = 0) -> Comparison:
    """Paired comparison of two results: exact McNemar test and 95 % interval of the difference.

    On 0/1 values of single items the interval is Newcombe's; else it is a bootstrap over items or groups of them, and
    the test is the sign test on the same. Raises ValueError when the two are not over the same items of the same task
    version.
    """
    same_task = (first.task.name, first.task.version) == (second.task.name, second.task.version)
    if not same_task or [a.item for a in first.answers] != [a.item for a in second.answers]:
        raise ValueError(f"'{first.label}' and '{second.label}' answered different items")
    groups, grouped = first.groups, len(set(first.groups)) < len(first.answers)
    if metric in first.task.ratios:
        pairs = [[result.values(name) for name in first.task.ratios[metric]] for result in (first, second)]
        difference = bootstrap_ratio_difference(pairs[0], pairs[1], seed, groups)
        one, two = ([a / b if b else math.nan for a, b in zip(over, under, strict=True)] for over, under in pairs)
    else:
        one, two = first.values(metric), second.values(metric)
        if not grouped and _is_binary(one) and _is_binary(two):
            difference = newcombe_paired_difference(first.outcomes(metric), second.outcomes(metric))
        else:
            by_item = [b - a for a, b in zip(one, two, strict=True)]
            difference = clustered_bootstrap_mean(by_item, groups, seed)
    if grouped:
        one, two = _group_means(one, groups), _group_means(two, groups)
    return Comparison(metric=metric, difference=difference, test=exact_mcnemar(one, two))


def _group_means(values: Sequence[float], groups: Sequence[int]) -> list[float]:
    own: dict[int, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        own.setdefault(group, []).append(value)
    # Rounded, since two sums of the same values may differ in their last bit, which is no difference.
    return [round(sum(values) / len(values), 12) for values in own.values()]


class _Asking:
    """Requests to replies through a results file."""

    def __init__(
        self, task: Task, subject: Subject, sampling: Sampling, results: ResultsFile, label: str, progress: Progress
    ) -> None:
        self.task, self.subject, self.sampling, self.results, self.label = task, subject, sampling, results, label
        self.progress, self.num_asked, self.num_done = progress, 0, 0
        self.settings = {"task": task.name, "version": task.version, "subject": dict(subject.identity)}
        if subject.likelihood is not None:
            self.likelihood_settings = {**self.settings, "subject": dict(subject.likelihood.identity)}

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        keys = [self.key(request) for request in requests]
        todo = {key: request for key, request in zip(keys, requests, strict=True) if key not in self.results}
        self.num_asked += len(requests)
        self._tell(len(requests) - len(todo))
        texts = {key: request for key, request in todo.items() if not request.continuations}
        self._write(texts)
        self._score({key: request for key, request in todo.items() if key not in texts})
        return [_from_row(request, self.results[key]) for key, request in zip(keys, requests, strict=True)]

    def _write(self, todo: Mapping[str, Request]) -> None:
        """Have answers drawn. Draws are keyed by the item, not by its place: a subset gets the same answers."""
        keys, requests = list(todo), list(todo.values())
        rows = [
            derive_seed(0, "eval_item", request.item.id, *([request.sample] if request.sample else []))
            for request in requests
        ]
        asked = [Asked(messages=r.messages, row_id=row) for r, row in zip(requests, rows, strict=True)]
        try:
            for index, written in self.subject.writer.write(asked, self.sampling):
                reply = Reply(request=requests[index], text=written.text, stop_reason=written.stop_reason)
                self._keep(keys[index], reply, self.settings, {"sampling": self.sampling.model_dump()})
        except DataError as error:
            names = {f"prompt {row}": request.item.id for row, request in zip(rows, requests, strict=True)}
            raise _of_item(error, names.get(error.place)) from None

    def _score(self, todo: Mapping[str, Request]) -> None:
        likelihood = self.subject.likelihood
        if todo and likelihood is None:
            raise DataError(
                f"task {self.task.name}",
                f"'{self.label}' does not tell how likely given answers are, which this task asks.",
                "Measure a model on this machine, or take tasks that read the answer's text.",
            )
        keys = list(todo)
        for first in range(0, len(keys), _REQUESTS_AT_ONCE):
            portion = keys[first : first + _REQUESTS_AT_ONCE]
            requests = [todo[key] for key in portion]
            assert likelihood is not None
            try:
                scored = likelihood.score([(request.messages, request.continuations) for request in requests])
            except DataError as error:
                names = {f"request:{i}": request.item.id for i, request in enumerate(requests, 1)}
                raise _of_item(error, names.get(error.place)) from None
            for key, request, likelihoods in zip(portion, requests, scored, strict=True):
                self._keep(key, Reply(request=request, likelihoods=likelihoods), self.likelihood_settings, {})

    def _keep(self, key: str, reply: Reply, settings: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        row = {"key": key, "label": self.label, "item": reply.request.item.id, **settings, **more}
        row |= {"answer": reply.text, "stop_reason": reply.stop_reason}
        if reply.likelihoods:
            row["likelihoods"] = [[one.logprob, one.num_tokens, one.greedy] for one in reply.likelihoods]
        self.results.append([row])
        self._tell(1)

    def _tell(self, num_more: int) -> None:
        self.num_done += num_more
        self.progress(self.num_done, self.num_asked)

    def key(self, request: Request) -> str:
        """What a reply is kept under: a digest of all that it depends on."""
        said: list[Any] = [request.item.id, [(message.role, message.content) for message in request.messages]]
        if request.continuations and self.subject.likelihood is not None:
            said += [self.likelihood_settings, request.continuations]
        else:
            said += [self.settings, self.sampling.model_dump(), request.sample]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _of_item(error: DataError, item: str | None) -> DataError:
    return error if item is None else DataError(f"item {item}", error.cause, error.fix)


def _from_row(request: Request, row: Mapping[str, Any]) -> Reply:
    likelihoods = tuple(
        Likelihood(logprob=logprob, num_tokens=num_tokens, greedy=greedy)
        for logprob, num_tokens, greedy in row.get("likelihoods", ())
    )
    return Reply(request=request, text=row["answer"], stop_reason=row["stop_reason"], likelihoods=likelihoods)


def _score(task: Task, reply: Reply) -> Verdict:
    verdict = task.scorer(reply.request.item, reply)
    needed = {*task.metrics, *(name for pair in task.ratios.values() for name in pair)} - set(task.ratios)
    wrong = {name: verdict.values.get(name) for name in needed if not math.isfinite(verdict.values.get(name, math.nan))}
    if wrong:
        raise ValueError(f"the scorer of '{task.name}' must give a finite value a metric, not {wrong}")
    return verdict


def _is_binary(values: Sequence[float]) -> bool:
    return set(values) <= {0.0, 1.0}
