"""What the tests of judges share: a server that judges, a model whose likes are known, rows and conversations."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from conftest import build_model, build_tokenizer

from tunesmith.evals.contests import Contest
from tunesmith.evals.judge import WriterJudge
from tunesmith.records import Likelihood, Message
from tunesmith.rollout.endpoint import Endpoint, EndpointConfig
from tunesmith.rollout.sampling import Sampling

Verdict = Callable[[list[dict[str, str]]], tuple[int, str]]


class JudgeServer:
    """An OpenAI-compatible server in a thread; ``verdict(messages)`` gives (status, text)."""

    def __init__(self) -> None:
        self.verdict: Verdict = lambda messages: (200, "It is fine. [[A]]")
        self.bodies: list[dict[str, Any]] = []
        self.wait = threading.Event()
        self.wait.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.bodies.append(body)
                server.wait.wait(5)
                status, text = server.verdict(body["messages"])
                message = {"role": "assistant", "content": text}
                data = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def judge(self, **settings: Any) -> WriterJudge:
        """A judge that asks this server."""
        quick: dict[str, Any] = {"backoff_seconds": 0.01, "max_attempts": 3, "timeout_seconds": 5.0}
        config = EndpointConfig(url=self.url, model="m", **(quick | settings))
        return WriterJudge(Endpoint(config), Sampling(max_new_tokens=64))

    def close(self) -> None:
        self.wait.set()
        self._http.shutdown()
        self._http.server_close()


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
