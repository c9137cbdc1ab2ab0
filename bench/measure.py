"""The one measuring stick both sides use: step clock, peak memory, cold start, GEMM probe.

Runs in our environment and in the peers' (torch only, imported late so that its import counts as cold start).
``python bench/measure.py`` prints the GEMM probe as one JSON line.
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

PROBE_SHAPE = (1024, 576, 1536)
TURNS_VARIABLE = "BENCH_TURNS"


def seconds_since_process_start() -> float:
    """Age of this process from the kernel's books, so that interpreter start and imports are included."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def peak_rss_bytes() -> int:
    """The highest resident set of this process so far (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM line.")


class StepClock:
    """Age of the process at the end of every optimiser step, through torch's global hook: the same on both sides.

    Where the environment names a folder of turns, the process waits after each step until it is its turn again.
    """

    def __init__(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.step_ends_seconds: list[float] = []
        self.step_begins_seconds: list[float] = []
        folder = os.environ.get(TURNS_VARIABLE)
        self._turns = Path(folder) if folder else None
        register_optimizer_step_post_hook(self._note)

    def _note(self, *_: Any) -> None:
        self.step_ends_seconds.append(seconds_since_process_start())
        if self._turns is not None:
            done = len(self.step_ends_seconds)
            (self._turns / f"done-{done}").touch()
            # Nothing of torch runs while a process waits; its threads have gone to sleep by then.
            while not (self._turns / f"go-{done + 1}").exists():
                time.sleep(0.01)
        self.step_begins_seconds.append(seconds_since_process_start())

    def turns(self) -> dict[str, list[float]]:
        """Seconds of each step after the first, without what was waited between them."""
        pairs = zip(self.step_begins_seconds, self.step_ends_seconds[1:], strict=False)
        return {"step_seconds": [round(end - begin, 3) for begin, end in pairs]}


def summary(step_ends_seconds: list[float], tokens_per_step: list[int], skip_steps: int) -> dict[str, Any]:
    """Cold start (process start to the end of step 1) and steady state (the steps after ``skip_steps``) apart."""
    if len(step_ends_seconds) != len(tokens_per_step):
        raise ValueError(f"{len(step_ends_seconds)} steps were timed but {len(tokens_per_step)} were counted.")
    if len(step_ends_seconds) <= skip_steps:
        raise ValueError(f"A steady state needs more than {skip_steps} steps, not {len(step_ends_seconds)}.")
    steady_seconds = step_ends_seconds[-1] - step_ends_seconds[skip_steps - 1]
    steady_tokens = sum(tokens_per_step[skip_steps:])
    return {
        "num_steps": len(step_ends_seconds),
        "tokens": sum(tokens_per_step),
        "tokens_per_step": tokens_per_step,
        "step_ends_seconds": [round(seconds, 3) for seconds in step_ends_seconds],
        "cold_start_seconds": round(step_ends_seconds[0], 2),
        "steady_seconds": round(steady_seconds, 2),
        "steady_tokens_per_second": round(steady_tokens / steady_seconds, 1),
        "peak_rss_bytes": peak_rss_bytes(),
    }


def gemm_gflops(dtype_name: str, seconds: float = 0.5) -> float:
    """GFLOP/s of one linear layer at the shape most of this model's work has (tokens x 576 -> 1536)."""
    import torch

    rows, inner, columns = PROBE_SHAPE
    dtype = getattr(torch, dtype_name)
    x, weight = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)
    for _ in range(3):
        torch.nn.functional.linear(x, weight)
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        torch.nn.functional.linear(x, weight)
        calls += 1
    return 2 * rows * inner * columns * calls / (time.perf_counter() - start) / 1e9


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    cpu = Path("/proc/cpuinfo").read_text()
    fields = dict(line.split(":", 1) for line in cpu.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(fields.get("flags", "").split())
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": fields.get("model name", platform.processor() or "unknown"),
        "cores": os.cpu_count(),
        "instructions": [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags],
        "memory_gib": round(memory_kib / 2**20, 1),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    print(json.dumps({name: round(gemm_gflops(name), 1) for name in ("bfloat16", "float32")}))
