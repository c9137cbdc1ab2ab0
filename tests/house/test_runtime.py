"""Threads: how many there may be, and what is said when they have to wait."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunesmith import runtime
from tunesmith.runtime import OthersWatch, thread_notes, usable_cores


@pytest.mark.parametrize(
    ("text", "most"), [("150000 100000", 1), ("50000 100000", 1), ("max 100000", 10**6), ("", 10**6)]
)
def test_a_containers_share_bounds_the_cores(tmp_path: Path, text: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(text)
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert usable_cores(tmp_path) == max(1, min(own or 1, most))
    assert usable_cores(tmp_path / "missing") == own


def test_a_quota_below_the_cores_sets_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    # A copy, so that nothing of it outlives the test; with a setting that leaves the allocator alone.
    told = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"} | {"MALLOC_ARENA_MAX": "1"}
    monkeypatch.setattr(os, "environ", told)
    monkeypatch.setattr(runtime, "usable_cores", lambda: 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    runtime.tune_process()
    assert "OMP_NUM_THREADS" not in told
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    runtime.tune_process()
    assert told["OMP_NUM_THREADS"] == "3"
    told["OMP_NUM_THREADS"] = "2"
    runtime.tune_process()
    assert told["OMP_NUM_THREADS"] == "2"


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc/stat")
def test_others_at_work_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = os.cpu_count() or 1
    # Other programs may be at work as well, so the share is a lower bound; our own work is no other's.
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        watch = OthersWatch()
        time.sleep(1.0)
        share = watch.share()
    finally:
        busy.kill()
        busy.wait()
    assert share is not None and 0.3 / cores < share <= 1.0
    assert OthersWatch().share() is None
    books = iter([(100.0, 50.0, 20.0), (110.0, 58.0, 27.0)])
    monkeypatch.setattr(runtime, "_core_seconds", lambda: next(books))
    # 8 seconds of work, 7 of them ours, of 10.
    assert OthersWatch().share() == pytest.approx(0.1)


def test_what_is_said_of_threads_that_wait() -> None:
    assert thread_notes(2, 2, 0.1) == [] and thread_notes(1, 2, 0.9) == [] and thread_notes(2, 2, None) == []
    (many,) = thread_notes(8, 2, 0.0)
    assert "8 threads on 2 cores" in many and "OMP_NUM_THREADS=2" in many
    (others,) = thread_notes(2, 2, 0.5)
    assert "50%" in others and "OMP_NUM_THREADS=1" in others


def test_bitsandbytes_asks_nobody_for_its_kernels() -> None:
    runtime.tune_process()
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    assert not logger.isEnabledFor(logging.WARNING) and logger.isEnabledFor(logging.ERROR)
