"""The run folder: resolved recipe, versions, digests, planner decisions, metrics; refuses a folder in use."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import shutil
import socket
import tempfile
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import yaml

from tunesmith.errors import DiskFullError, RunError

LOCK_FILE = ".lock"
METRICS_FILE = "metrics.jsonl"
PACKAGES = ("tunesmith", "torch", "transformers", "peft", "tokenizers", "datasets", "numpy")


def atomic_write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename. Raises DiskFullError."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFullError(path, "no space left to write it.", "Free some space.") from None
        raise


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def machine_summary() -> dict[str, Any]:
    """What the numbers of a run were measured on: processor, cores, memory, system, versions."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class Run:
    """One run's folder, held by this process until it is closed; use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._record: dict[str, Any] = {}
        self._metrics = folder / METRICS_FILE

    @classmethod
    def create(cls, output_dir: str | Path, recipe: Mapping[str, Any], *, resume: bool, overwrite: bool = False) -> Run:
        """Take a folder for a run and write recipe.yaml and run.json into it.

        Raises RunError when another process works in it, or when it holds a run and neither resume nor overwrite is
        asked for.
        """
        folder = Path(output_dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(folder, f"cannot be made: {error.strerror}.", "Choose another output_dir.") from None
        run = cls(folder)
        run._lock()
        try:
            used = (folder / "run.json").exists()
            if used and not resume and not overwrite:
                raise RunError(
                    folder,
                    "already holds a run.",
                    "Choose another output_dir, resume_from_checkpoint=auto to go on, or overwrite_output_dir=true.",
                )
            if used and overwrite and not resume:
                run._clear()
            run._record = {"created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": machine_summary()}
            if resume and used:
                run._record = {**json.loads((folder / "run.json").read_text()), "resumed": run._record}
            atomic_write_text(folder / "recipe.yaml", yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True))
            run._write()
        except BaseException:
            run.close()
            raise
        return run

    def note(self, facts: Mapping[str, Any]) -> None:
        """Add facts to run.json."""
        self._record.update(facts)
        self._write()

    def finish(self, result: Mapping[str, Any]) -> None:
        """Note the result and that the run came to its end."""
        self.note({"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "result": dict(result)})

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl, flushed; raises ValueError for a number JSON cannot hold."""
        if bad := [key for key, value in metrics.items() if not math.isfinite(value)]:
            raise ValueError(f"metrics {bad} of step {step} are not finite")
        with self._metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **metrics}) + "\n")

    def truncate_metrics(self, after_step: int) -> None:
        """Forget lines beyond a step: a resumed run writes them again."""
        if self._metrics.exists():
            kept = [line for line in read_metrics(self._metrics) if line["step"] <= after_step]
            atomic_write_text(self._metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def close(self) -> None:
        """Let the folder go."""
        (self.folder / LOCK_FILE).unlink(missing_ok=True)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self) -> None:
        atomic_write_text(self.folder / "run.json", json.dumps(self._record, indent=2, default=str) + "\n")

    def _lock(self) -> None:
        path = self.folder / LOCK_FILE
        me = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        try:
            with path.open("x") as stream:
                stream.write(json.dumps(me))
            return
        except FileExistsError:
            pass
        try:
            holder = json.loads(path.read_text())
        except ValueError:
            holder = {}
        alive = holder.get("host") != me["host"] or psutil.pid_exists(int(holder.get("pid", -1)))
        if holder and alive:
            raise RunError(
                self.folder,
                f"is in use by process {holder.get('pid')} on {holder.get('host')}.",
                f"Wait for it, choose another output_dir, or delete {path} if that process is gone.",
            )
        warnings.warn(f"{self.folder}: taking over from process {holder.get('pid')}, which is gone.", stacklevel=3)
        atomic_write_text(path, json.dumps(me))

    def _clear(self) -> None:
        """Delete what a run writes, and nothing else that may lie in the folder."""
        for pattern in (
            "checkpoint-*",
            ".checkpoint-*",
            "adapter_*",
            "model*.safetensors",
            "tunesmith_provenance.json",
        ):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in ("run.json", "recipe.yaml", METRICS_FILE, "loss.png"):
            (self.folder / name).unlink(missing_ok=True)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a torn last line (killed writer) is left out with a warning."""
    lines = path.read_text(encoding="utf-8").splitlines()
    out = []
    for number, line in enumerate(lines, 1):
        try:
            out.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise RunError(f"{path}:{number}", "is not JSON.", "Remove the line.") from None
            warnings.warn(f"{path}:{number}: the last line was cut off and is left out.", stacklevel=2)
    return out
