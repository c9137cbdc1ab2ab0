"""The endpoint's client against a real server in a thread: slow, down, busy, wrong, and well."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tunesmith.errors import ConfigError, EndpointError
from tunesmith.records import Message
from tunesmith.rollout.endpoint import Endpoint, EndpointConfig
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Written

KEY = "sk-very-secret-1"
Reply = tuple[int, dict[str, str], bytes]
JSON = {"Content-Type": "application/json"}


def completion(text: str | None = "Hello", finish: Any = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice], **more}).encode()


OK: Reply = (200, JSON, completion())
BUSY: Reply = (429, JSON, b'{"error": {"message": "too many requests"}}')


class Server:
    """Answers with what it is told, in order, the last for ever; keeps what it was sent."""

    def __init__(self) -> None:
        self.replies: list[Reply | Callable[[BaseHTTPRequestHandler], None]] = [OK]
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.bodies.append(body)
                    server.headers.append(dict(self.headers))
                    server.times.append(time.monotonic())
                    reply = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
                if callable(reply):
                    reply(self)
                    return
                status, headers, data = reply
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("TUNESMITH_API_KEY", KEY)
    server = Server()
    yield server
    server.close()


def endpoint(url: str, **settings: Any) -> Endpoint:
    quick: dict[str, Any] = {"backoff_seconds": 0.01, "max_attempts": 3, "timeout_seconds": 5.0, "num_connections": 1}
    return Endpoint(EndpointConfig(url=url, model="m", **(quick | settings)), seed=7)


def asked(*texts: str) -> list[Asked]:
    return [Asked(messages=(Message(role="user", content=text),), row_id=i) for i, text in enumerate(texts)]


def ask(one: Endpoint, *texts: str) -> list[Written]:
    got = dict(one.write(asked(*(texts or ("Hi",))), Sampling(max_new_tokens=9, temperature=0.5, top_p=0.9)))
    return [got[i] for i in range(len(got))]


def test_a_request_is_what_the_interface_says_and_the_answer_is_read(server: Server) -> None:
    server.replies = [(200, JSON, completion("Ja", "length", model="m-2", usage={"completion_tokens": 9}))]
    assert ask(endpoint(server.url)) == [
        Written(text="Ja", stop_reason="length", details={"new_tokens": 9, "served_model": "m-2"})
    ]
    body = server.bodies[0]
    assert 0 <= body.pop("seed") < 2**31
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
    }
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_the_seed_sent_follows_the_request(server: Server) -> None:
    ask(endpoint(server.url), "a", "b")
    ask(endpoint(server.url), "a", "b")
    seeds = [body["seed"] for body in server.bodies]
    assert seeds[:2] == seeds[2:] and seeds[0] != seeds[1]


def test_withheld_and_empty_answers_are_told_apart(server: Server) -> None:
    server.replies = [(200, JSON, completion(None, "content_filter")), (200, JSON, completion("", None))]
    server.replies.append((200, JSON, completion(None, "length")))
    first, second, third = ask(endpoint(server.url), "a", "b", "c")
    assert (first.text, first.stop_reason) == ("", "content_filter")
    assert (second.text, second.stop_reason) == ("", "end_of_turn")
    # A model that thinks aloud elsewhere, cut off before its answer.
    assert (third.text, third.stop_reason) == ("", "length")


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    data = completion("x" * 500)
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[:100])
    handler.close_connection = True


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


@pytest.mark.parametrize(
    "fault", [BUSY, (500, {}, b""), (503, {}, b"<html>"), (200, JSON, b'{"choi'), (200, JSON, b""), cut_off, hang_up]
)
def test_what_may_pass_is_tried_again(server: Server, fault: Any) -> None:
    server.replies = [fault, OK]
    assert ask(endpoint(server.url))[0].text == "Hello"
    assert len(server.bodies) == 2


HTML = b"<!DOCTYPE html><html><head><title>Log <in></title></head></html>"


@pytest.mark.parametrize(
    ("fault", "tries", "says"),
    [
        (BUSY, 3, r"status 429: too many requests \(after 3 tries\)"),
        ((502, {}, b"<html>bad gateway"), 3, "status 502: a web page"),
        ((500, JSON, b'{"detail": "out of memory"}'), 3, "status 500: out of memory"),
        ((401, JSON, b'{"error": {"message": "bad key"}}'), 1, "TUNESMITH_API_KEY is refused"),
        ((404, JSON, b'{"error": "no model m"}'), 1, "status 404: no model m"),
        ((400, {}, b"too\x1b[31m long\n" * 99), 1, r"status 400: too\\x1b\[31m long"),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), 1, "redirects are not followed"),
        ((200, {"Content-Type": "text/html"}, HTML), 1, "web page titled 'Log <in>'"),
        ((200, JSON, b"\n" + HTML), 1, "a web page"),
        ((200, JSON, b"\xff\xfe garbage"), 3, "not JSON or was cut off"),
        ((200, JSON, b"[" * 100_000), 3, "not JSON or was cut off"),
        ((200, JSON, b""), 3, "answered with nothing"),
        ((200, JSON, b"[1]"), 1, "no chat completion"),
        ((200, JSON, b'{"choices": []}'), 1, r"no choices\[0\].message"),
        ((200, JSON, b'{"choices": [{"message": {"content": 3}}]}'), 1, "no text in"),
        ((200, JSON, completion(None, "tool_calls")), 1, "finish reason tool_calls"),
        ((200, JSON, completion("a", ["stop"])), 1, "finish reason"),
        ((200, JSON, b'{"error": {"message": "overloaded"}}'), 1, "overloaded"),
        (cut_off, 3, "IncompleteRead"),
        (hang_up, 3, "127.0.0.1"),
    ],
)
def test_what_does_not_pass_is_a_clear_error(server: Server, fault: Any, tries: int, says: str) -> None:
    server.replies = [fault]
    with pytest.raises(EndpointError, match=says) as caught:
        ask(endpoint(server.url))
    assert len(server.bodies) == tries
    assert str(caught.value).startswith(f"{server.url}/chat/completions: ")
    assert "\x1b" not in str(caught.value)


def test_the_key_is_nowhere_to_be_read(server: Server) -> None:
    server.replies = [(401, JSON, json.dumps({"error": {"message": f"wrong key {KEY}"}}).encode())]
    one = endpoint(server.url)
    with pytest.raises(EndpointError) as caught:
        ask(one)
    assert "wrong key [key]" in str(caught.value)
    shown = [str(caught.value), repr(one), repr(one.config), repr(one.identity), *one.notes]
    assert not any(KEY in text for text in shown)


@pytest.mark.parametrize("before", range(170, 201, 5))
@pytest.mark.parametrize(("status", "kind"), [(400, "error"), (200, "error"), (200, "title"), (200, "text")])
def test_no_part_of_the_key_is_left_where_a_message_is_cut(server: Server, before: int, status: int, kind: str) -> None:
    quoted = "y" * (before if kind == "error" else before - 130) + KEY
    page = f"<html><title>{quoted}</title>"
    body = {"error": json.dumps({"error": {"message": quoted}}), "title": page, "text": quoted}[kind]
    server.replies = [(status, JSON, body.encode())]
    with pytest.raises(EndpointError) as caught:
        ask(endpoint(server.url))
    assert "yyyy" in str(caught.value)
    assert KEY[:2] not in str(caught.value)


def test_a_redirect_is_not_followed_with_the_key(server: Server) -> None:
    other = Server()
    try:
        server.replies = [(307, {"Location": other.url}, b"")]
        with pytest.raises(EndpointError):
            ask(endpoint(server.url))
        assert other.headers == []
    finally:
        other.close()


def test_retry_after_is_honoured_as_number_and_as_date(server: Server) -> None:
    server.replies = [(429, {"Retry-After": "0.4"}, b""), OK]
    ask(endpoint(server.url))
    assert server.times[1] - server.times[0] >= 0.4
    server.replies = [(503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b""), OK]
    assert ask(endpoint(server.url))[0].text == "Hello"
    server.replies = [(429, {"Retry-After": "soon"}, b""), OK]
    assert ask(endpoint(server.url))[0].text == "Hello"
    server.replies = [(429, {"Retry-After": "3600"}, b"")]
    with pytest.raises(EndpointError, match="asks to wait 3600 s"):
        ask(endpoint(server.url))


def test_waits_double_with_a_jitter_that_is_a_function_of_the_seed() -> None:
    one, same = (endpoint("http://localhost:1", backoff_seconds=1.0, max_wait_seconds=20.0) for _ in range(2))
    waits = [one.wait_seconds(5, attempt) for attempt in range(1, 8)]
    assert waits == [same.wait_seconds(5, attempt) for attempt in range(1, 8)]
    assert all(2 ** (n - 1) / 2 <= wait <= 2 ** (n - 1) for n, wait in enumerate(waits[:5], 1))
    assert max(waits) <= 20
    assert one.wait_seconds(6, 1) != waits[0]
    assert one.wait_seconds(5, 1, retry_after=3.0) == 3.0


def test_a_slow_server_times_out_whether_silent_or_dripping(server: Server) -> None:
    def silent(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(1.0)

    def dripping(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        for _ in range(20):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    for slow in (silent, dripping):
        server.replies = [slow]
        began = time.monotonic()
        with pytest.raises(EndpointError, match=r"within 0\.3 s \(after one try\)"):
            ask(endpoint(server.url, timeout_seconds=0.3, max_attempts=1))
        assert time.monotonic() - began < 0.9


def test_nobody_there(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(EndpointError, match=r"cannot be reached \(connection refused\) \(after 3 tries\)"):
        ask(endpoint(f"http://127.0.0.1:{port}/v1"))


def test_answers_that_came_before_a_fault_are_given(server: Server) -> None:
    server.replies = [OK, OK, (400, {}, b"no")]
    got = []
    with pytest.raises(EndpointError):
        for index, _ in endpoint(server.url).write(asked("a", "b", "c", "d"), Sampling()):
            got.append(index)
    assert got == [0, 1]
    assert len(server.bodies) == 3


def test_several_are_under_way_at_once(server: Server) -> None:
    all_there = threading.Barrier(4, timeout=5)

    def wait_for_the_others(handler: BaseHTTPRequestHandler) -> None:
        all_there.wait()
        data = completion("together")
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    server.replies = [wait_for_the_others]
    assert [one.text for one in ask(endpoint(server.url, num_connections=4), *"abcdefgh")] == ["together"] * 8


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://x/v1", "localhost:8000/v1", "http://", "http://u:p@x/v1", "http://x/v1?key=1",
        "http://x/v1#a", "http://x:99999/v1", "http://x/v 1", "http://x/\r\nHost: y", "http://[::1/v1",
        "http://a..b/v1", f"http://{'a' * 70}.x/v1", "http://x/ü/v1",
    ],
)  # fmt: skip
def test_only_plain_http_addresses_are_taken(url: str) -> None:
    with pytest.raises(ConfigError):
        endpoint(url)


def test_addresses_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    assert endpoint("http://localhost:1/v1/").address == "http://localhost:1/v1/chat/completions"
    assert endpoint("https://x/v1/chat/completions").address == "https://x/v1/chat/completions"
    assert endpoint("http://gpu.lan/v1").notes == []
    monkeypatch.setenv("TUNESMITH_API_KEY", KEY)
    assert "unencrypted" in endpoint("http://gpu.lan/v1").notes[0]
    assert endpoint("http://[::1]:1/v1").notes == endpoint("https://gpu.lan/v1").notes == []
    monkeypatch.setenv("TUNESMITH_API_KEY", "two words\nX-Evil: 1")
    with pytest.raises(ConfigError, match="does not hold a key") as caught:
        endpoint("http://localhost:1/v1")
    assert "Evil" not in str(caught.value)
    with pytest.raises(ConfigError, match="not the name of a variable") as caught:
        endpoint("http://localhost:1/v1", api_key_env=KEY)
    assert KEY not in str(caught.value)
