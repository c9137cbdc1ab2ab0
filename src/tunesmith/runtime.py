"""Settings of the process itself that must be made before torch is loaded, and where derived files lie."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

# glibc's mallopt parameters (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8


def tune_process() -> None:
    """Make OpenMP and the allocator fit a shared small machine; what the user has set in the environment stays.

    Threads that wait for each other spin without end by default: beside one other busy process, training ran 7 times
    slower than with a short spin (bench/LOG.md). Tensors are made in one thread and freed in another; one arena keeps
    what the backward pass frees usable for the next forward pass.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Said outright, since tokenizers else warns when a process forks after it has used threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # No library may phone home.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_ARENA_MAX, 1)
            mallopt(M_MMAP_THRESHOLD, 1 << 30)
            mallopt(M_TRIM_THRESHOLD, 1 << 30)
            mallopt(M_TOP_PAD, 64 << 20)


def release_memory() -> None:
    """Give freed heap pages back to the system, holes included (glibc's malloc_trim; nothing elsewhere).

    The allocator is told to keep what it frees, which is fast, but rows of ever other lengths leave holes that add up;
    called between phases and at evaluations, where the pages' return costs little.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def cache_folder() -> Path:
    """$TUNESMITH_CACHE, else the user's cache folder; it may not exist yet."""
    if chosen := os.environ.get("TUNESMITH_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunesmith"
