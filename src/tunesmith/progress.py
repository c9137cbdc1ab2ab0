"""What a person sees of a long job: one bar for every verb.

with Bar(len(questions), "questions") as bar:
    bar.skip(num_found)                       # done by an earlier run: free, so it tells nothing of the pace
    for done, question in enumerate(questions[num_found:], num_found + 1):
        ...
        bar.update(done, "accuracy 0.71")
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

# Without a terminal a line now and then says that the job is alive.
QUIET_SECONDS = 20.0


class Bar:
    """Units done of all, the job's own words, pace, memory and time left; plain lines where there is no terminal.

    total: units of the whole job. unit: a word for them. first: units done before this process began. pace: whether
    to show units a second, which a text with a rate of its own does not need. memory_bytes: tells the memory in use,
    that of this process by default. console: where to show it, standard error by default. Use it as a context manager.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        *,
        first: int = 0,
        pace: bool = True,
        memory_bytes: Callable[[], int] | None = None,
        console: Console | None = None,
    ) -> None:
        self.total, self.unit = total, unit
        self._first, self._pace = first, pace
        self._memory_bytes = memory_bytes or resident_bytes
        self._console = console or Console(stderr=True)
        self._began = self._last_line = time.perf_counter()
        self._progress: Progress | None = None
        self._task = TaskID(0)
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn(unit, markup=False),
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[text]}", markup=False),
                TimeElapsedColumn(),
                console=self._console,
                expand=True,
            )
            self._task = self._progress.add_task(unit, total=total, completed=first, text="")

    def __enter__(self) -> Bar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def skip(self, done: int) -> None:
        """So many units are done and took no time, since an earlier run had done them: the pace counts from here."""
        self._first, self._began = done, time.perf_counter()

    def update(self, done: int, text: str = "", *, last: bool = False) -> None:
        """So many units are done; text: the job's own numbers. last: no update follows, though done is not total."""
        now = time.perf_counter()
        shown = "  ".join(part for part in (text, *self._numbers(done, now - self._began)) if part)
        if self._progress is not None:
            self._progress.update(self._task, completed=done, text=shown)
        elif now - self._last_line > QUIET_SECONDS or last or done == self.total:
            self._last_line = now
            print(f"{self.unit} {done}/{self.total}  {shown}", file=self._console.file, flush=True)

    def _numbers(self, done: int, seconds: float) -> list[str]:
        """Pace, memory, and time left at the pace since this process began."""
        new = done - self._first
        pace = [_pace(new, seconds)] if self._pace and new > 0 else []
        left = clock(seconds / new * (self.total - done)) if new > 0 else "-:--"
        return [*pace, f"{self._memory_bytes() / 1e9:.1f} GB", f"{left} left"]


def resident_bytes() -> int:
    """Memory of this process that lies in RAM."""
    return int(psutil.Process().memory_info().rss)


def clock(seconds: float) -> str:
    """A duration as m:ss, from an hour on as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _pace(new: int, seconds: float) -> str:
    rate = new / max(seconds, 1e-9)
    return f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
