"""What a task will cost, before it is asked: its solver runs against nobody, and the tokens are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evals.task import Reply, Request, Task
from tunesmith.records import Likelihood


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Requests, tokens that are read, and tokens that are written at most."""

    requests: int = 0
    read_tokens: int = 0
    written_tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            requests=self.requests + other.requests,
            read_tokens=self.read_tokens + other.read_tokens,
            written_tokens=self.written_tokens + other.written_tokens,
        )

    def seconds(self, read_rate: float, write_rate: float) -> float:
        """Time at so many tokens a second read and written."""
        return self.read_tokens / read_rate + self.written_tokens / write_rate


def cost_of(task: Task, max_new_tokens: int, tokenizer: Any) -> Cost:
    """The cost of one model's answers; the few tokens a chat template adds are not counted.

    A solver that asks again depending on what it hears is counted as if nothing was answered.
    """
    asked: list[Request] = []

    def hear_nothing(requests: Sequence[Request]) -> list[Reply]:
        asked.extend(requests)
        nothing = Likelihood(logprob=0.0, num_tokens=1, greedy=False)
        return [Reply(request=request, likelihoods=(nothing,) * len(request.continuations)) for request in requests]

    task.solver(task.items, hear_nothing)
    texts = ["\n".join(message.content for message in request.messages) for request in asked]
    continuations = [text for request in asked for text in request.continuations]
    read = sum(
        len(ids) for ids in tokenizer([*texts, *continuations], add_special_tokens=False, verbose=False)["input_ids"]
    )
    drawn = sum(not request.continuations for request in asked)
    return Cost(requests=len(asked), read_tokens=read, written_tokens=drawn * max_new_tokens)
