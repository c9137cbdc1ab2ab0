"""Measuring a condition: quality on the items, tokens of a request, milliseconds of one request alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from tunesmith.errors import RunError
from tunesmith.evals.advise.answers import Answers
from tunesmith.evals.advise.conditions import Condition, requests_of
from tunesmith.evals.run import TaskResult, run_task
from tunesmith.evals.subject import Subject
from tunesmith.evals.task import Item, Request, Task
from tunesmith.randomness import permutation
from tunesmith.records import Message
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked
from tunesmith.runs import atomic_write_text

# Messages, or a text, to a number of tokens.
CountPrompt = Callable[[Sequence[Message]], int]
CountText = Callable[[str], int]


class Ledger:
    """What parts of the job took, in seconds, kept in a file: a resumed job knows what the first half of it cost."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = {}
        if path.exists():
            try:
                self.seconds = {str(k): float(v) for k, v in json.loads(path.read_text()).items()}
            except (ValueError, TypeError, AttributeError):
                raise RunError(path, "is not a record of times.", "Delete it; times are then measured again.") from None

    @contextmanager
    def watch(self, name: str) -> Iterator[None]:
        """Add the time of a block to a part's, also where the block does not come to its end."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - began)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a part."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        atomic_write_text(self.path, json.dumps(self.seconds, indent=1) + "\n")

    def minutes(self, *names: str) -> float:
        """What parts took together."""
        return sum(self.seconds.get(name, 0.0) for name in names) / 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A condition on the items. ms: of single requests, one after the other; tokens: means of a request."""

    condition: Condition
    result: TaskResult
    prompt_tokens: float
    answer_tokens: float
    ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return median(self.ms)


def task_of(name: str, items: Sequence[Item], condition: Condition, answers: Answers) -> Task:
    """The condition's task; conditions over the same items share its name, so that they can be compared."""
    return Task(
        name=name,
        version=1,
        items=tuple(items),
        solver=condition.solver,
        scorer=answers.scorer,
        metrics=answers.metrics,
    )


def score(
    name: str, items: Sequence[Item], condition: Condition, answers: Answers, subject: Subject, sampling: Sampling,
    results: Path,
) -> TaskResult:  # fmt: skip
    """Quality alone."""
    return run_task(task_of(name, items, condition, answers), subject, sampling, results)


def tokens_of(
    result: TaskResult, requests: Sequence[Request], count_prompt: CountPrompt, count_text: CountText
) -> tuple[float, float]:
    """(prompt, answer) tokens of a mean request; a request for choices answers with the tokens of all of them."""
    prompts = [count_prompt(request.messages) for request in requests]
    answers = [
        sum(count_text(choice) for choice in request.continuations) if request.continuations else count_text(answer.text)
        for request, answer in zip(requests, result.answers, strict=True)
    ]
    return fmean(prompts), fmean(answers)


def time_requests(
    items: Sequence[Item], condition: Condition, subject: Subject, sampling: Sampling, num_requests: int, seed: int
) -> tuple[float, ...]:
    """Milliseconds of single requests on a seeded sample of the items, retrieval included, one at a time."""
    chosen = [items[i] for i in permutation(len(items), seed, "advise_timing")[:num_requests]]
    out = []
    for item in chosen:
        began = time.perf_counter()
        (request,) = requests_of(condition.solver, [item])
        if request.continuations and subject.likelihood is not None:
            subject.likelihood.score([(request.messages, request.continuations)])
        else:
            list(subject.writer.write([Asked(messages=request.messages, row_id=0)], sampling))
        out.append(1000 * (time.perf_counter() - began))
    return tuple(out)
