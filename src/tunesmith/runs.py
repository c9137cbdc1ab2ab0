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
import sys
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import psutil
import yaml

from tunesmith.errors import DiskFullError, NonFiniteLossError, RunError

# Windows has no flock: the process named in the lock file decides there.
if sys.platform != "win32":
    import fcntl

LOCK_FILE, RECORD_FILE, RECIPE_FILE, METRICS_FILE = ".lock", "run.json", "recipe.yaml", "metrics.jsonl"
PACKAGES = ("tunesmith", "torch", "transformers", "peft", "tokenizers", "datasets", "numpy")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What only a model or a training run leaves: a new run beside it would mix two results.
RESULT_PATTERNS = ("checkpoint-*", "adapter_model.*", "model*.safetensors", "pytorch_model*.bin")
# What a run of ours writes, so what overwriting deletes.
OWN_PATTERNS = (
    "checkpoint-*", ".checkpoint-*", "adapter_*", "model*.safetensors", "tunesmith_provenance.json", "loss.png",
    "samples.jsonl", "ppo.png", "frontier.png", "report.html", "winrate.*", "after_training.*", "tensorboard",
    RECIPE_FILE, METRICS_FILE, RECORD_FILE,
)  # fmt: skip


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DiskFullError(path, "no space left to write it.", "Free some space.") from None
        raise


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: temporary sibling, fsync, rename. Raises DiskFullError."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    with _disk_errors(path):
        try:
            with temporary.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def atomic_write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all. Raises DiskFullError."""
    atomic_write_bytes(path, text.encode("utf-8"))


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
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def command_line() -> list[str]:
    """How this process was called; the home folder is written ~, since run.json gets shared."""
    home = str(Path.home())
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return [word.replace(home, "~") if len(home) > 1 else word for word in words]


class Run:
    """One run's folder, held by this process until it is closed; use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._record: dict[str, Any] = {}
        self._metrics = folder / METRICS_FILE
        self._lock: TextIO | None = None

    @classmethod
    def create(cls, output_dir: str | Path, recipe: Mapping[str, Any], *, resume: bool, overwrite: bool = False) -> Run:
        """Take a folder for a run and write recipe.yaml and run.json into it.

        Raises RunError when another process works in it, when it holds a run and neither resume nor overwrite is asked
        for, and when it holds a model that is not a run's; DiskFullError.
        """
        folder = Path(output_dir)
        run = cls(folder)
        try:
            with _disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                run._lock = _take_lock(folder)
        except (RunError, DiskFullError):
            raise
        except OSError as error:
            raise RunError(
                folder, f"cannot be used: {error.strerror or error}.", "Choose another output_dir."
            ) from None
        try:
            run._begin(recipe, resume=resume, overwrite=overwrite)
        except BaseException:
            run.close()
            raise
        return run

    def _begin(self, recipe: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
        used = (self.folder / RECORD_FILE).exists()
        if not resume:
            self._refuse(used, overwrite)
        if used and overwrite and not resume:
            self._clear()
        now = {
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": command_line(),
            "machine": machine_summary(),
        }
        if resume and used:
            earlier = self._read_record()
            # What an earlier end said no longer holds once the run goes on.
            self._record = {key: value for key, value in earlier.items() if key not in ("finished", "result")}
            self._record["resumed"] = [*earlier.get("resumed", []), now]
        else:
            self._record = now
        atomic_write_text(self.folder / RECIPE_FILE, yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True))
        self._write()

    def _refuse(self, used: bool, overwrite: bool) -> None:
        if used and not overwrite:
            raise RunError(
                self.folder,
                "already holds a run.",
                "Choose another output_dir, resume_from_checkpoint=auto to go on, or overwrite_output_dir=true.",
            )
        foreign = [] if used else sorted(path.name for name in RESULT_PATTERNS for path in self.folder.glob(name))
        if foreign:
            raise RunError(
                self.folder,
                f"holds {', '.join(foreign[:3])}, which no run left there.",
                "Choose another output_dir; what is there is never overwritten.",
            )

    def note(self, facts: Mapping[str, Any]) -> None:
        """Add facts to run.json."""
        self._record.update(facts)
        self._write()

    def finish(self, result: Mapping[str, Any]) -> None:
        """Note the result and that the run came to its end."""
        self.note({"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "result": dict(result)})

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl, flushed.

        Raises NonFiniteLossError for a number JSON cannot hold, before anything is written; DiskFullError.
        """
        if bad := [f"{key} is {value}" for key, value in metrics.items() if not math.isfinite(value)]:
            raise NonFiniteLossError(
                f"{self._metrics}: step {step}", f"{', '.join(bad)}.", "Lower learning_rate, and look at the rows."
            )
        with _disk_errors(self._metrics), self._metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **metrics}) + "\n")

    def truncate_metrics(self, after_step: int) -> None:
        """Forget lines beyond a step, since a resumed run writes them again; -1 forgets all."""
        if self._metrics.exists():
            kept = [line for line in read_metrics(self._metrics) if line["step"] <= after_step]
            atomic_write_text(self._metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def close(self) -> None:
        """Let the folder go; a second call does nothing."""
        if self._lock is None:
            return
        if sys.platform == "win32":  # An open file cannot be deleted there.
            self._lock.close()
        # Deleted while it is still held: afterwards it may already be another run's.
        (self.folder / LOCK_FILE).unlink(missing_ok=True)
        self._lock.close()
        self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_record(self) -> dict[str, Any]:
        path = self.folder / RECORD_FILE
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise RunError(path, "is not the record of a run.", "Delete it to resume without it.") from None

    def _write(self) -> None:
        atomic_write_text(self.folder / RECORD_FILE, json.dumps(self._record, indent=2, default=str) + "\n")

    def _clear(self) -> None:
        """Delete what a run writes, and nothing else that may lie in the folder."""
        for path in [path for name in OWN_PATTERNS for path in self.folder.glob(name)]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _take_lock(folder: Path) -> TextIO:
    """Hold folder/.lock with flock, which the kernel lets go when a process dies, however it dies.

    The file names the holder: for the message, for other hosts (a network file system may not share flock), and for
    systems without flock. Raises RunError when it is held.
    """
    path = folder / LOCK_FILE
    while True:
        stream = path.open("a+", encoding="utf-8")
        try:
            held = _held_elsewhere(stream)
            if held is False and not _is_same_file(stream, path):
                stream.close()  # Its holder deleted it between our open and our flock.
                continue
            stream.seek(0)
            holder = _parse_holder(stream.read())
            alive = held if held is not None else psutil.pid_exists(int(holder.get("pid", -1)))
            if alive or holder.get("host", socket.gethostname()) != socket.gethostname():
                raise RunError(
                    folder,
                    f"is in use by process {holder.get('pid', '(unknown)')} on {holder.get('host', 'this host')}.",
                    f"Wait for it, choose another output_dir, or delete {path} if that process is gone.",
                )
            if holder:
                warnings.warn(f"{folder}: taken over from process {holder['pid']}, which is gone.", stacklevel=4)
            stream.seek(0)
            stream.truncate()
            json.dump({"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}, stream)
            stream.flush()
        except BaseException:
            stream.close()
            raise
        return stream


@contextmanager
def hold_file(path: Path) -> Iterator[None]:
    """Hold a file, made where there is none, for the block; a process that dies lets it go.

    Where the system has no flock nothing is held. Raises RunError while another process holds it.
    """
    try:
        stream = path.open("a", encoding="utf-8")
    except OSError as error:
        raise RunError(path, f"cannot be written: {(error.strerror or '').lower()}.", "Choose another path.") from None
    with stream:
        if _held_elsewhere(stream):
            raise RunError(path, "is in use by another process.", "Wait for it, or use another store.")
        yield


def _held_elsewhere(stream: TextIO) -> bool | None:
    """Whether somebody else holds the file; None where that cannot be asked. Takes it when nobody does."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # A file system without locks.
        return None
    return False


def _is_same_file(stream: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _parse_holder(text: str) -> dict[str, Any]:
    """What a lock file says; empty where its writer died before a word was written."""
    try:
        holder = json.loads(text)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) and "pid" in holder else {}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none where nothing was logged.

    A torn last line (its writer was killed) is left out with a warning. Raises RunError for one elsewhere.
    """
    if not path.exists():
        return []
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
