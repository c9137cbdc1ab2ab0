"""Run one side as a process of its own: same environment variables, a GEMM probe before and after, a log on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from settings import BATCH_SIZE_ROWS, MAX_LENGTH_TOKENS, TUNED_ALLOCATOR, Setting

BENCH_FOLDER = Path(__file__).resolve().parent
# Compilation may take most of it; a setting that needs more is recorded as such. A busy machine may be given more.
TIMEOUT_SECONDS = int(os.environ.get("BENCH_TIMEOUT_SECONDS", "1800"))


@dataclass(frozen=True)
class Rows:
    """A file of rows both sides read, and how many tokens both must count in it."""

    path: Path
    num_rows: int
    tokens: int
    rows_cut: int
    rows_left_out: int


@dataclass(frozen=True)
class Sides:
    """How to start each side: our interpreter (this one), the peers', the model folder, where outputs go."""

    peers_python: Path
    model: str
    model_folder: str
    out: Path

    def prepare_rows(self, name: str, source: Path, num_rows: int, *extra: str, max_length: int) -> Rows:
        """Write ``name`` from the first usable rows of ``source``."""
        path = self.out / name
        command = [sys.executable, "rows.py", "--model", self.model_folder, "--source", str(source)]
        command += ["--output", str(path), "--num-rows", str(num_rows), "--max-length", str(max_length), *extra]
        return Rows(path=path, **run_json(command, {}, self.out / f"{name}.log"))

    def ours(self, rows: Rows, *, tuned_allocator: bool = True, extra: Sequence[str] = ()) -> dict[str, Any]:
        """Our side on these rows."""
        command = [sys.executable, "sft_ours.py", "--model", self.model, "--rows", str(rows.path)]
        command += ["--output-dir", str(self.out / "adapter_ours"), *extra]
        return self._measured(command, "ours", rows, tuned_allocator)

    def trl(
        self, setting: Setting, rows: Rows, *, tuned_allocator: bool = True, extra: Sequence[str] = ()
    ) -> dict[str, Any]:
        """TRL's side on these rows; a packed step takes as many packs as hold about the tokens of eight rows."""
        command = [str(self.peers_python), "sft_peer_trl.py", "--model", self.model_folder, "--rows", str(rows.path)]
        command += ["--output-dir", str(self.out / "adapter_trl"), "--setting", setting.to_json(), *extra]
        if setting.layout == "packing":
            packs = rows.tokens / rows.num_rows * BATCH_SIZE_ROWS / MAX_LENGTH_TOKENS
            command += ["--batch-size", str(max(1, round(packs)))]
        return self._measured(command, "trl", rows, tuned_allocator)

    def _measured(self, command: list[str], name: str, rows: Rows, tuned_allocator: bool) -> dict[str, Any]:
        variables = TUNED_ALLOCATOR if tuned_allocator else {}
        before = self.gemm_probe()
        result = run_json(command, variables, self.out / f"{name}.log")
        if not result.get("diverged") and result["tokens"] != rows.tokens:
            raise SystemExit(f"{name} counted {result['tokens']} tokens in {rows.path.name}, not {rows.tokens}.")
        return {**result, "gemm_before": before, "gemm_after": self.gemm_probe()}

    @cached_property
    def bf16_is_fast(self) -> bool:
        """Whether this processor multiplies bf16 at least as fast as fp32, or only emulates it."""
        probe = self.gemm_probe()
        return probe["bfloat16"] >= probe["float32"]

    def gemm_probe(self) -> dict[str, float]:
        """GFLOP/s in bf16 and fp32 right now: what the machine had to give around a run."""
        return run_json([sys.executable, "measure.py"], {}, self.out / "probe.log")


class ProcessFailed(RuntimeError):
    """A side that ended without its line of results; the log has the reason."""


def child_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a side: ours but for the allocator's settings, offline, and ``variables``."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    return {**inherited, **offline, **variables}


def run_json(command: list[str], variables: Mapping[str, str], log: Path) -> dict[str, Any]:
    """Run a command in bench/ and read the JSON line it ends with. Raises ProcessFailed naming the log."""
    with log.open("a", encoding="utf-8") as errors:
        errors.write(f"\n$ {' '.join(command)}\n")
        errors.flush()
        try:
            done = subprocess.run(
                command,
                check=False,
                env=child_environment(variables),
                cwd=BENCH_FOLDER,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise ProcessFailed(f"no result after {TIMEOUT_SECONDS} s; see {log}.") from None
        errors.write(done.stdout)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise ProcessFailed(f"{Path(command[1]).name} ended with status {done.returncode}; see {log}.")
    result: dict[str, Any] = json.loads(lines[-1])
    return result
