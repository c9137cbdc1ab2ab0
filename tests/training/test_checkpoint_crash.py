"""Whatever dies, tears or fills up while a checkpoint is written, a whole one remains and is found."""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tunesmith.errors import CheckpointError, DiskFullError
from tunesmith.training import checkpoint as module
from tunesmith.training.checkpoint import (
    ResumeState,
    checkpoint_fault,
    find_latest_valid,
    load_checkpoint,
    prune,
    save_checkpoint,
)
from tunesmith.training.optim import OptimConfig, build_optimizer

CONFIG = OptimConfig(learning_rate=0.05, weight_decay=0.1)
Trainee = tuple[dict[str, nn.Parameter], torch.optim.AdamW]


def new_trainee(seed: int = 0) -> Trainee:
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        name: nn.Parameter(torch.randn(shape, generator=generator))
        for name, shape in {"down": (3, 7), "up": (7, 2), "bias": (2,)}.items()
    }
    return parameters, build_optimizer(parameters, CONFIG)


def bits(trainee: Trainee) -> dict[str, bytes]:
    parameters, optimizer = trainee
    out = {name: p.detach().numpy().tobytes() for name, p in parameters.items()}
    for name, p in parameters.items():
        out |= {f"{name}|{key}": value.numpy().tobytes() for key, value in optimizer.state[p].items()}
    return out


def new_state(step: int = 0, **more: Any) -> ResumeState:
    return ResumeState(seed=7, plan={"checkpointing": False}, recipe={"seed": 7}, step=step, **more)


def write_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    (folder / "inner").mkdir()
    (folder / "inner" / "weights.bin").write_bytes(b"w" * 1000)


def save(folder: Path, step: int, trainee: Trainee | None = None) -> Path:
    parameters, optimizer = trainee or new_trainee()
    return save_checkpoint(folder, new_state(step), optimizer, parameters, write_adapter)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def truncate(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def flip(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)

    return damage


def rewrite_manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return damage


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate("parameters.safetensors"), r"parameters\.safetensors has \d+ bytes instead of \d+"),
        (flip("optimizer.safetensors"), r"optimizer\.safetensors has changed since"),
        (flip("inner/weights.bin"), r"inner/weights\.bin has changed since"),
        (lambda folder: (folder / "trainer_state.json").unlink(), r"trainer_state\.json is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json is missing \(half-written\)"),
        (truncate("manifest.json"), r"manifest\.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[1]"), r"manifest\.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\x00"), r"manifest\.json is damaged"),
        (rewrite_manifest(lambda m: m["files"].pop("optimizer.safetensors")), r"does not list optimizer"),
        (rewrite_manifest(lambda m: m.update(format=99)), r"its format is 99, this version reads 1"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_by_name_and_reason(
    damage: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    good, bad = save(tmp_path, 9), save(tmp_path, 10)
    # Negative control: before the damage it is the newest.
    assert find_latest_valid(tmp_path) == bad
    damage(bad)
    with pytest.warns(UserWarning, match=rf"checkpoint-10: skipped, .*{reason}"):
        assert find_latest_valid(tmp_path) == good
    parameters, optimizer = new_trainee(seed=1)
    before = bits((parameters, optimizer))
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(bad, optimizer, parameters)
    assert bits((parameters, optimizer)) == before


def test_nothing_whole_is_none(tmp_path: Path) -> None:
    assert find_latest_valid(tmp_path / "absent") is None
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-final").mkdir()
    with pytest.warns(UserWarning, match="checkpoint-3: skipped"):
        assert find_latest_valid(tmp_path) is None


def test_a_corrupt_later_checkpoint_cannot_push_out_the_only_whole_one(tmp_path: Path) -> None:
    save(tmp_path, 10)
    flip("optimizer.safetensors")(save(tmp_path, 20))
    with pytest.warns(UserWarning, match=r"checkpoint-20: removed, optimizer\.safetensors has changed"):
        newest = save(tmp_path, 15)
    prune(tmp_path, 1, keep={0})
    assert find_latest_valid(tmp_path) == newest


def test_what_an_interrupted_save_left_is_removed_with_a_note(tmp_path: Path) -> None:
    stale = tmp_path / ".checkpoint-3.tmp-1"
    stale.mkdir()
    (stale / "parameters.safetensors").write_bytes(b"half")
    assert find_latest_valid(tmp_path) is None
    with pytest.warns(UserWarning, match=r"\.checkpoint-3\.tmp-1: removed"):
        save(tmp_path, 4)
    assert names(tmp_path) == ["checkpoint-4"]


def refuse_with(number: int) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("call", ["fsync", "rename", "write_text"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("step", [1, 2])
def test_a_full_disk_is_a_clear_error_and_costs_nothing(
    call: str, number: int, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = save(tmp_path, 1)
    owner = os if call == "fsync" else Path
    rename = Path.rename

    def rename_once(path: Path, target: Path) -> Path:
        # Pushing the old one aside works; giving the new one its name does not.
        return rename(path, target) if ".tmp-" not in path.name else refuse_with(number)()

    monkeypatch.setattr(owner, call, rename_once if call == "rename" else refuse_with(number))
    parameters, optimizer = new_trainee()
    state = new_state(step)
    with pytest.raises(DiskFullError) as caught:
        save_checkpoint(tmp_path, state, optimizer, parameters, write_adapter)
    monkeypatch.undo()
    assert caught.value.place == str(tmp_path)
    assert f"{4 * 4 * (21 + 14 + 2):,} bytes" in caught.value.cause
    assert os.strerror(number) in caught.value.cause
    assert "resume_from_checkpoint=auto" in caught.value.fix
    assert state.saved_step == -1
    assert names(tmp_path) == ["checkpoint-1"]
    assert find_latest_valid(tmp_path) == earlier


def test_a_real_limit_hit_inside_safetensors_is_the_same_error(tmp_path: Path) -> None:
    earlier = save(tmp_path, 1)
    parameters = {"large": nn.Parameter(torch.zeros(200_000))}
    optimizer = build_optimizer(parameters, CONFIG)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(DiskFullError, match=r"3,200,000 bytes cannot be written: File too large"):
            save_checkpoint(tmp_path, new_state(2), optimizer, parameters, write_adapter)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["checkpoint-1"]
    assert find_latest_valid(tmp_path) == earlier
    # Negative control: without the limit it is written.
    save_checkpoint(tmp_path, new_state(2), optimizer, parameters, write_adapter)


def test_other_errors_keep_their_type_and_leave_nothing_behind(tmp_path: Path) -> None:
    parameters, optimizer = new_trainee()
    with pytest.raises(PermissionError):
        save_checkpoint(tmp_path, new_state(1), optimizer, parameters, refuse_with(errno.EACCES))
    assert names(tmp_path) == []


def uniform(value: int) -> Trainee:
    parameters = {"p": nn.Parameter(torch.full((300, 40), float(value)))}
    optimizer = build_optimizer(parameters, CONFIG)
    for key in ("exp_avg", "exp_avg_sq"):
        optimizer.state[parameters["p"]][key] = torch.full((300, 40), float(value))
    optimizer.state[parameters["p"]]["step"] = torch.tensor(float(value))
    return parameters, optimizer


def save_mark(folder: Path, mark: int, step: int) -> None:
    parameters, optimizer = uniform(mark)
    state = new_state(step, extras={"mark": mark})
    save_checkpoint(
        folder, state, optimizer, parameters, lambda inner: (inner / "mark.bin").write_bytes(bytes([mark % 256]) * 5000)
    )


def mark_of(folder: Path) -> int:
    """The mark of the newest whole checkpoint, all of whose parts must agree on it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        newest = find_latest_valid(folder)
    assert newest is not None
    parameters, optimizer = uniform(-1)
    mark = int(load_checkpoint(newest, optimizer, parameters).extras["mark"])
    tensors = [parameters["p"], *optimizer.state[parameters["p"]].values()]
    assert all(bool((tensor == mark).all()) for tensor in tensors)
    assert set((newest / "mark.bin").read_bytes()) == {mark % 256}
    return mark


def in_child(action: Callable[[], None]) -> int:
    """Run an action in a forked process that never returns here; gives its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        warnings.simplefilter("ignore")
        action()
        os._exit(0)
    finally:
        os._exit(1)


def test_kill_9_at_random_moments_always_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    save_mark(tmp_path, 1, step=1)
    reader, writer = os.pipe()

    def save_forever() -> None:
        mark = mark_of(tmp_path)
        while True:
            mark += 1
            # Two marks a step: half of the saves replace a checkpoint.
            save_mark(tmp_path, mark, step=mark // 2)
            os.write(writer, b".")
            prune(tmp_path, 2, keep=set())

    marks, num_interrupted = [1], 0
    for kill in range(60):
        pid = in_child(save_forever)
        # One save is through, however slow the machine is; then any moment will do.
        assert select.select([reader], [], [], 60)[0]
        time.sleep(0.0007 * (kill * 37 % 60))
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        while select.select([reader], [], [], 0)[0]:
            os.read(reader, 4096)
        num_interrupted += any(name.startswith(".") for name in names(tmp_path))
        marks.append(mark_of(tmp_path))
        if num_interrupted >= 5 and kill >= 9:
            break
    os.close(reader)
    os.close(writer)
    assert all(later > earlier for earlier, later in pairwise(marks))
    assert num_interrupted >= 5


# A death is not a power cut: what was written stays, so the moments around fsync differ in nothing.
OPERATIONS = [(module, "save_file"), (shutil, "rmtree")]
OPERATIONS += [(Path, name) for name in ("mkdir", "rename", "write_text", "write_bytes")]


def die_before(number: int) -> None:
    """From here on, the process ends before its ``number``-th operation on the disk, as by kill -9."""
    count = 0

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > number:
                os._exit(9)
            return call(*args, **kwargs)

        return counted

    for owner, name in OPERATIONS:
        setattr(owner, name, wrap(getattr(owner, name)))


@pytest.mark.parametrize("step", [4, 5])
def test_death_between_any_two_operations_leaves_the_old_or_the_new(step: int, tmp_path: Path) -> None:
    save_mark(tmp_path / "before", 3, step=3)
    save_mark(tmp_path / "before", 4, step=4)
    seen = set()
    for number in range(100):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "before", folder)

        def act(number: int = number, folder: Path = folder) -> None:
            die_before(number)
            save_mark(folder, 5, step=step)
            prune(folder, 1, keep=set())

        code = os.waitstatus_to_exitcode(os.waitpid(in_child(act), 0)[1])
        seen.add(mark_of(folder))
        if code == 0:
            break
        assert code == 9
        # And the next save clears away what is left.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            save_mark(folder, 6, step=6)
        assert not [name for name in names(folder) if ".tmp-" in name]
    assert code == 0
    assert number > 10
    assert seen == {4, 5}


def test_a_writer_without_the_rename_would_be_caught(tmp_path: Path) -> None:
    """Negative control of the two tests above: the same death inside a folder under its final name is no checkpoint."""
    folder = save(tmp_path, 1)
    for number, name in enumerate(sorted(path.name for path in folder.iterdir() if path.is_file())):
        torn = tmp_path / f"checkpoint-{number + 2}"
        shutil.copytree(folder, torn)
        (torn / name).unlink()
        assert checkpoint_fault(torn) is not None
