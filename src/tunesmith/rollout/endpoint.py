"""A writer behind an OpenAI-compatible ``chat/completions`` address: standard library only, bounded retries.

What can pass by itself (no connection, a timeout, 408, 409, 429, 5xx, a body that was cut off) is tried again, waiting
longer each time or as long as the server asks; what cannot (a refused key, an unknown model, a web page) is an error at
once. The key comes from an environment variable and is in no message, file or repr.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import os
import queue
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import IO, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from tunesmith.config import Config
from tunesmith.errors import ConfigError, EndpointError
from tunesmith.randomness import generator
from tunesmith.rollout.answers import Unusable, read_answer, said_by_error
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Written

PASSING_STATUS = frozenset({408, 409, 429, 500, 502, 503, 504, 520, 522, 524, 529})
# A request that cannot be taken as it is: too long, filtered, not understood.
REFUSED_STATUS = frozenset({400, 413, 422})
MAX_BODY_BYTES = 8 << 20


class EndpointConfig(Config):
    """Where an endpoint is and how patient we are with it."""

    url: str = Field(min_length=1)
    """Base address as other clients take it, such as http://localhost:8000/v1; /chat/completions is added."""
    model: str = Field(min_length=1)
    """The model's name there."""
    api_key_env: str = "TUNESMITH_API_KEY"
    """Environment variable that holds the key; none is sent when it is not set."""
    timeout_seconds: float = Field(120.0, gt=0)
    """For one answer, from the connection to its last byte."""
    max_attempts: int = Field(6, ge=1, le=20)
    """Tries of one request in all."""
    backoff_seconds: float = Field(1.0, gt=0)
    """Wait before the second try; it doubles with every further one, less a jitter of up to half."""
    max_wait_seconds: float = Field(120.0, gt=0)
    """Longest wait between two tries; a server that asks for more is an error."""
    num_connections: int = Field(4, ge=1, le=64)
    """Requests under way at once."""
    requests_per_minute: int = Field(0, ge=0)
    """Most requests begun in a minute, tries again included, evenly spread; 0: no limit."""
    refused_requests: Literal["error", "withheld"] = "error"
    """What a request is that the server does not take (400, 413, 422): the end of the job, or an answer withheld."""


class _Refused(Exception):
    """A request that the server does not take, whatever the reason."""


class _Pace:
    """Gives out the moments at which requests may begin."""

    def __init__(self, requests_per_minute: int) -> None:
        self._gap = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        """Until this request's turn, or the job stops."""
        if not self._gap:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap
        stop.wait(turn - now)


class _Passing(Exception):
    """A fault that may pass: what to say if it does not, and the wait the server asked for in seconds."""

    def __init__(self, cause: str, fix: str, retry_after: float | None = None) -> None:
        super().__init__(cause)
        self.cause, self.fix, self.retry_after = cause, fix, retry_after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to an address nobody named."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


class Endpoint:
    """Answers by asking a server; ``seed`` keys the jitter of its waits."""

    def __init__(self, config: EndpointConfig, *, seed: int = 0) -> None:
        self.config, self._seed = config, seed
        self.address, host = _address(config.url)
        self._key = _read_key(config.api_key_env)
        self.is_local, self._pace = is_loopback(host), _Pace(config.requests_per_minute)
        proxies = [urllib.request.ProxyHandler({})] if self.is_local else []
        self._opener = urllib.request.build_opener(_NoRedirect, *proxies)
        self.notes: list[str] = []
        if self._key and self.address.startswith("http:") and not self.is_local:
            self.notes.append(f"the key in {config.api_key_env} goes to {host} unencrypted; use https if you can.")

    @property
    def identity(self) -> Mapping[str, str]:
        """Address and model's name, and a digest of both: a server does not tell which weights it holds."""
        digest = hashlib.sha256(f"{self.address} {self.config.model}".encode()).hexdigest()
        return {"model": self.config.model, "endpoint": self.address, "model_digest": digest, "adapter_digest": "none"}

    def write(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[tuple[int, Written]]:
        """(index, answer) as answers arrive. After an error nothing new is asked; what is under way is still given.

        Raises EndpointError.
        """
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, Written] | Exception | None] = queue.SimpleQueue()
        for index in range(len(asked)):
            todo.put(index)
        stop = threading.Event()

        def work() -> None:
            try:
                while not stop.is_set():
                    index = todo.get_nowait()
                    answer = self._answer(asked[index], sampling, stop)
                    if answer is not None:
                        done.put((index, answer))
            except queue.Empty:
                pass
            except Exception as error:
                stop.set()
                done.put(error)
            finally:
                done.put(None)

        num_running = min(self.config.num_connections, len(asked))
        for _ in range(num_running):
            # Daemons: Ctrl-C must not wait until a server that hangs has timed out.
            threading.Thread(target=work, daemon=True).start()
        failure: Exception | None = None
        try:
            while num_running:
                item = done.get()
                if item is None:
                    num_running -= 1
                elif isinstance(item, Exception):
                    failure = failure or item
                else:
                    yield item
        finally:
            stop.set()
        if failure is not None:
            raise failure

    def wait_seconds(self, row_id: int, attempt: int, retry_after: float | None = None) -> float:
        """Wait after the ``attempt``-th try (from 1) of a request: a function of the seed, the request and the try."""
        share = 0.5 + generator(self._seed, "endpoint_wait", row_id, attempt).random() / 2
        own = min(self.config.backoff_seconds * 2.0 ** (attempt - 1), self.config.max_wait_seconds) * float(share)
        return max(own, retry_after or 0.0)

    def _answer(self, asked: Asked, sampling: Sampling, stop: threading.Event) -> Written | None:
        """One request with its tries; None when it was given up because another one failed or the job stops."""
        body = json.dumps(self._payload(asked, sampling)).encode()
        for attempt in range(1, self.config.max_attempts + 1):
            self._pace.wait(stop)
            if stop.is_set():
                return None
            try:
                return self._try(body)
            except _Refused as fault:
                return Written(text="", stop_reason="content_filter", details={"refused": str(fault)})
            except _Passing as fault:
                asked_for = fault.retry_after or 0.0
                if asked_for > self.config.max_wait_seconds:
                    fix = f"Go on later; the longest wait is {self.config.max_wait_seconds:g} s."
                    raise self._error(f"{fault.cause} It asks to wait {asked_for:.0f} s", fix) from None
                if attempt == self.config.max_attempts:
                    tries = "one try" if attempt == 1 else f"{attempt} tries"
                    raise self._error(f"{fault.cause.rstrip('.')} (after {tries})", fault.fix) from None
                if stop.wait(self.wait_seconds(asked.row_id, attempt, fault.retry_after)):
                    return None
        raise AssertionError("the last try returns or raises")

    def _payload(self, asked: Asked, sampling: Sampling) -> dict[str, Any]:
        payload: dict[str, Any] = {
            "model": self.config.model,
            "messages": [{"role": message.role, "content": message.content} for message in asked.messages],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            # Servers take a 32-bit seed.
            "seed": int(generator(sampling.seed, "endpoint_seed", asked.row_id).integers(2**31)),
        }
        if sampling.stop:
            payload["stop"] = list(sampling.stop)
        # Not among OpenAI's fields; servers that know them (vLLM, llama.cpp's) call them so.
        more = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        return payload | {key: told for key, idle in more.items() if (told := getattr(sampling, key)) != idle}

    def _try(self, body: bytes) -> Written:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "tunesmith"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.address, data=body, headers=headers, method="POST")
        deadline = time.monotonic() + self.config.timeout_seconds
        up = "Check that the server runs and that the address is right."
        try:
            with self._opener.open(request, timeout=self.config.timeout_seconds) as response:
                body_sent, kind = _read_body(response, deadline), response.headers.get_content_type()
                return read_answer(body_sent, kind, self._hidden)
        except urllib.error.HTTPError as error:
            with error:
                raise self._of_status(error, deadline) from None
        except Unusable as error:
            if error.may_pass:
                raise _Passing(self._hidden(error.cause), error.fix) from None
            raise self._error(error.cause, error.fix) from None
        except TimeoutError:
            limit = f"gave no whole answer within {self.config.timeout_seconds:g} s"
            raise _Passing(limit, "Raise timeout_seconds, or ask for fewer tokens.") from None
        except http.client.HTTPException as error:
            raise _Passing(f"broke off its answer ({type(error).__name__})", up) from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise _Passing(f"gave no answer within {self.config.timeout_seconds:g} s", up) from None
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise self._error("shows a certificate that is not valid", "Use the name it is made for.") from None
            text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise _Passing(f"cannot be reached ({text.lower()})", up) from None

    def _of_status(self, error: urllib.error.HTTPError, deadline: float) -> Exception:
        """What a status other than 200 means."""
        try:
            text = said_by_error(_read_body(error, deadline), self._hidden)
        except (OSError, http.client.HTTPException, Unusable):
            text = ""
        cause = self._hidden(f"answered with status {error.code}" + (f": {text}" if text else ""))
        if error.code in PASSING_STATUS:
            fix = "Ask for less at once, or go on later." if error.code == 429 else "Look at the server's log."
            return _Passing(f"{cause.rstrip('.')}.", fix, _retry_after(error.headers.get("Retry-After")))
        if error.code in REFUSED_STATUS and self.config.refused_requests == "withheld":
            return _Refused(cause)
        key = "is refused: check it" if self._key else "is not set: export it if the server wants a key"
        fixes = {401: f"The key in {self.config.api_key_env} {key}.", 404: "Check the address and the model's name."}
        fixes[403] = fixes[401]
        if 300 <= error.code < 400:
            return self._error(
                cause, "Name the address it leads to; redirects are not followed, they would get the key."
            )
        return self._error(cause, fixes.get(error.code, "The server does not take such a request: read what it says."))

    def _error(self, cause: str, fix: str) -> EndpointError:
        return EndpointError(self.address, f"{self._hidden(cause).rstrip('.')}.", fix)

    def _hidden(self, text: str) -> str:
        """The text without the key, which a server may quote, as it is or as JSON spells it."""
        if not self._key:
            return text
        return text.replace(self._key, "[key]").replace(json.dumps(self._key)[1:-1], "[key]")


def _read_body(response: Any, deadline: float) -> bytes:
    """The whole body. Raises TimeoutError past the deadline, IncompleteRead where it was cut off."""
    parts, size = [], 0
    while part := response.read1(1 << 16):
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise Unusable(f"sent more than {MAX_BODY_BYTES >> 20} MB", "Check the address.", may_pass=False)
        if time.monotonic() > deadline:
            raise TimeoutError
        parts.append(part)
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(parts)


def _retry_after(value: str | None) -> float | None:
    """Seconds a Retry-After header asks for, given as a number or as a date; None where it is neither."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (when - datetime.now(UTC if when.tzinfo else None)).total_seconds()
    return max(0.0, seconds) if seconds == seconds else None


def _address(url: str) -> tuple[str, str]:
    """The address requests go to and its host. Raises ConfigError for what is not a plain http(s) address."""

    def refuse(cause: str, fix: str = "Write it like http://localhost:8000/v1.") -> ConfigError:
        return ConfigError("endpoint", cause, fix)

    if any(c.isspace() or not c.isprintable() for c in url):
        raise refuse("the address holds white space or control characters.")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise refuse("the address cannot be read.") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise refuse(
            "the address holds a user name, a password, a query or a fragment.",
            "Leave them out; the key comes from an environment variable.",
        )
    if parts.scheme not in ("http", "https") or not host:
        raise refuse(f"'{url}' is not an http or https address.")
    if not parts.path.isascii():
        raise refuse("the path holds other characters than ASCII.", "Write them percent-encoded.")
    try:
        host.encode("idna")
    except UnicodeError:
        raise refuse(f"the host '{host}' is no name of a host.") from None
    path = parts.path.rstrip("/")
    path = path if path.endswith("/chat/completions") else f"{path}/chat/completions"
    return f"{parts.scheme}://{parts.netloc}{path}", host


def is_loopback(host: str) -> bool:
    """Whether an address or name means this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_key(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        # Not repeated: it may well be the key itself.
        raise ConfigError("api_key_env", "is not the name of a variable.", "Export the key and name its variable.")
    key = os.environ.get(name, "").strip()
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(f"environment variable {name}", "does not hold a key.", "Set it to the key alone.")
    return key
