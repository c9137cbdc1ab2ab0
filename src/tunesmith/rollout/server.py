"""``chat/completions`` over HTTP on our own base and its adapters: standard library only, any OpenAI client asks it.

POST /v1/chat/completions (whole or as a stream) and GET /v1/models. A page in a browser cannot use a server on
loopback: requests that name another host or come from another origin are refused.
"""

from __future__ import annotations

import hmac
import itertools
import json
import queue
import select
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tunesmith.data.check import shown
from tunesmith.errors import ConfigError, RunError
from tunesmith.randomness import derive_seed
from tunesmith.rollout import chat_api
from tunesmith.rollout.batcher import Answered, Batcher, Job, Piece
from tunesmith.rollout.chat_api import ChatRequest, RequestError
from tunesmith.rollout.endpoint import is_loopback

MAX_BODY_BYTES = 4 << 20
# A client that sends nothing for so long is let go, and one that waits is looked after that often.
_SILENCE_SECONDS, _LOOK_SECONDS = 60.0, 0.5
_CHAT, _MODELS = "/v1/chat/completions", "/v1/models"


class ModelServer:
    """Serves named models until ``close``; ``serve`` blocks.

    models: name -> adapter on the base, None for the base itself; the first answers where none is named. key: what a
    client must send as a bearer token, empty for none. say: is told one line a request, without its words. seed: keys
    the seeds of requests that bring none.
    """

    def __init__(
        self,
        batcher: Batcher,
        models: Mapping[str, str | None],
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        key: str = "",
        seed: int = 0,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.batcher, self.models, self.key, self.seed, self.say = batcher, dict(models), key, seed, say
        self.created, self.num_answered = int(time.time()), 0
        self.only_here = is_loopback(host)
        self._number = itertools.count()
        self._busy, self._has_served = 0, False
        self._idle = threading.Condition()
        try:
            self._http = _Http((host, port), self)
        except OSError as error:
            fix = "Take another --port, or 0 for any that is free."
            raise RunError(f"{host}:{port}", f"cannot be listened on ({error.strerror or error}).", fix) from None
        except OverflowError:
            raise ConfigError("--port", f"{port} is no port.", "Take one from 0 to 65535.") from None
        self.url = f"http://{host if ':' not in host else f'[{host}]'}:{self._http.server_port}/v1"

    def serve(self) -> None:
        """Answer requests until ``close`` or an exception such as Ctrl-C."""
        self._has_served = True
        self._http.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stop listening, tell those who wait, and give their connections a moment to hear it."""
        self.batcher.close()
        # Of a server that never began, shutdown would wait for the end for ever.
        if self._has_served:
            self._http.shutdown()
        self._http.server_close()
        with self._idle:
            self._idle.wait_for(lambda: not self._busy, timeout=5)

    def enter(self) -> None:
        """A request begins."""
        with self._idle:
            self._busy += 1

    def leave(self) -> None:
        """A request has ended."""
        with self._idle:
            self._busy -= 1
            self._idle.notify_all()

    def job(self, asked: ChatRequest) -> tuple[str, Job]:
        """(the model's name, the job) of a request. Raises RequestError."""
        name = asked.model or next(iter(self.models))
        if name not in self.models:
            served = ", ".join(self.models)
            fix = f"Name one of those served: {served}."
            raise RequestError(404, f"the model '{name[:80]}' is not served.", fix, code="model_not_found")
        number = next(self._number)
        return name, Job(
            messages=asked.conversation(),
            adapter=self.models[name],
            limit=asked.limit,
            temperature=asked.temperature,
            top_p=asked.top_p,
            top_k=asked.top_k,
            min_p=asked.min_p,
            repetition_penalty=asked.repetition_penalty,
            seed=derive_seed(self.seed, "serve", number) if asked.seed is None else asked.seed,
            num_answers=asked.n,
            stops=asked.stops,
            in_pieces=asked.stream,
        )


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], owner: ModelServer) -> None:
        self.owner = owner
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """As of a plain TCP server: HTTPServer's own would look its name up, which may ask a network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no fault of ours; socketserver would print a traceback for it."""
        self.owner.say(f"{client_address[0]}: the connection broke")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tunesmith", ""
    timeout = _SILENCE_SECONDS
    server: _Http

    def do_GET(self) -> None:
        """The list of models."""
        self._handle({_MODELS: self._models})

    def do_POST(self) -> None:
        """An answer to a conversation."""
        self._handle({_CHAT: self._chat})

    def _handle(self, routes: Mapping[str, Callable[[], None]]) -> None:
        owner, began = self.server.owner, time.monotonic()
        owner.enter()
        self._said = ""
        self._status = 0
        try:
            self._check_caller()
            path = self.path.partition("?")[0].rstrip("/")
            if path not in routes:
                known = path in (_CHAT, _MODELS)
                cause = f"{self.command} is not for {path}." if known else f"there is nothing at '{path[:80]}'."
                raise RequestError(405 if known else 404, cause, f"Use POST {_CHAT} or GET {_MODELS}.")
            routes[path]()
        except RequestError as error:
            self._send_fault(error)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
            self._said += " (the client went away)"
        finally:
            owner.leave()
            owner.say(f"{self.command} {self._status or '-'} {time.monotonic() - began:.2f} s{self._said}")

    def _check_caller(self) -> None:
        """Raises RequestError for a caller without the key, and for a web page that reaches for this machine."""
        owner = self.server.owner
        if owner.only_here:
            for name in ("Host", "Origin"):
                value = self.headers.get(name)
                if value and not is_loopback(_host_in(value if name == "Origin" else f"//{value}")):
                    raise RequestError(403, f"{name} names another machine.", "Ask by 127.0.0.1 or localhost.")
        # The name of a scheme is read in any case (RFC 9110, 11.1).
        scheme, _, sent = self.headers.get("Authorization", "").strip().partition(" ")
        known = scheme.lower() == "bearer" and hmac.compare_digest(sent.strip().encode(), owner.key.encode())
        if owner.key and not known:
            raise RequestError(401, "the key is missing or wrong.", "Send it as a bearer token.")

    def _models(self) -> None:
        self._send(200, chat_api.models_body(list(self.server.owner.models), self.server.owner.created))

    def _chat(self) -> None:
        owner = self.server.owner
        asked = chat_api.read_request(self._body())
        name, job = owner.job(asked)
        owner.batcher.submit(job)
        head = {"id": f"chatcmpl-{derive_seed(owner.seed, 'id', time.time_ns()):016x}", "created": int(time.time())}
        head["model"] = name
        try:
            done = self._stream(asked, job, head) if asked.stream else self._whole(job, head)
        finally:
            job.gone.set()
        owner.num_answered += 1
        self._said = f" {name}: {done.num_prompt_tokens} + {done.num_new_tokens} tokens"

    def _whole(self, job: Job, head: Mapping[str, Any]) -> Answered:
        while isinstance(event := self._event(job), Piece):
            pass
        used = chat_api.usage(event.num_prompt_tokens, event.num_new_tokens)
        body = chat_api.answer_body({**head, "system_fingerprint": event.digest[:16]}, event.answers, used)
        self._send(200, body)
        return event

    def _stream(self, asked: ChatRequest, job: Job, head: Mapping[str, Any]) -> Answered:
        """Send the pieces as they come. An error before the first is a status of its own, a later one an event."""
        event = self._event(job)
        self.close_connection = True
        self._head(200, "text/event-stream", {"Cache-Control": "no-cache", "Connection": "close"})
        for choice in range(asked.n):
            self._event_out(chat_api.chunk_body(head, choice, {"role": "assistant", "content": ""}, None))
        try:
            while isinstance(event, Piece):
                self._event_out(chat_api.chunk_body(head, event.choice, {"content": event.text}, None))
                event = self._event(job)
        except RequestError as error:
            self._event_out(chat_api.error_body(error))
            raise ConnectionAbortedError from None
        for choice, (_, finish) in enumerate(event.answers):
            self._event_out(chat_api.chunk_body(head, choice, {}, finish))
        if asked.stream_options.include_usage:
            used = chat_api.usage(event.num_prompt_tokens, event.num_new_tokens)
            self._event_out(chat_api.usage_chunk(head, used))
        self.wfile.write(b"data: [DONE]\n\n")
        return event

    def _event(self, job: Job) -> Piece | Answered:
        """The next thing said of a job. Raises RequestError, or ConnectionError once the client has gone."""
        while True:
            try:
                event = job.events.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if self._has_gone():
                    raise ConnectionResetError from None
                continue
            if isinstance(event, RequestError):
                raise event
            return event

    def _has_gone(self) -> bool:
        """Whether the client has closed its end; what it may have sent further stays unread."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""

    def _body(self) -> bytes:
        """Raises RequestError for a body of unknown length or beyond the limit, ConnectionError for half of one."""
        length = self.headers.get("Content-Length")
        if length is None:
            raise self._unread(411, "the body's length is not told.", "Send Content-Length; chunks are not read.")
        if not (length.isascii() and length.isdigit()):
            raise self._unread(400, "Content-Length is no number.", "Send the body's bytes.")
        if int(length) > MAX_BODY_BYTES:
            raise self._unread(413, f"the body has {length} bytes, the most is {MAX_BODY_BYTES}.", "Send less.")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionResetError
        return body

    def _unread(self, status: int, cause: str, fix: str) -> RequestError:
        """A fault that leaves the body unread, so that nothing else can be read from this connection."""
        self.close_connection = True
        return RequestError(status, cause, fix)

    def _send_fault(self, error: RequestError) -> None:
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        if self.command == "POST" and error.status in (401, 403, 404, 405) and error.code is None:
            self.close_connection = True
        # What is wrong with a request may quote it.
        self._said = "" if error.status == 400 else f" {shown(error.cause, most=200)}"
        try:
            self._send(error.status, chat_api.error_body(error), headers)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _send(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        closing = {"Connection": "close"} if self.close_connection else {}
        self._head(status, "application/json", {**(headers or {}), **closing, "Content-Length": str(len(data))})
        self.wfile.write(data)

    def _head(self, status: int, kind: str, headers: Mapping[str, str]) -> None:
        self._status = status
        self.send_response(status)
        for name, value in {"Content-Type": kind, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _event_out(self, body: Mapping[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(body).encode() + b"\n\n")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses, in the same form as our own faults."""
        self._said, self.close_connection = "", True
        self._send_fault(RequestError(code, f"{message or 'the request cannot be read'}.", "Send HTTP/1.1."))

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are told by ``say``."""


def _host_in(address: str) -> str:
    """The host of an address; empty where there is none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
