"""What the tests of judges share: a server that judges, a model whose likes are known, rows and conversations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chat_server import ChatServer, completion
from conftest import build_model, build_tokenizer

from tunesmith.evals.contests import Contest
from tunesmith.evals.judge import WriterJudge
from tunesmith.records import Likelihood, Message
from tunesmith.rollout.endpoint import Endpoint, EndpointConfig
from tunesmith.rollout.sampling import Sampling

Verdict = Callable[[list[dict[str, str]]], tuple[int, str]]


class JudgeServer(ChatServer):
    """A server that judges: ``verdict(messages)`` gives (status, text), once ``wait`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.verdict: Verdict = lambda messages: (200, "It is fine. [[A]]")
        self.wait = threading.Event()
        self.wait.set()
        self.reply = self._judged

    def _judged(self, messages: list[dict[str, str]]) -> tuple[int, str, bytes]:
        self.wait.wait(5)
        status, text = self.verdict(messages)
        return status, *completion(text)[1:]

    def judge(self, **settings: Any) -> WriterJudge:
        """A judge that asks this server."""
        quick: dict[str, Any] = {"backoff_seconds": 0.01, "max_attempts": 3, "timeout_seconds": 5.0}
        config = EndpointConfig(url=self.url, model="m", **(quick | settings))
        return WriterJudge(Endpoint(config), Sampling(max_new_tokens=64))

    def close(self) -> None:
        self.wait.set()
        super().close()


def roomy_model(folder: Path) -> str:
    """A tiny model whose context holds a judge's question; it reads letter by letter."""
    model = build_model("llama")
    model.config.max_position_embeddings = 8192
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return str(folder)


class KnownLikes:
    """A likelihood model that likes a text by its digits, and likes the place A by ``bias`` nats more than B."""

    identity = {"model": "known", "model_digest": "0"}

    def __init__(self, bias: float = 0.0) -> None:
        self.bias, self.asked = bias, 0

    def score(self, asked: Sequence[tuple[Sequence[Message], Sequence[str]]]) -> list[tuple[Likelihood, ...]]:
        out = []
        for messages, continuations in asked:
            self.asked += 1
            text = messages[-1].content
            a, b = (_digits(text.partition(f"Assistant {letter}:")[2].partition("Assistant B:")[0]) for letter in "AB")
            values = {"[[A]]": 0.1 * a + self.bias, "[[B]]": 0.1 * b, "[[C]]": -5.0}
            out.append(tuple(Likelihood(logprob=values[c] - 9, num_tokens=3, greedy=False) for c in continuations))
        return out


def _digits(text: str) -> int:
    return sum(int(c) for c in text.partition("Which of the two")[0] if c.isdigit())


def talk(answer: str, question: str = "How do I grow basil?") -> tuple[Message, ...]:
    """One question with its answer."""
    return (Message(role="user", content=question), Message(role="assistant", content=answer))


def contest(first: str, second: str, question: str = "q") -> Contest:
    """Two answers to one question."""
    return Contest(question=question, turn=1, labels=("one", "other"), talks=(talk(first), talk(second)))
