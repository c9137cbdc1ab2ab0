"""Settings of the process itself that must be made before torch is loaded, and where derived files lie."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
from pathlib import Path

# Below so many seconds of all cores together the kernel's hundredths say little.
LEAST_CORE_SECONDS = 0.4
# From here on it is said that others are at work.
BUSY_SHARE = 0.25
# glibc's mallopt parameters (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8


def tune_process() -> None:
    """Make OpenMP and the allocator fit a shared small machine; what the user has set in the environment stays.

    Threads that wait for each other spin without end by default: beside one other busy process, training ran 7 times
    slower than with a short spin (bench/LOG.md). Tensors are made in one thread and freed in another; one arena keeps
    what the backward pass frees usable for the next forward pass.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # torch counts the machine's cores, and not what a container may use of them.
    if usable_cores() < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    # Said outright, since tokenizers else warns when a process forks after it has used threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # On processors with AVX-512 bitsandbytes, which PEFT imports, asks for kernels of a hub that nobody uses here.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # No library may phone home.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_ARENA_MAX, 1)
            mallopt(M_MMAP_THRESHOLD, 1 << 30)
            mallopt(M_TRIM_THRESHOLD, 1 << 30)
            mallopt(M_TOP_PAD, 64 << 20)


def usable_cores(control_group: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores this process may use: those it may run on, and no more than its container's share of time.

    Threads are not pinned to them: two programs of one thread each would share the first core.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (control_group / "cpu.max").read_text(encoding="utf-8").split()
        if quota != "max":
            cores = min(cores, int(int(quota) / int(period)))
    return max(1, cores)


class OthersWatch:
    """What other programs take of the machine's cores from now on, by the kernel's books."""

    def __init__(self) -> None:
        self._begin = _core_seconds()

    def share(self) -> float | None:
        """Of all cores since it was made, 0 to 1; None where there are no books, or too few lines in them yet."""
        end = _core_seconds()
        if self._begin is None or end is None:
            return None
        every, busy, own = (after - before for after, before in zip(end, self._begin, strict=True))
        return max(0.0, busy - own) / every if every >= LEAST_CORE_SECONDS else None


def _core_seconds() -> tuple[float, float, float] | None:
    """(of all cores, of those at work, of those at work for this process) so far."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]
        user, nice, system, idle, wait, interrupts, soft, stolen = (int(x) / os.sysconf("SC_CLK_TCK") for x in fields)
        busy = user + nice + system + interrupts + soft
        return busy + idle + wait + stolen, busy, sum(os.times()[:2])
    return None


def thread_notes(num_threads: int, cores: int, share_of_others: float | None) -> list[str]:
    """What is to be said of a process whose threads have to wait: for cores there are not, or for other programs."""
    notes = []
    if num_threads > cores:
        notes.append(
            f"{num_threads} threads on {cores} cores: they wait for each other at every product. Set "
            f"OMP_NUM_THREADS={cores}, or unset it."
        )
    if share_of_others is not None and share_of_others > BUSY_SHARE and num_threads > 1:
        notes.append(
            f"other programs take {share_of_others:.0%} of this machine's cores, and threads that wait for each other "
            "lose more than that; OMP_NUM_THREADS=1 may be faster."
        )
    return notes


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
