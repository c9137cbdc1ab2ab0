"""What an evaluation will take, told before it starts: requests, tokens, and minutes from a probe of a few items."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tunesmith.evals.run import run_task, unanswered
from tunesmith.evals.subject import Subject
from tunesmith.evals.task import Request, Task
from tunesmith.randomness import permutation
from tunesmith.rollout.likelihood import LocalLikelihood
from tunesmith.rollout.local_writer import LocalWriter
from tunesmith.rollout.sampling import Sampling

# Requests whose tokens are counted; of more, so many drawn by chance stand for all.
_COUNTED = 200
# Where the tokenizer is not ours: UTF-8 bytes a token, as English has them in the usual vocabularies.
_BYTES_A_TOKEN = 4
PROBE_ITEMS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is left to do of one task for one subject.

    read_tokens: of prompts and given continuations; generated_tokens: the most there can be. Both are estimates where
    there are many requests, and rough for an endpoint, whose tokenizer is not here.
    """

    num_items: int
    num_requests: int
    read_tokens: int
    generated_tokens: int

    def __add__(self, other: Work) -> Work:
        return Work(
            num_items=self.num_items + other.num_items,
            num_requests=self.num_requests + other.num_requests,
            read_tokens=self.read_tokens + other.read_tokens,
            generated_tokens=self.generated_tokens + other.generated_tokens,
        )


NO_WORK = Work(num_items=0, num_requests=0, read_tokens=0, generated_tokens=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a probe took: seconds a request, and how much longer it could be were every answer as long as allowed."""

    seconds_per_request: float
    stretch: float

    def seconds(self, num_requests: int) -> tuple[float, float]:
        """Expected if the other answers are as long as the probe's, and at most."""
        expected = self.seconds_per_request * num_requests
        return expected, expected * self.stretch


def remaining(task: Task, subject: Subject, sampling: Sampling, results_path: Path) -> Work:
    """What run_task would still ask. Raises DataError for an item that cannot be asked."""
    requests = unanswered(task, subject, sampling, results_path)
    drawn = [requests[i] for i in permutation(len(requests), 0, "eval_estimate")[:_COUNTED]]
    counted = sum(_read_tokens(request, subject) for request in drawn)
    num_texts = sum(not request.continuations for request in requests)
    return Work(
        num_items=len({request.item.id for request in requests}),
        num_requests=len(requests),
        read_tokens=round(counted * len(requests) / max(1, len(drawn))),
        generated_tokens=num_texts * sampling.max_new_tokens,
    )


def _read_tokens(request: Request, subject: Subject) -> int:
    if request.continuations and isinstance(subject.likelihood, LocalLikelihood):
        return subject.likelihood.num_tokens_of([(request.messages, request.continuations)])
    if isinstance(subject.writer, LocalWriter):
        # Draws of one prompt are counted each; the generator reads it once for those it answers together.
        return len(subject.writer.render(request.messages))
    words = [message.content for message in request.messages]
    return sum(len(text.encode()) for text in (*words, *request.continuations)) // _BYTES_A_TOKEN


def probe(
    task: Task, subject: Subject, sampling: Sampling, results_path: Path, *, num_items: int = PROBE_ITEMS
) -> Pace | None:
    """Answer a few items that have no reply yet, and time it; None where none is left.

    Nothing is wasted: the replies are kept and used again. Few answers drawn together take longer each than many, so
    the pace is rather slow than fast.
    """
    missing = unanswered(task, subject, sampling, results_path)
    ids = list(dict.fromkeys(request.item.id for request in missing))[:num_items]
    if not ids:
        return None
    part = replace(task, items=tuple(item for item in task.items if item.id in set(ids)))
    num_requests = len(unanswered(part, subject, sampling, results_path))
    began, before = time.perf_counter(), _generated(subject)
    run_task(part, subject, sampling, results_path)
    seconds = time.perf_counter() - began
    generated = _generated(subject) - before
    most = (
        sum(not request.continuations for request in missing if request.item.id in set(ids)) * sampling.max_new_tokens
    )
    return Pace(seconds_per_request=seconds / num_requests, stretch=max(1.0, most / generated) if generated else 1.0)


def _generated(subject: Subject) -> int:
    return tokens_done([subject])[1]


def tokens_done(subjects: Sequence[Subject]) -> tuple[int, int]:
    """(read, generated) by the models in this process so far; those of an endpoint are not seen here."""
    read, generated = 0, 0
    counts = {id(s.writer.generator): s.writer.generator for s in subjects if isinstance(s.writer, LocalWriter)}
    for generator in counts.values():
        tokens = getattr(generator, "tokens", None)
        if tokens is not None:
            read, generated = read + tokens.prefilled, generated + tokens.generated
    read += sum(s.likelihood.num_tokens for s in subjects if isinstance(s.likelihood, LocalLikelihood))
    return read, generated
