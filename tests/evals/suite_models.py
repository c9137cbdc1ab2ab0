"""Models that answer by a rule: at random, alike, or as the gold says; and a subject made of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tunesmith.evals.choice import gold_places
from tunesmith.evals.subject import Subject
from tunesmith.evals.task import Item, Reply, Request, Task
from tunesmith.records import Likelihood, Message
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Written

# An item's choices to their log-likelihoods.
Rule = Callable[[Item], Sequence[float]]


def replies_by(rule: Rule, task: Task) -> list[Reply]:
    """The task's replies where every choice's log-likelihood is the rule's."""

    def generate(requests: Sequence[Request]) -> list[Reply]:
        return [
            Reply(
                request=request,
                text=request.item.target,
                likelihoods=tuple(
                    Likelihood(logprob=float(value), num_tokens=1, greedy=False)
                    for value in (rule(request.item) if request.continuations else ())
                ),
            )
            for request in requests
        ]

    return list(task.solver(task.items, generate))


def values_by(rule: Rule, task: Task) -> dict[str, float]:
    """The mean of each of the task's metrics under a rule."""
    verdicts = [task.scorer(reply.request.item, reply) for reply in replies_by(rule, task)]
    return {metric: float(np.mean([v.values[metric] for v in verdicts])) for metric in task.metrics}


def oracle(item: Item) -> list[float]:
    """The right choices are certain; all others nearly impossible, at any length."""
    gold = gold_places(item)
    return [-1e-6 if i in gold else -1e4 * len(choice.encode()) for i, choice in enumerate(item.choices)]


@dataclass
class FakeModel:
    """Writer and likelihood model in one, that counts what it is asked."""

    answer: Callable[[Sequence[Message]], str] = lambda messages: "yes"
    logprob: Callable[[str], float] = lambda text: -float(len(text))
    asked: list[tuple[Sequence[Message], Sequence[str]]] = field(default_factory=list)

    @property
    def identity(self) -> Mapping[str, str]:
        return {"model": "fake"}

    def write(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[tuple[int, Written]]:
        for index, one in enumerate(asked):
            self.asked.append((one.messages, ()))
            yield index, Written(text=self.answer(one.messages), stop_reason="end_of_turn")

    def score(self, asked: Sequence[tuple[Sequence[Message], Sequence[str]]]) -> list[tuple[Likelihood, ...]]:
        self.asked += asked
        return [
            tuple(Likelihood(logprob=self.logprob(text), num_tokens=1, greedy=False) for text in texts)
            for _, texts in asked
        ]

    @property
    def subject(self) -> Subject:
        return Subject(label="fake", writer=self, likelihood=self)
