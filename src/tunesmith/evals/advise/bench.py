"""The bench every condition is measured on: same items, same sampling, one results file, times kept beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

from tunesmith.evals.advise.answers import Answers
from tunesmith.evals.advise.conditions import Condition, requests_of
from tunesmith.evals.advise.ledger import Ledger
from tunesmith.evals.run import TaskResult, run_task
from tunesmith.evals.subject import Subject
from tunesmith.evals.task import Item, Request, Task
from tunesmith.randomness import permutation
from tunesmith.records import Message
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """Numbers of tokens: of messages as a prompt, of a text. ``context``: most tokens the model reads."""

    prompt: Callable[[Sequence[Message]], int]
    text: Callable[[str], int]
    context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A condition on the test items. ms: of single requests, one after the other; tokens: means of a request."""

    condition: Condition
    result: TaskResult
    prompt_tokens: float
    answer_tokens: float
    ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return median(self.ms)


@dataclass(slots=True, kw_only=True)
class Bench:
    """What is needed to measure a condition; ``subject_of`` gives who answers with an adapter, None being the base."""

    subject_of: Callable[[str | None], Subject]
    answers: Answers
    sampling: Sampling
    results: Path
    ledger: Ledger
    counter: Counter
    seed: int
    num_timed: int
    tokens: dict[str, int] = field(default_factory=dict)
    """Part of the job -> tokens of its requests, prompts and answers."""

    def score(self, split: str, items: Sequence[Item], condition: Condition, part: str) -> TaskResult:
        """Quality on a split; what it takes is booked under ``part``."""
        task = Task(
            name=f"advise-{split}",
            version=1,
            items=tuple(items),
            solver=condition.solver,
            scorer=self.answers.scorer,
            metrics=self.answers.metrics,
        )
        return self.run(task, condition, part)

    def run(self, task: Task, condition: Condition, part: str) -> TaskResult:
        """Run a task of any scorer with the condition's adapter."""
        with self.ledger.watch(part):
            result = run_task(
                task, self.subject_of(condition.adapter), self.sampling, self.results, label=condition.name
            )
        prompt, answer = self.tokens_of(result)
        self.tokens[part] = self.tokens.get(part, 0) + round((prompt + answer) * len(task.items))
        return result

    def measure(self, items: Sequence[Item], condition: Condition) -> Measured:
        """Quality, tokens and time of a request on the test items."""
        result = self.score("test", items, condition, f"test: {condition.name}")
        prompt, answer = self.tokens_of(result)
        return Measured(
            condition=condition, result=result, prompt_tokens=prompt, answer_tokens=answer,
            ms=self._time(items, condition),
        )  # fmt: skip

    def tokens_of(self, result: TaskResult) -> tuple[float, float]:
        """(prompt, answer) tokens of a mean request; one for choices answers with the tokens of all of them."""
        requests = [answer.reply.request for answer in result.answers]
        prompts = [self.counter.prompt(request.messages) for request in requests]
        answers = [
            sum(self.counter.text(choice) for choice in request.continuations)
            if request.continuations
            else self.counter.text(answer.text)
            for request, answer in zip(requests, result.answers, strict=True)
        ]
        return fmean(prompts), fmean(answers)

    def fits(self, messages: Sequence[Message]) -> bool:
        """Whether the longest answer still has room behind these messages."""
        room = max([self.sampling.max_new_tokens, *(self.counter.text(choice) + 2 for choice in self.answers.choices)])
        return self.counter.prompt(messages) + room <= self.counter.context

    def _time(self, items: Sequence[Item], condition: Condition) -> tuple[float, ...]:
        """Milliseconds of single requests on a seeded sample, search included; those of an earlier call are kept."""
        subject = self.subject_of(condition.adapter)
        chosen = [items[i] for i in permutation(len(items), self.seed, "advise_timing")[: self.num_timed]]
        out = []
        for item in chosen:
            key = f"request: {condition.name}: {item.id}: {subject.identity.get('adapter_digest', '')[:12]}"
            if key not in self.ledger.seconds:
                began = time.perf_counter()
                (request,) = requests_of(condition.solver, [item])
                self._ask(subject, request)
                self.ledger.add(key, time.perf_counter() - began)
            out.append(1000 * self.ledger.seconds[key])
        return tuple(out)

    def _ask(self, subject: Subject, request: Request) -> None:
        if request.continuations and subject.likelihood is not None:
            subject.likelihood.score([(request.messages, request.continuations)])
        else:
            list(subject.writer.write([Asked(messages=request.messages, row_id=0)], self.sampling))
