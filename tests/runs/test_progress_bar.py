"""The bar of a long job: pace and time left from what this process did, lines without a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tunesmith import progress
from tunesmith.progress import Bar, clock, resident_bytes


class Time:
    """Stands in for the time module: only the test lets time pass."""

    now = 50.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(progress, "time", time)
    return time


def shown(terminal: bool = False) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=terminal, width=120, no_color=True), stream


def test_a_line_has_the_jobs_words_the_pace_the_memory_and_the_time_left(time: Time) -> None:
    console, stream = shown()
    with Bar(100, "rows", memory_bytes=lambda: 1_500_000_000, console=console) as bar:
        for done in (10, 20, 30, 100):
            time.now += 15.0
            bar.update(done, f"yield {done}")
    # The first and the third come within 20 s of the line before; the last always comes.
    assert stream.getvalue().splitlines() == [
        "rows 20/100  yield 20  1.5 s each  1.5 GB  2:00 left",
        "rows 100/100  yield 100  1.7/s  1.5 GB  0:00 left",
    ]


def test_what_an_earlier_run_did_says_nothing_of_the_pace(time: Time) -> None:
    lines = []
    for skips in (True, False):
        console, stream = shown()
        with Bar(100, "rows", memory_bytes=lambda: 0, console=console) as bar:
            time.now += 5.0
            if skips:
                bar.skip(90)
            time.now += 30.0
            bar.update(91)
        lines.append(stream.getvalue().split("0.0 GB  ")[1])
    assert lines == ["4:30 left\n", "0:03 left\n"]


def test_no_pace_before_anything_is_done_and_none_where_the_text_has_its_own(time: Time) -> None:
    console, stream = shown()
    with Bar(10, "steps", first=4, pace=False, memory_bytes=lambda: 0, console=console) as bar:
        bar.update(4, last=True)
        time.now += 1.0
        bar.update(5, "9 tok/s", last=True)
    assert stream.getvalue().splitlines() == ["steps 4/10  0.0 GB  -:-- left", "steps 5/10  9 tok/s  0.0 GB  0:05 left"]


def test_what_a_job_says_is_no_markup_on_a_terminal(time: Time) -> None:
    console, stream = shown(terminal=True)
    with Bar(10, "rows", console=console) as bar:
        time.now += 1.0
        bar.update(3, "[red]n[/]")
    assert "3/10" in stream.getvalue() and "[red]n[/]" in stream.getvalue() and "━" in stream.getvalue()


def test_a_duration_as_people_write_it() -> None:
    assert [clock(seconds) for seconds in (0.4, 59.6, 3599, 3600, 90061)] == [
        "0:00", "1:00", "59:59", "1:00:00", "25:01:01",
    ]  # fmt: skip


def test_the_memory_is_that_of_this_process() -> None:
    before = resident_bytes()
    block = bytearray(80_000_000)
    assert 60_000_000 < resident_bytes() - before < 200_000_000
    del block
