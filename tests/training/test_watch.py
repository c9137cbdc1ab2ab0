"""What is shown of a long job, with and without a terminal, and what reaches the trackers."""

from __future__ import annotations

import io
import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tunesmith import progress
from tunesmith.errors import MissingExtraError, RunError
from tunesmith.training.watch import Trackers, watch

CPU = torch.device("cpu")
METRICS = {"loss": 1.23456, "learning_rate": 2e-4, "tokens_per_second": 321.4, "grad_norm": 9.0}


class Clock:
    """Stands in for time.perf_counter: only the test lets time pass."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=terminal, width=140, no_color=True), stream


def test_without_a_terminal_a_line_comes_now_and_then_and_at_the_end(clock: Clock) -> None:
    shown, stream = console(terminal=False)
    with watch(50, 0, CPU, shown) as show:
        for step in range(1, 51):
            clock.now += 3.0
            show(step, METRICS)
    lines = stream.getvalue().splitlines()
    # More than 20 s apart at 3 s a step: every seventh step, and the last.
    assert [line.split()[1] for line in lines] == [
        "7/50",
        "14/50",
        "21/50",
        "28/50",
        "35/50",
        "42/50",
        "49/50",
        "50/50",
    ]
    assert "loss 1.235  lr 2.0e-04  321 tok/s" in lines[0]
    assert " GB  2:09 left" in lines[0]
    assert lines[-1].endswith("0:00 left")
    assert "\x1b" not in stream.getvalue()


def test_a_resumed_job_counts_its_pace_from_where_it_went_on(clock: Clock) -> None:
    shown, stream = console(terminal=False)
    with watch(100, 90, CPU, shown) as show:
        clock.now += 25.0
        show(91, METRICS)
        clock.now += 3600.0 * 10
        show(92, METRICS)
    first, second = stream.getvalue().splitlines()
    assert first.endswith("3:45 left")
    assert second.endswith("40:01:40 left")


def test_the_newest_evaluation_stays_in_sight(clock: Clock) -> None:
    shown, stream = console(terminal=False)
    with watch(3, 0, CPU, shown) as show:
        show(1, {**METRICS, "eval_loss": 2.5})
        show(3, {"loss": 0.5})
    assert "loss 0.500  eval 2.500  lr 2.0e-04" in stream.getvalue()


def test_on_a_terminal_a_bar_shows_the_numbers(clock: Clock) -> None:
    shown, stream = console(terminal=True)
    with watch(40, 10, CPU, shown) as show:
        clock.now += 8.0
        show(14, METRICS)
    text = stream.getvalue()
    assert "14/40" in text
    assert "loss 1.235" in text and "lr 2.0e-04" in text and "321 tok/s" in text and "0:52 left" in text
    assert "━" in text


def test_a_job_that_fails_gives_the_terminal_back(clock: Clock) -> None:
    shown, stream = console(terminal=True)
    with pytest.raises(KeyboardInterrupt), watch(4, 0, CPU, shown):
        raise KeyboardInterrupt
    # Rich hides the cursor (?25l) while the bar lives.
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")


RECIPE = {"learning_rate": 1e-3, "data": {"train": "rows.jsonl", "limit": None}, "report_to": ["tensorboard"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my-run").mkdir()
    return tmp_path / "my-run"


def test_no_tracker_is_imported_unasked(folder: Path) -> None:
    before = set(sys.modules)
    with Trackers(["none"], folder, RECIPE) as trackers:
        trackers.log(1, METRICS)
    assert {
        name for name in set(sys.modules) - before if name.split(".")[0] in ("wandb", "trackio", "tensorboard")
    } == set()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_tracker_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for gone in (name, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, gone, None)
    with pytest.raises(MissingExtraError, match=r"is not installed\.") as caught:
        Trackers([name], folder, RECIPE)
    assert caught.value.place == f"report_to: {name}"
    assert caught.value.fix == "Run: pip install 'tunesmith[track]'"


def test_a_tracker_that_refuses_is_a_clear_error_and_the_others_are_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = []

    class Trackio:
        @staticmethod
        def init(**how: Any) -> None:
            print("* chatter")
            assert how["name"] == "my-run"

        @staticmethod
        def finish() -> None:
            finished.append(True)

    class Wandb:
        @staticmethod
        def init(**how: Any) -> None:
            raise RuntimeError("No API key configured.")

    monkeypatch.setitem(sys.modules, "trackio", Trackio)
    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    with pytest.raises(RunError, match=r"report_to: wandb: did not start: No API key configured\. Fix:"):
        Trackers(["trackio", "wandb"], folder, RECIPE)
    assert finished == [True]
    said = capsys.readouterr()
    assert said.out == "", "--json must stay JSON"
    assert "chatter" in said.err


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_gets_every_number_and_a_resume_replaces_what_was_lost(folder: Path) -> None:
    pytest.importorskip("tensorboard", reason="the track extra is not installed")
    with Trackers(["tensorboard"], folder, RECIPE) as trackers:
        for step in (1, 2, 3, 4):
            trackers.log(step, {"loss": 1.0 / step, "eval_loss": 2.0})
    assert scalars(folder)["loss"] == [(step, pytest.approx(1.0 / step)) for step in (1, 2, 3, 4)]
    assert [step for step, _ in scalars(folder)["eval_loss"]] == [1, 2, 3, 4]
    # Killed after step 4, resumed from the checkpoint of step 2.
    with Trackers(["tensorboard"], folder, RECIPE, first_step=2) as trackers:
        trackers.log(3, {"loss": 7.0})
    assert scalars(folder)["loss"] == [(1, 1.0), (2, 0.5), (3, 7.0)]


@pytest.fixture
def offline_wandb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("wandb", reason="the track extra is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield


@pytest.mark.usefixtures("offline_wandb")
def test_wandb_writes_its_offline_run_into_the_run_folder(folder: Path) -> None:
    with Trackers(["wandb"], folder, RECIPE) as trackers:
        trackers.log(1, METRICS)
    (run,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    assert b"tokens_per_second" in run.read_bytes()


def test_trackio_keeps_the_metrics_in_its_database(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = folder.parent / "trackio"
    monkeypatch.setenv("TRACKIO_DIR", str(home))
    pytest.importorskip("trackio", reason="the track extra is not installed")
    with Trackers(["trackio"], folder, RECIPE) as trackers:
        trackers.log(1, METRICS)
        trackers.log(2, {"loss": 0.5})
    with sqlite3.connect(home / "tunesmith.db") as database:
        rows = database.execute("select step, metrics from metrics where run_name = 'my-run' order by step").fetchall()
    assert [(step, json.loads(text)["loss"]) for step, text in rows] == [(1, METRICS["loss"]), (2, 0.5)]
