"""The server of our own models: a batch gives what a request gives alone, faults are told, nobody waits long."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from tunesmith.errors import RunError
from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.records import Message
from tunesmith.rollout.batcher import Answered, Batcher, Job, Piece
from tunesmith.rollout.chat_api import RequestError
from tunesmith.rollout.endpoint import Endpoint, EndpointConfig
from tunesmith.rollout.generate import LocalGenerator, Prompt
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.server import MAX_BODY_BYTES, ModelServer
from tunesmith.rollout.stops import before_stop
from tunesmith.rollout.writer import Asked
from tunesmith.tokens.render import render_prompt

USER = [{"role": "user", "content": "the other one"}]


class Client:
    """One connection a request, so that what the server closes is seen."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.port = int(server.url.rpartition(":")[2].partition("/")[0])

    def send(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body=body, headers=sent)
        answer = connection.getresponse()
        got = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return got

    def chat(self, **fields: Any) -> tuple[int, dict[str, Any]]:
        status, _, body = self.send("POST", "/v1/chat/completions", json.dumps({"messages": USER, **fields}).encode())
        return status, json.loads(body)

    def text(self, **fields: Any) -> str:
        status, said = self.chat(**fields)
        assert status == 200, said
        return str(said["choices"][0]["message"]["content"])

    def events(self, **fields: Any) -> list[dict[str, Any]]:
        body = json.dumps({"messages": USER, "stream": True, **fields}).encode()
        status, headers, sent = self.send("POST", "/v1/chat/completions", body)
        assert status == 200 and headers["Content-Type"] == "text/event-stream"
        lines = [line for line in sent.decode().split("\n\n") if line]
        assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.fixture
def base(load: Callable[..., Any]) -> Any:
    base = load("llama", "float32")
    role = add_adapter(base, "default", AdapterConfig(r=2), seed=1)
    for i, parameter in enumerate(role.parameters.values()):
        drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
        parameter.data += drawn * 0.3
    return base


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def client(base: Any, lines: list[str]) -> Iterator[Client]:
    batcher = Batcher(LocalGenerator(base), max_new_tokens=12)
    server = ModelServer(batcher, {"tuned": "default", "base": None}, port=0, say=lines.append)
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield Client(server)
    server.close()
    thread.join(10)
    assert not thread.is_alive()


def alone(base: Any, adapter: str | None, seed: int, limit: int, temperature: float) -> str:
    ids = render_prompt([Message(role="user", content="the other one")], base.tokenizer_of(adapter))
    sampling = Sampling(max_new_tokens=limit, temperature=temperature)
    return LocalGenerator(base).generate([Prompt(ids=ids, row_id=seed)], sampling, adapter)[0].text


def test_answers_are_the_generators_whatever_they_are_batched_with(client: Client, base: Any, lines: list[str]) -> None:
    asked = [
        {"model": model, "seed": seed, "max_tokens": limit, "temperature": 1.5}
        for seed, (model, limit) in enumerate([("tuned", 9), ("base", 4), ("tuned", 12), ("base", 9), ("tuned", 5)])
    ]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda one: client.text(**one), asked))
    adapters = {"tuned": "default", "base": None}
    assert together == [alone(base, adapters[a["model"]], a["seed"], a["max_tokens"], 1.5) for a in asked]
    assert len(set(together)) == len(asked)
    # All of them, or all but the first, in one call; a request of another temperature is no company.
    assert client.server.batcher.num_calls <= 2
    assert sorted(line.split()[:2] for line in lines) == [["POST", "200"]] * 5
    assert not any("other" in line for line in lines), "a log has no words of a request"


def test_an_answer_says_what_openais_does(client: Client, base: Any) -> None:
    status, said = client.chat(temperature=0, max_completion_tokens=7, presence_penalty=0, user="me", logprobs=False)
    assert status == 200 and said["object"] == "chat.completion" and said["model"] == "tuned"
    (choice,) = said["choices"]
    assert choice["message"]["role"] == "assistant" and choice["finish_reason"] == "length"
    assert choice["message"]["content"] == alone(base, "default", 0, 7, 0)
    prompt = render_prompt([Message(role="user", content="the other one")], base.tokenizer)
    assert said["usage"] == {"prompt_tokens": len(prompt), "completion_tokens": 7, "total_tokens": len(prompt) + 7}
    parts = [{"role": "user", "content": [{"type": "text", "text": "the other"}, {"type": "text", "text": " one"}]}]
    assert client.text(messages=parts, temperature=0, max_tokens=7) == choice["message"]["content"]
    # Without a seed each request draws anew; several answers of one request differ too.
    assert len({client.text(temperature=1.5) for _ in range(3)}) == 3
    _, many = client.chat(temperature=1.5, n=3, seed=4)
    assert len({one["message"]["content"] for one in many["choices"]}) == 3
    assert [one["index"] for one in many["choices"]] == [0, 1, 2]
    status, _, models = client.send("GET", "/v1/models")
    assert [row["id"] for row in json.loads(models)["data"]] == ["tuned", "base"] and status == 200


def test_an_answer_ends_before_a_stop(client: Client, base: Any) -> None:
    whole = client.text(seed=3, temperature=1.5, max_tokens=12)
    stop = whole[4:6]
    status, said = client.chat(seed=3, temperature=1.5, max_tokens=12, stop=["never said", stop])
    assert status == 200
    assert said["choices"][0]["message"]["content"] == whole[: whole.index(stop)]
    assert said["choices"][0]["finish_reason"] == "stop"
    # It ended there, and did not answer on to be cut.
    assert said["usage"]["completion_tokens"] < 12


def test_a_stream_is_the_answer_in_pieces(client: Client) -> None:
    asked = {"seed": 3, "temperature": 1.5, "max_tokens": 12, "model": "base"}
    whole = client.text(**asked)
    events = client.events(**asked, stream_options={"include_usage": True})
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [one["delta"]["content"] for event in events[1:] for one in event["choices"] if "content" in one["delta"]]
    assert "".join(pieces) == whole and len(pieces) > 3
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert events[-1]["choices"] == [] and events[-1]["usage"]["completion_tokens"] == 12
    stop = whole[5:7]
    cut = client.events(**asked, stop=stop)
    said = "".join(one["delta"].get("content", "") for event in cut for one in event["choices"])
    assert said == whole[: whole.index(stop)] and cut[-1]["choices"][0]["finish_reason"] == "stop"
    drawn: dict[int, str] = {}
    for event in client.events(**{**asked, "n": 2}):
        (one,) = event["choices"]
        drawn[one["index"]] = drawn.get(one["index"], "") + one["delta"].get("content", "")
    assert drawn[0] == whole and drawn[1] != whole


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"logprobs": True}, 400, "'logprobs' is not supported here"),
        ({"presence_penalty": 0.5}, 400, "'presence_penalty' is not supported"),
        ({"tools": [{"type": "function"}]}, 400, "'tools' is not supported"),
        ({"temprature": 1}, 400, "temprature: unknown key. Did you mean 'temperature'?"),
        ({"temperature": -1}, 400, "temperature: .*greater than or equal to 0"),
        ({"temperature": float("nan")}, 400, "temperature: .*finite"),
        ({"max_tokens": 0}, 400, "max_tokens: .*greater than or equal to 1"),
        ({"stop": ["a", ""]}, 400, "stop: .*none of them empty"),
        ({"n": 99}, 400, "n: .*less than or equal to 16"),
        ({"messages": []}, 400, "messages: .*at least 1"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages.0.content"),
        ({"messages": [*USER, {"role": "assistant", "content": "x"}]}, 400, "End with a user's message"),
        ({"model": "gpt-9"}, 404, "'gpt-9' is not served. Name one of those served: tuned, base."),
        ({"messages": [*USER, {"role": "user", "content": "\ud800"}]}, 400, "messages.1.content: holds half"),
        ({"max_tokens": 500}, 400, "the model reads 256"),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, 400, "the model reads 256"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_answered_is_told_why(
    client: Client, fields: dict[str, Any], status: int, said: str
) -> None:
    got, body = client.chat(**fields)
    assert got == status and re.search(said, body["error"]["message"]), body
    # The server goes on.
    assert client.chat(max_tokens=1)[0] == 200


def test_what_is_no_request_is_told_too(client: Client) -> None:
    path = "/v1/chat/completions"
    assert client.send("POST", path, b"{nothing")[0] == 400
    assert client.send("POST", path, b"[1]")[0] == 400
    assert client.send("POST", path, b"\xff\xfe")[0] == 400
    assert client.send("POST", path, b"[" * 100_000)[0] == 400
    assert client.send("GET", path)[0] == 405 and client.send("POST", "/v1/models", b"{}")[0] == 405
    assert client.send("GET", "/")[0] == 404 and client.send("PUT", path, b"{}")[0] == 501
    status, headers, body = client.send("POST", path, None, Content_Length=str(MAX_BODY_BYTES + 1))
    assert status == 413 and headers["Connection"] == "close" and b"bytes" in body
    assert client.send("POST", path, None, Transfer_Encoding="chunked")[0] == 411
    assert client.send("POST", path, b"{}", Host="evil.example")[0] == 403
    assert client.send("GET", "/v1/models", Origin="https://evil.example")[0] == 403
    assert client.send("GET", "/v1/models", Origin="null")[0] == 403
    assert client.send("GET", "/v1/models", Origin="http://localhost:3000")[0] == 200
    assert client.send("GET", "/v1/models", Host=f"localhost:{client.port}")[0] == 200


def test_a_key_is_asked_for(client: Client) -> None:
    client.server.key = "s3cret"
    assert client.send("GET", "/v1/models")[0] == 401
    assert client.send("GET", "/v1/models", Authorization="Bearer s3cre")[0] == 401
    for name in ("Bearer", "bearer"):
        assert client.send("GET", "/v1/models", Authorization=f"{name} s3cret")[0] == 200
    for sent in ("s3cret", "Basic s3cret", "Bearer", ""):
        assert client.send("GET", "/v1/models", Authorization=sent)[0] == 401


def test_an_answer_takes_what_the_context_leaves(client: Client) -> None:
    long = [{"role": "user", "content": "x" * 210}]
    _, said = client.chat(messages=long, temperature=1.5, seed=1)
    assert said["usage"]["completion_tokens"] <= 12 and said["usage"]["total_tokens"] <= 256
    # A long prompt with a short answer and a short one with a long answer fit, if not into one call.
    with ThreadPoolExecutor(2) as pool:
        both = pool.map(lambda one: client.chat(**one)[0], [{"messages": long}, {"max_tokens": 200}])
    assert list(both) == [200, 200]


def test_our_endpoint_asks_our_server(client: Client, base: Any) -> None:
    endpoint = Endpoint(EndpointConfig(url=client.server.url, model="base"))
    asked = [Asked(messages=(Message(role="user", content="the other one"),), row_id=i) for i in range(3)]
    written = dict(endpoint.write(asked, Sampling(max_new_tokens=6)))
    assert [written[i].text for i in range(3)] == [alone(base, None, 0, 6, 0)] * 3
    assert written[0].stop_reason == "length" and written[0].details["new_tokens"] == 6


def job(**fields: Any) -> Job:
    return Job(messages=(Message(role="user", content="the"),), adapter=None, **fields)


def test_a_full_queue_a_failing_model_and_an_end(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, may_go, entered = LocalGenerator(base), threading.Event(), threading.Event()
    true = generator.generate_mixed

    def fails(*args: Any) -> Any:
        entered.set()
        assert may_go.wait(10)
        raise ValueError("no memory")

    monkeypatch.setattr(generator, "generate_mixed", fails)
    batcher = Batcher(generator, max_waiting=2)
    first, second, third = job(limit=2), job(limit=2), job(limit=2)
    batcher.submit(first)
    assert entered.wait(10)
    batcher.submit(second)
    batcher.submit(third)
    with pytest.raises(RequestError, match="2 requests are waiting") as full:
        batcher.submit(job())
    assert full.value.status == 429 and full.value.retry_after
    may_go.set()
    said = [one.events.get(timeout=10) for one in (first, second, third)]
    assert all(isinstance(one, RequestError) and one.status == 500 and "no memory" in one.cause for one in said)
    monkeypatch.setattr(generator, "generate_mixed", true)
    fourth = job(limit=2)
    batcher.submit(fourth)
    assert not isinstance(fourth.events.get(timeout=10), RequestError), "the batcher outlived the fault"
    batcher.close()
    with pytest.raises(RequestError, match="stopping"):
        batcher.submit(job())


def test_a_prompt_that_breaks_the_tokenizer_is_told_and_the_next_is_answered(base: Any) -> None:
    batcher = Batcher(LocalGenerator(base))
    broken = Job(messages=(Message(role="user", content="\ud800"),), adapter=None, limit=2)
    sound = job(limit=2)
    batcher.submit(broken)
    batcher.submit(sound)
    said = broken.events.get(timeout=10)
    assert isinstance(said, RequestError) and said.status in (400, 500)
    assert isinstance(sound.events.get(timeout=10), Answered), "the worker outlived it"
    batcher.close()


def test_a_server_that_never_served_can_be_closed(base: Any) -> None:
    server = ModelServer(Batcher(LocalGenerator(base)), {"base": None}, port=0)
    closing = threading.Thread(target=server.close, daemon=True)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()


def test_nobody_is_answered_who_has_gone_and_an_end_is_told(base: Any) -> None:
    generator = LocalGenerator(base)
    batcher = Batcher(generator)
    gone = job(limit=200, in_pieces=True, temperature=1.5)
    batcher.submit(gone)
    gone.events.get(timeout=10)
    gone.gone.set()
    while not isinstance(gone.events.get(timeout=10), Answered):
        pass
    assert generator.tokens.generated < 150
    late = job(limit=200, in_pieces=True, temperature=1.5)
    batcher.submit(late)
    late.events.get(timeout=10)
    batcher.close()
    while isinstance(last := late.events.get(timeout=10), Piece):
        pass
    assert isinstance(last, RequestError) and last.status == 503


def test_a_client_that_goes_away_frees_its_place(client: Client, lines: list[str]) -> None:
    body = json.dumps({"messages": USER, "max_tokens": 200, "temperature": 1.5}).encode()
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:10])
    until = time.monotonic() + 10
    while not lines and time.monotonic() < until:
        time.sleep(0.01)
    assert "went away" in lines[0]
    assert client.chat(max_tokens=1)[0] == 200


def test_a_taken_port_is_told(client: Client) -> None:
    with pytest.raises(RunError, match="cannot be listened on"):
        ModelServer(client.server.batcher, {"base": None}, port=client.port)


def test_stops() -> None:
    assert before_stop("one two three", ("three", "two")) == "one "
    assert before_stop("one", ("two",)) is None and before_stop("one", ()) is None
