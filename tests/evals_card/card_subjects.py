"""Models made of a function: who asks for a likelihood gets a number of it."""

from __future__ import annotations

import atexit
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conftest import shared_data

from tunesmith.evals.card.toxicity import open_instrument
from tunesmith.evals.run import TaskResult, run_task
from tunesmith.evals.subject import Subject
from tunesmith.evals.suite import SuiteConfig
from tunesmith.evals.task import Item, Task
from tunesmith.records import Likelihood, Message
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Written

# The item's messages and one of its choices -> nats a byte.
Rate = Callable[[Sequence[Message], str], float]


class Made:
    """A writer and a likelihood model in one."""

    def __init__(self, name: str, rate: Rate, text: Callable[[Sequence[Message]], str] = lambda messages: "") -> None:
        self.name, self.rate, self.text = name, rate, text

    @property
    def identity(self) -> Mapping[str, str]:
        return {"model": self.name}

    def score(self, asked: Sequence[Any]) -> list[tuple[Likelihood, ...]]:
        return [
            tuple(
                Likelihood(
                    logprob=self.rate(messages, words) * len(words.encode()), num_tokens=len(words), greedy=False
                )
                for words in continuations
            )
            for messages, continuations in asked
        ]

    def write(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[tuple[int, Written]]:
        for i, one in enumerate(asked):
            yield i, Written(text=self.text(one.messages), stop_reason="end_of_turn")


def subject(name: str, rate: Rate, text: Callable[[Sequence[Message]], str] = lambda messages: "") -> Subject:
    made = Made(name, rate, text)
    return Subject(label=name, writer=made, likelihood=made)


def random_rate(seed: int) -> Rate:
    """Nats a byte that depend on the words and on nothing they mean."""

    def rate(messages: Sequence[Message], words: str) -> float:
        text = f"{seed} {[m.content for m in messages]} {words}"
        return -1 - int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32

    return rate


def knowing(task: Task, wanted: Callable[[Item], str]) -> Rate:
    """Nats a byte of a model that prefers one answer of every item, whatever its length."""
    chosen = {(tuple(item.messages), item.choices): wanted(item) for item in task.items}
    by_messages: dict[tuple[Message, ...], set[str]] = {}
    for (messages, _), words in chosen.items():
        by_messages.setdefault(messages, set()).add(words)

    def rate(messages: Sequence[Message], words: str) -> float:
        return -1e-3 if words in by_messages[tuple(messages)] else -5.0

    return rate


@functools.cache
def trained_classifier() -> Path:
    """The card's classifier, trained once for all tests; they work on copies of the file."""
    folder = Path(tempfile.mkdtemp(prefix="card-classifier"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    data = SuiteConfig(data_dir=str(shared_data("hate_offensive/tweets.jsonl").parents[1]))
    open_instrument(data, folder / "toxicity.npz")
    return folder / "toxicity.npz"


def run(task: Task, who: Subject, folder: Path) -> TaskResult:
    return run_task(task, who, Sampling(max_new_tokens=20), folder / "results.jsonl")
