"""Processes that may be killed or joined, without the seconds a fresh interpreter needs for torch and transformers.

One server imports them, once a test session; each process is a fork of it. It has computed nothing, so that no thread
is lost in the fork.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["tunesmith.recipes.ppo", "tunesmith.recipes.sft", "transformers.models.llama.modeling_llama", "torch.distributed"]
)


def exit_code_of(function: Callable[..., Any], *args: Any, **environment: str) -> int:
    """Run a module's function in a process of its own; 0, 1 after an exception, -9 after SIGKILL."""
    return exit_codes_of([environment], function, *args)[0]


def exit_codes_of_two_ranks(function: Callable[..., Any], *args: Any) -> list[int]:
    """Run it in two processes that find each other as torchrun's do, by the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return exit_codes_of([{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"], function, *args)


def exit_codes_of(
    environments: Sequence[Mapping[str, str]], function: Callable[..., Any], *args: Any, seconds: float = 240
) -> list[int]:
    processes = [_CONTEXT.Process(target=_run, args=(dict(one), function, args)) for one in environments]
    until = time.monotonic() + seconds
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
        codes = [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert None not in codes, f"still running after {seconds} seconds"
    return [code for code in codes if code is not None]


def _run(environment: Mapping[str, str], function: Callable[..., Any], args: Sequence[Any]) -> None:
    os.environ.update(environment)
    function(*args)
