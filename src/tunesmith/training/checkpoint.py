"""Checkpoints that are whole or not there, and the one object a run resumes from.

checkpoint-<step>/ holds the adapter in PEFT's layout, parameters.safetensors (exact training copies),
optimizer.safetensors, trainer_state.json, and manifest.json with the size and SHA-256 of each. The folder is written
under another name and renamed, so a crash leaves either the old state or the new one. No pickle anywhere.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tunesmith.errors import CheckpointError, DiskFullError

FORMAT = 1
NAME = re.compile(r"checkpoint-(\d+)$")


@dataclass(slots=True, kw_only=True)
class ResumeState:
    """All that a run needs to go on as if it had never stopped, apart from tensors.

    Randomness and row order are functions of seed and step, so the step is the data cursor. plan: the planner's
    decisions, replayed. recipe: what must not change. extras: whatever a recipe keeps besides. Losses in nats.
    """

    seed: int
    plan: Mapping[str, Any]
    recipe: Mapping[str, Any]
    step: int = 0
    epoch: int = 0
    num_tokens: int = 0
    initial_metric: float | None = None
    last_metric: float | None = None
    best_metric: float | None = None
    best_step: int = 0
    evaluations_without_improvement: int = 0
    saved_step: int = -1
    extras: dict[str, Any] = field(default_factory=dict)

    def advance(self, *, num_tokens: int, epoch: int) -> None:
        """One optimiser step is done."""
        self.step += 1
        self.num_tokens += num_tokens
        self.epoch = epoch

    def judge(self, metric: float) -> bool:
        """Note an evaluation (lower is better); True when it is the best so far."""
        self.last_metric = metric
        if self.best_metric is None or metric < self.best_metric:
            self.best_metric, self.best_step, self.evaluations_without_improvement = metric, self.step, 0
            return True
        self.evaluations_without_improvement += 1
        return False


def save_checkpoint(
    run_folder: Path,
    state: ResumeState,
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    write_adapter: Callable[[Path], None],
) -> Path:
    """Write checkpoint-<step> whole or not at all. Raises DiskFullError with earlier checkpoints untouched."""
    target = run_folder / f"checkpoint-{state.step}"
    work = run_folder / f".{target.name}.tmp-{os.getpid()}"
    for stale in run_folder.glob(".checkpoint-*.tmp-*"):
        shutil.rmtree(stale)
    try:
        with _disk_errors(run_folder, sum(3 * p.numel() * p.element_size() for p in parameters.values())):
            work.mkdir(parents=True)
            write_adapter(work)
            exact = {name: p.detach().cpu().contiguous() for name, p in parameters.items()}
            save_file(_untied(exact), work / "parameters.safetensors")
            save_file(_optimizer_tensors(optimizer, parameters), work / "optimizer.safetensors")
            state.saved_step = state.step
            (work / "trainer_state.json").write_text(json.dumps(asdict(state), indent=2, default=dict))
            files = sorted(path for path in work.rglob("*") if path.is_file())
            listed = {
                path.relative_to(work).as_posix(): {"size_bytes": path.stat().st_size, "sha256": _sha256(path)}
                for path in files
            }
            (work / "manifest.json").write_text(json.dumps({"format": FORMAT, "files": listed}, indent=2))
            for path in [*files, work / "manifest.json", work]:
                _fsync(path)
            if target.exists():
                shutil.rmtree(target)
            work.rename(target)
            _fsync(run_folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def load_checkpoint(
    checkpoint: Path,
    optimizer: torch.optim.Optimizer | None,
    parameters: Mapping[str, nn.Parameter],
    recipe: Mapping[str, Any] | None = None,
) -> ResumeState:
    """Put a checkpoint's tensors back bit for bit and return its state; optimizer None restores parameters only.

    Raises CheckpointError when it is corrupt, or when it was made by another ``recipe`` (naming what changed).
    """
    if (fault := checkpoint_fault(checkpoint)) is not None:
        raise CheckpointError(checkpoint, fault + ".", "Resume from an earlier one, or start anew.")
    state = ResumeState(**json.loads((checkpoint / "trainer_state.json").read_text()))
    if recipe is not None:
        _refuse_other_recipe(checkpoint, state.recipe, json.loads(json.dumps(recipe)))
    saved = load_file(checkpoint / "parameters.safetensors")
    if set(saved) != set(_untied(dict(parameters))):
        raise CheckpointError(checkpoint, "holds other parameters than this recipe trains.", "Start a new run.")
    with torch.no_grad():
        for name, value in saved.items():
            parameters[name].copy_(value)
    if optimizer is not None:
        _restore_optimizer(optimizer, parameters, load_file(checkpoint / "optimizer.safetensors"))
    return state


def checkpoint_fault(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be trusted: a file missing, cut short or changed; None when it is whole."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
    except FileNotFoundError:
        return "manifest.json is missing (half-written)"
    except ValueError:
        return "manifest.json is not JSON"
    if manifest.get("format") != FORMAT:
        return f"its format is {manifest.get('format')}, this version reads {FORMAT}"
    for name, entry in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["size_bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {entry['size_bytes']}"
        if _sha256(path) != entry["sha256"]:
            return f"{name} has changed since it was written"
    return None


def find_latest_valid(run_folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None; corrupt ones are skipped with a warning that says why."""
    for checkpoint in sorted(_checkpoints(run_folder), key=_step_of, reverse=True):
        fault = checkpoint_fault(checkpoint)
        if fault is None:
            return checkpoint
        warnings.warn(f"{checkpoint}: skipped, {fault}.", stacklevel=2)
    return None


def prune(run_folder: Path, save_total_limit: int, keep: set[int]) -> None:
    """Delete the oldest checkpoints beyond the limit, except the steps in ``keep``."""
    others = [c for c in sorted(_checkpoints(run_folder), key=_step_of) if _step_of(c) not in keep]
    for checkpoint in others[: max(0, len(others) - save_total_limit)]:
        # Renamed first, so that a crash in the middle leaves no half checkpoint under a valid name.
        doomed = checkpoint.with_name(f".{checkpoint.name}.tmp-{os.getpid()}")
        checkpoint.rename(doomed)
        shutil.rmtree(doomed)


def _checkpoints(run_folder: Path) -> list[Path]:
    return [path for path in run_folder.glob("checkpoint-*") if path.is_dir() and NAME.match(path.name)]


def _step_of(checkpoint: Path) -> int:
    match = NAME.match(checkpoint.name)
    assert match is not None
    return int(match[1])


def _optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    out = {}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            out[f"{name}|{key}"] = value.detach().cpu().contiguous()
    return out


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], saved: Mapping[str, torch.Tensor]
) -> None:
    optimizer.state.clear()
    for name, value in saved.items():
        parameter_name, _, key = name.rpartition("|")
        parameter = parameters[parameter_name]
        # AdamW keeps its step count on the CPU unless it is fused on a GPU.
        device = parameter.device if key != "step" or parameter.device.type == "cuda" else torch.device("cpu")
        optimizer.state[parameter][key] = value.to(device)


def _untied(tensors: dict[str, Any]) -> dict[str, Any]:
    """Tied weights once: safetensors refuses two names for one storage."""
    seen: set[int] = set()
    return {n: t for n, t in tensors.items() if not (t.data_ptr() in seen or seen.add(t.data_ptr()))}  # type: ignore[func-returns-value]


def _refuse_other_recipe(checkpoint: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    changed = [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]
    if changed:
        listed = ", ".join(f"{key} ({theirs.get(key)!r} -> {ours.get(key)!r})" for key in changed)
        raise CheckpointError(
            checkpoint, f"was made by another recipe: {listed}.", "Set these back, or start a new run."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _disk_errors(folder: Path, need_bytes: int) -> Iterator[None]:
    """Turn 'no space left' into an error that says where and how much; safetensors hides it in its own type."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or "No space left" in str(error) or "File too large" in str(error):
            raise DiskFullError(
                folder,
                f"no space left for a checkpoint of about {need_bytes / 1e6:.0f} MB; earlier ones are untouched.",
                "Free some space or lower save_total_limit, then set resume_from_checkpoint: auto.",
            ) from None
        raise
