"""Checkpoints that are whole or not there, and the one object a run resumes from.

checkpoint-<step>/ holds the adapter in PEFT's layout, parameters.safetensors (exact training copies),
optimizer.safetensors, trainer_state.json, and manifest.json with the size and SHA-256 of each. The folder is written
under another name and renamed, so a crash leaves either the old state or the new one. No pickle anywhere.

Hidden siblings are never resumed from: .checkpoint-<step>.tmp-<pid> is being written or deleted, and
.checkpoint-<step>.replaced is what the next save of the same step pushed aside.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tunesmith.errors import CheckpointError, DiskFullError
from tunesmith.runs import file_digest

FORMAT = 1
NAME = re.compile(r"checkpoint-(\d+)$")
STATE_FILE, PARAMETERS_FILE, OPTIMIZER_FILE = "trainer_state.json", "parameters.safetensors", "optimizer.safetensors"
MANIFEST_FILE = "manifest.json"
# How safetensors, which has an error type of its own, spells an operating system's error.
OS_ERROR = re.compile(r"\(os error (\d+)\)")


@dataclass(slots=True, kw_only=True)
class ResumeState:
    """All that a run needs to go on as if it had never stopped, apart from tensors.

    Randomness and row order are functions of seed and step, so the step is the data cursor. plan: the planner's
    decisions, replayed. recipe: what must not change. extras: whatever a recipe keeps besides. These three hold what
    JSON can: string keys, lists rather than tuples, no tensors. Losses in nats.
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
        """Note an evaluation (lower is better); True when it is the best so far, which NaN or infinity never is."""
        self.last_metric = metric
        if math.isfinite(metric) and (self.best_metric is None or metric < self.best_metric):
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
    """Write checkpoint-<step> whole or not at all, replacing one of the same step.

    Leftovers of interrupted saves, and corrupt checkpoints of later steps (a resume went back behind them), are removed
    with a warning. Raises DiskFullError with earlier checkpoints untouched.
    """
    target = run_folder / f"checkpoint-{state.step}"
    work = run_folder / f".{target.name}.tmp-{os.getpid()}"
    for stale in sorted(run_folder.glob(".checkpoint-*.tmp-*")):
        warnings.warn(f"{stale}: removed, the process that worked on it was interrupted.", stacklevel=2)
        shutil.rmtree(stale)
    tensors = _parameter_tensors(parameters)
    # An adapter's own file is as large as its parameters, and AdamW keeps two moments.
    need_bytes = 4 * sum(tensor.nbytes for tensor in tensors.values())
    try:
        with _disk_errors(run_folder, need_bytes):
            work.mkdir(parents=True)
            write_adapter(work)
            save_file(tensors, work / PARAMETERS_FILE)
            save_file(_optimizer_tensors(optimizer, parameters), work / OPTIMIZER_FILE)
            (work / STATE_FILE).write_text(_state_text(state), encoding="utf-8")
            _seal(work)
            _swap_in(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    state.saved_step = state.step
    for later in _checkpoints(run_folder):
        if _step_of(later) > state.step and (fault := checkpoint_fault(later)) is not None:
            warnings.warn(f"{later}: removed, {fault}.", stacklevel=2)
            _remove(later)
    return target


def load_checkpoint(
    checkpoint: Path,
    optimizer: torch.optim.Optimizer | None,
    parameters: Mapping[str, nn.Parameter],
    recipe: Mapping[str, Any] | None = None,
) -> ResumeState:
    """Put a checkpoint's tensors back bit for bit and return its state; optimizer None restores parameters only.

    Nothing is changed before everything fits. Raises CheckpointError when it is corrupt, was made by another ``recipe``
    (naming what changed), or holds other parameters.
    """
    if (fault := checkpoint_fault(checkpoint)) is not None:
        raise CheckpointError(str(checkpoint), fault + ".", "Resume from an earlier one, or start anew.")
    try:
        state = ResumeState(**json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            str(checkpoint / STATE_FILE), f"is not a state this version reads: {error}.", "Start a new run."
        ) from None
    if recipe is not None:
        _refuse_other_recipe(checkpoint, state.recipe, json.loads(json.dumps(recipe, default=_as_dict)))
    saved = load_file(checkpoint / PARAMETERS_FILE)
    _refuse_other_tensors(checkpoint, saved, _parameter_tensors(parameters))
    with torch.no_grad():
        for name, value in saved.items():
            parameters[name].copy_(value)
    if optimizer is not None:
        _restore_optimizer(optimizer, parameters, load_file(checkpoint / OPTIMIZER_FILE))
    return state


def plan_of(checkpoint: Path | None) -> dict[str, Any]:
    """The decisions of the run that wrote a checkpoint; empty where they cannot be read, which loading it will say."""
    if checkpoint is None:
        return {}
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        return dict(state["plan"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def checkpoint_fault(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be trusted: a file missing, cut short, changed or unreadable; None when it is whole."""
    try:
        manifest = json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return f"its format is {manifest['format']}, this version reads {FORMAT}"
        entries = {name: (int(entry["size_bytes"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
    except FileNotFoundError:
        return f"{MANIFEST_FILE} is missing (half-written)"
    except OSError as error:
        return f"{MANIFEST_FILE} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST_FILE} is damaged"
    if unlisted := {STATE_FILE, PARAMETERS_FILE, OPTIMIZER_FILE} - set(entries):
        return f"{MANIFEST_FILE} does not list {min(unlisted)}"
    for name, (size_bytes, digest) in entries.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size_bytes:
            return f"{name} has {path.stat().st_size} bytes instead of {size_bytes}"
        try:
            if file_digest(path) != digest:
                return f"{name} has changed since it was written"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def find_latest_valid(run_folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None; corrupt ones are skipped with a warning that says why.

    A checkpoint that was pushed aside by a save that never finished is put back first.
    """
    for aside in sorted(run_folder.glob(".checkpoint-*.replaced")):
        target = aside.with_name(aside.name.removeprefix(".").removesuffix(".replaced"))
        if not target.exists():
            warnings.warn(f"{target}: put back, the save that was to replace it was interrupted.", stacklevel=2)
            aside.rename(target)
    for checkpoint in sorted(_checkpoints(run_folder), key=_step_of, reverse=True):
        fault = checkpoint_fault(checkpoint)
        if fault is None:
            return checkpoint
        warnings.warn(f"{checkpoint}: skipped, {fault}.", stacklevel=2)
    return None


def prune(run_folder: Path, save_total_limit: int, keep: set[int]) -> None:
    """Delete the oldest checkpoints beyond the limit; the steps in ``keep`` stay and do not count."""
    others = [c for c in sorted(_checkpoints(run_folder), key=_step_of) if _step_of(c) not in keep]
    for checkpoint in others[: max(0, len(others) - save_total_limit)]:
        _remove(checkpoint)


def _checkpoints(run_folder: Path) -> list[Path]:
    return [path for path in run_folder.glob("checkpoint-*") if path.is_dir() and NAME.match(path.name)]


def _step_of(checkpoint: Path) -> int:
    match = NAME.match(checkpoint.name)
    assert match is not None
    return int(match[1])


def _remove(checkpoint: Path) -> None:
    # Renamed first, so that a crash in the middle leaves no half checkpoint under a valid name.
    doomed = checkpoint.with_name(f".{checkpoint.name}.tmp-{os.getpid()}")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def _seal(work: Path) -> None:
    """Write the manifest and force every file and folder to the disk."""
    files = sorted(path for path in work.rglob("*") if path.is_file())
    listed = {
        path.relative_to(work).as_posix(): {"size_bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in files
    }
    (work / MANIFEST_FILE).write_text(json.dumps({"format": FORMAT, "files": listed}, indent=2), encoding="utf-8")
    for path in [*work.rglob("*"), work]:
        _fsync(path)


def _swap_in(work: Path, target: Path) -> None:
    """Give a sealed folder its name; at no moment is the checkpoint it replaces gone for good."""
    aside = target.with_name(f".{target.name}.replaced")
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    try:
        work.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    _fsync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _state_text(state: ResumeState) -> str:
    values = {f.name: getattr(state, f.name) for f in fields(state)} | {"saved_step": state.step}
    return json.dumps(values, indent=2, default=_as_dict) + "\n"


def _as_dict(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a resume state holds JSON values, not {type(value).__name__}")


def _parameter_tensors(parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """Name to tensor on the CPU, tied parameters once: safetensors refuses two names for one storage."""
    first_names = {id(p): name for name, p in reversed(list(parameters.items()))}
    return {name: p.detach().cpu().contiguous() for name, p in parameters.items() if first_names[id(p)] == name}


def _optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    return {
        f"{name}|{key}": torch.as_tensor(value).detach().cpu().contiguous()
        for name in _parameter_tensors(parameters)
        for key, value in optimizer.state.get(parameters[name], {}).items()
    }


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], saved: Mapping[str, torch.Tensor]
) -> None:
    fused = {id(p) for group in optimizer.param_groups if group.get("fused") for p in group["params"]}
    optimizer.state.clear()
    # bitsandbytes' optimisers count steps in a plain number, and say themselves where a moment lies.
    room = getattr(optimizer, "get_state_buffer", None)
    for name, value in saved.items():
        parameter_name, _, key = name.rpartition("|")
        parameter = parameters[parameter_name]
        if room is not None and key in ("step", "state1", "state2"):
            moment = int(value) if key == "step" else room(parameter, dtype=value.dtype).copy_(value)
            optimizer.state[parameter][key] = moment
            continue
        # AdamW counts its steps on the CPU unless it is fused: then beside the parameter.
        device = parameter.device if key != "step" or id(parameter) in fused else torch.device("cpu")
        optimizer.state[parameter][key] = value.to(device, copy=True)


def _refuse_other_tensors(
    checkpoint: Path, theirs: Mapping[str, torch.Tensor], ours: Mapping[str, torch.Tensor]
) -> None:
    def described(tensors: Mapping[str, torch.Tensor], name: str) -> str:
        return f"{tuple(tensors[name].shape)} {tensors[name].dtype}" if name in tensors else "absent"

    for name in sorted({*theirs, *ours}):
        there, here = described(theirs, name), described(ours, name)
        if there != here:
            raise CheckpointError(
                str(checkpoint),
                f"holds other parameters than this recipe trains: {name} is {there} there, {here} here.",
                "Start a new run.",
            )


def _refuse_other_recipe(checkpoint: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    before, now = _flat(theirs), _flat(ours)
    changed = [key for key in sorted({*before, *now}) if before.get(key, "unset") != now.get(key, "unset")]
    if changed:
        listed = ", ".join(f"{key} ({before.get(key, 'unset')!r} -> {now.get(key, 'unset')!r})" for key in changed)
        fix = "Set these back, or start a new run."
        if any(key not in before for key in changed):
            fix = "Start a new run, or go on with the version that began it: what is unset it did not know."
        raise CheckpointError(str(checkpoint), f"was made by another recipe: {listed}.", fix)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones, as a recipe's reader knows them."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _disk_errors(folder: Path, need_bytes: int) -> Iterator[None]:
    """Turn 'no space left', also a library's own spelling of it, into an error that says where and how much."""
    try:
        yield
    except Exception as error:
        spelled = OS_ERROR.search(str(error))
        number = error.errno if isinstance(error, OSError) else int(spelled[1]) if spelled else None
        if number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DiskFullError(
            str(folder),
            f"a checkpoint of about {need_bytes:,} bytes cannot be written: {os.strerror(number)}. Earlier checkpoints "
            "are untouched.",
            "Free some space or lower save_total_limit, then go on with resume_from_checkpoint=auto.",
        ) from None
