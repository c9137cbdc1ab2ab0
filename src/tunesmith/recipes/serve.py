"""Serve a base and its adapters to any OpenAI-compatible client: red-team scanners, chat windows, scripts."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tunesmith.errors import ConfigError
from tunesmith.recipes.chat import Session
from tunesmith.rollout.batcher import Batcher
from tunesmith.rollout.sampling import Weights
from tunesmith.rollout.server import ModelServer


def served_names(base: str, adapters: Sequence[str]) -> dict[str, str]:
    """What clients call each model -> the adapter's folder, empty for the base, which comes last.

    An adapter goes by its folder's last name, or by the whole path where another has the same.
    """
    short = [Path(folder).resolve().name for folder in adapters]
    own = Path(base).name
    taken = [*short, own]
    names = {(name if taken.count(name) == 1 else folder): folder for name, folder in zip(short, adapters, strict=True)}
    return {**names, own: ""}


@contextmanager
def serving(
    model: str,
    adapters: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_new_tokens: int = 256,
    weights: Weights = "auto",
    key_env: str = "TUNESMITH_SERVE_KEY",
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[ModelServer]:
    """A server on the models, closed at the end. Raises ModelError, AdapterMismatchError, ConfigError, RunError."""
    key = os.environ.get(key_env, "").strip()
    if key and not (key.isascii() and key.isprintable()):
        raise ConfigError(f"environment variable {key_env}", "does not hold a key.", "Set it to the key alone.")
    session = Session.open_all(model, adapters, weights)
    names = served_names(session.base.resolved.name, list(session.adapters))
    models = {name: session.adapters.get(folder) for name, folder in names.items()}
    batcher = Batcher(session.generator, max_new_tokens=max_new_tokens)
    try:
        server = ModelServer(batcher, models, host=host, port=port, key=key, seed=seed, say=say)
    except BaseException:
        batcher.close()
        raise
    try:
        yield server
    finally:
        server.close()


def serve_until_stopped(server: ModelServer) -> None:
    """Answer until Ctrl-C or SIGTERM."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if in_main else None
    try:
        server.serve()
    except KeyboardInterrupt:
        return
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)


def describe_server(server: ModelServer, key_env: str) -> list[str]:
    """Where it answers, under which names, and what to know before others can reach it."""
    first = next(iter(server.models))
    lines = [f"serving at {server.url}", f"models: {', '.join(server.models)}"]
    if not server.only_here:
        guard = "clients need the key" if server.key else f"anybody there can ask it; export {key_env} to want a key"
        lines.append(f"note: other machines can reach this address, unencrypted; {guard}.")
    lines.append(f"next: tunesmith redteam --target {server.url} --target-model {first}   (Ctrl-C stops the server)")
    return lines
