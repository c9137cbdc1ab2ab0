"""The run folder: who may have it, what it records, and what survives a crash."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tunesmith import runs
from tunesmith.errors import DiskFullError, NonFiniteLossError, RunError, TunesmithError
from tunesmith.runs import Run, atomic_write_text, command_line, file_digest, machine_summary, read_metrics

RECIPE = {"learning_rate": 1e-3, "data": {"train": "größe.jsonl", "limit": None}}


def start(folder: Path, **how: Any) -> Run:
    return Run.create(folder, RECIPE, **{"resume": False, **how})


def record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text()))


def test_a_run_says_what_it_was(tmp_path: Path) -> None:
    with start(tmp_path / "a" / "b") as run:
        run.note({"plan": {"micro_batch_tokens": 512}})
        run.finish({"eval_loss": 1.5})
    assert yaml.safe_load((run.folder / "recipe.yaml").read_text(encoding="utf-8")) == RECIPE
    kept = record(run.folder)
    assert kept["plan"] == {"micro_batch_tokens": 512}
    assert kept["result"] == {"eval_loss": 1.5}
    assert kept["finished"] >= kept["created"]
    assert kept["machine"]["cores"] == os.cpu_count()
    assert kept["machine"]["versions"]["torch"].startswith("2.")
    assert kept["machine"]["versions"]["tunesmith"] != "absent"
    assert sorted(path.name for path in run.folder.iterdir()) == ["recipe.yaml", "run.json"]


def test_the_home_folder_is_not_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    home = str(Path.home())
    monkeypatch.setattr(sys, "argv", ["/somewhere/tunesmith", "sft", f"{home}/r.yaml", f"data.train={home}/rows.json"])
    assert command_line() == ["tunesmith", "sft", "~/r.yaml", "data.train=~/rows.json"]
    assert home not in json.dumps(machine_summary())


def test_a_folder_with_a_run_is_refused_resumed_or_overwritten(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.log_metrics(1, {"loss": 2.0})
        run.finish({})
    with pytest.raises(RunError, match="already holds a run") as caught:
        start(tmp_path)
    assert "overwrite_output_dir=true" in caught.value.fix
    assert not (tmp_path / ".lock").exists()
    first = record(tmp_path)["created"]
    for count in (1, 2):
        with start(tmp_path, resume=True) as run:
            assert len(record(tmp_path)["resumed"]) == count
            assert "finished" not in record(tmp_path)
        assert record(tmp_path)["created"] == first
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_overwriting_deletes_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    start(tmp_path).close()
    for name in ("checkpoint-3/x", ".checkpoint-4.tmp-1/x", "tensorboard/e", "adapter_model.safetensors", "loss.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    for name in ("notes.md", "rows.jsonl"):
        (tmp_path / name).write_text("mine")
    start(tmp_path, overwrite=True).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.md", "recipe.yaml", "rows.jsonl", "run.json"]
    assert "resumed" not in record(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00002.safetensors", "checkpoint-10"])
def test_a_model_that_no_run_left_is_never_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("somebody's base")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="which no run left there"):
            start(tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (tmp_path / name).unlink()
    (tmp_path / "rows.jsonl").write_text("{}")
    start(tmp_path).close()


def test_a_folder_that_cannot_be_made_or_used_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match=r"cannot be used: .*output_dir"):
            start(folder)


def test_two_runs_cannot_share_a_folder_in_one_process(tmp_path: Path) -> None:
    with (
        start(tmp_path) as run,
        pytest.raises(RunError, match=f"in use by process {os.getpid()}"),
    ):
        start(tmp_path, resume=True)
    start(tmp_path, resume=True).close()
    run.close()


HOLDER = """
import sys, time
from tunesmith.runs import Run
with Run.create(sys.argv[1], {}, resume=False) as run:
    run.log_metrics(1, {"loss": 1.0})
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_living_holder_keeps_the_folder_and_a_killed_one_loses_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"in use by process {process.pid}"):
            start(tmp_path, overwrite=True)
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    assert (tmp_path / ".lock").exists()
    with pytest.warns(UserWarning, match=f"taken over from process {process.pid}"):
        run = start(tmp_path, resume=True)
    run.close()
    assert not (tmp_path / ".lock").exists()


def test_a_lock_of_a_reused_process_number_is_taken_over(tmp_path: Path) -> None:
    # The number lives (it is ours), its lock does not: after a restart numbers begin anew.
    dead = {"pid": os.getpid(), "host": socket.gethostname(), "started": 0}
    (tmp_path / ".lock").write_text(json.dumps(dead))
    with pytest.warns(UserWarning, match="taken over"):
        start(tmp_path).close()


def test_a_lock_from_another_host_is_respected(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": 0}))
    with pytest.raises(RunError, match="in use by process 1 on elsewhere") as caught:
        start(tmp_path)
    assert "delete" in caught.value.fix
    assert json.loads((tmp_path / ".lock").read_text())["host"] == "elsewhere"


def test_a_lock_whose_writer_died_before_a_word_is_free(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start(tmp_path).close()


@pytest.mark.parametrize("alive", [True, False])
def test_without_file_locks_the_process_number_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool
) -> None:
    monkeypatch.setattr(runs, "_held_elsewhere", lambda stream: None)
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait(timeout=30)
    pid = os.getppid() if alive else gone.pid
    (tmp_path / ".lock").write_text(json.dumps({"pid": pid, "host": socket.gethostname(), "started": 0}))
    if alive:
        with pytest.raises(RunError, match="in use"):
            start(tmp_path)
    else:
        with pytest.warns(UserWarning, match="taken over"):
            start(tmp_path).close()


def _grab(folder: str, gate: Any, out: Any, over: Any) -> None:
    gate.wait()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = Run.create(folder, {}, resume=True)
        out.put("taken")
        over.wait(timeout=60)  # held until all have tried, however slow the machine
        run.close()
    except TunesmithError:
        out.put("refused")


def test_of_many_that_grab_a_stale_lock_at_once_one_gets_it(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname(), "started": 0}))
    context = multiprocessing.get_context("fork")
    gate, out, over = context.Event(), context.Queue(), context.Event()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads of other tests' libraries
        grabbers = [context.Process(target=_grab, args=(str(tmp_path), gate, out, over)) for _ in range(6)]
        for grabber in grabbers:
            grabber.start()
    gate.set()
    answers = sorted(out.get(timeout=60) for _ in grabbers)
    over.set()
    for grabber in grabbers:
        grabber.join(timeout=30)
    assert answers == ["refused"] * 5 + ["taken"]


def test_a_lock_deleted_while_it_is_being_taken_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Between our open and our flock its holder ends, deleting the file, and another run makes and holds a new one.
    real, rivals = runs._held_elsewhere, []

    def interrupted(stream: Any) -> bool | None:
        if not rivals:
            (tmp_path / ".lock").unlink()
            rivals.append((tmp_path / ".lock").open("a+"))
            assert real(rivals[0]) is False
        return real(stream)

    monkeypatch.setattr(runs, "_held_elsewhere", interrupted)
    with pytest.raises(RunError, match="in use"):
        start(tmp_path)
    rivals[0].close()


def test_metrics_are_on_disk_at_once_and_finite(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.log_metrics(1, {"loss": 2.5, "learning_rate": 1e-4})
        assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 2.5, "learning_rate": 0.0001}\n'
        for bad in (float("nan"), float("inf")):
            with pytest.raises(NonFiniteLossError, match=r"step 2: .*eval_loss is"):
                run.log_metrics(2, {"loss": 1.0, "eval_loss": bad})
        run.log_metrics(2, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


@given(cut=st.integers(0, 400), after=st.integers(-1, 7))
def test_a_resumed_file_equals_an_uninterrupted_one(
    tmp_path_factory: pytest.TempPathFactory, cut: int, after: int
) -> None:
    # Lines of steps 0 to 6, torn anywhere beyond the checkpoint's lines, resumed after the checkpoint of step `after`.
    lines = [json.dumps({"step": step, "loss": 1 / (step + 3), "grad_norm": 0.25}) + "\n" for step in range(7)]
    whole = "".join(lines)
    safe = sum(len(line) for line in lines[: after + 1])
    folder = tmp_path_factory.mktemp("run")
    (folder / "metrics.jsonl").write_text(whole[: max(cut, safe)])
    with start(folder, resume=True) as run:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run.truncate_metrics(after_step=after)
        assert (folder / "metrics.jsonl").read_text() == whole[:safe]
        for step in range(after + 1, 7):
            run.log_metrics(step, {"loss": 1 / (step + 3), "grad_norm": 0.25})
    assert (folder / "metrics.jsonl").read_text() == whole


def test_a_torn_last_line_warns_and_a_torn_middle_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    with pytest.warns(UserWarning, match=r"metrics\.jsonl:2: the last line was cut off"):
        assert read_metrics(path) == [{"step": 1}]
    path.write_text('{"step": 1}\n{"step": 2, "lo\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl:2: is not JSON"):
        read_metrics(path)


def test_a_damaged_record_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json: is not the record of a run"):
        start(tmp_path, resume=True)
    assert not (tmp_path / ".lock").exists()


def test_an_atomic_write_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "recipe.yaml"
    atomic_write_text(path, "old ☕\n")
    assert path.read_bytes() == "old ☕\n".encode()
    plain = tmp_path / "plain"
    plain.write_text("")
    assert path.stat().st_mode == plain.stat().st_mode, "a report must be as readable as any other file"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="no space left"):
        atomic_write_text(path, "new\n")
    assert path.read_text() == "old ☕\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain", "recipe.yaml"]


def test_a_full_disk_is_a_clear_error_everywhere(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with start(tmp_path) as run:
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(DiskFullError, match="Free some space"):
            run.log_metrics(1, {"loss": 1.0})
    # Another fault of the system keeps its own name.
    with pytest.raises(FileNotFoundError):
        atomic_write_text(tmp_path / "nowhere" / "x", "")


def test_file_digest_is_sha256(tmp_path: Path) -> None:
    # NIST's test vector for "abc".
    (tmp_path / "f").write_bytes(b"abc")
    assert file_digest(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
