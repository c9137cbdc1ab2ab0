"""What a person sees of ``tunesmith feedback sample``: the estimate, a bar with the time left, the last lines."""

from __future__ import annotations

import shlex
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tunesmith.feedback.screen import clock
from tunesmith.recipes.feedback_sample import SampleConfig, Sampled, Sampler, draws_file
from tunesmith.rollout.endpoint import Endpoint

# Without a terminal a line now and then says that the job is alive.
QUIET_SECONDS = 20.0


def estimate(sampler: Sampler, *, probe: bool) -> str:
    """How much is to be done, in a sentence: answers, tokens, and for a model of ours the time."""
    config, missing = sampler.config, sampler.missing()
    wanted = len(sampler.prompts) * config.num_candidates
    text = (
        f"{len(sampler.prompts)} prompts x {config.num_candidates} candidates = {wanted} answers, "
        f"{wanted - missing} drawn before; {missing} to draw, of at most {config.max_new_tokens} tokens each"
    )
    seconds = sampler.seconds_at_most() if probe else None
    told = "" if seconds is None else f", about {clock(seconds)} if all of them are that long"
    return f"{text}{told}; near copies are drawn again, up to {config.max_redraws} times a slot."


class Bar:
    """Candidates settled of those wanted, what was turned down, and time left at the pace of this process."""

    def __init__(self, wanted: int, console: Console | None = None) -> None:
        self._wanted, self._console = wanted, console or Console(stderr=True)
        self._began = self._last_line = time.monotonic()
        self._first: int | None = None
        self._task = TaskID(0)
        self._progress: Progress | None = None
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("candidates"),
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[text]}", markup=False),
                TimeElapsedColumn(),
                console=self._console,
                expand=True,
            )
            self._task = self._progress.add_task("candidates", total=wanted, text="")

    def __enter__(self) -> Bar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, sampled: Sampled) -> None:
        """Show how far it is."""
        now = time.monotonic()
        if not sampled.drawn:
            # What an earlier run had drawn takes no time, and says nothing of the pace.
            self._first, self._began = sampled.settled, now
        text = f"{sum(sampled.turned_down.values())} drawn again, {self._left(sampled, now)}"
        if self._progress is not None:
            self._progress.update(self._task, completed=sampled.settled, text=text)
        elif now - self._last_line > QUIET_SECONDS:
            self._last_line = now
            print(f"candidates {sampled.settled}/{self._wanted}  {text}", file=self._console.file, flush=True)

    def _left(self, sampled: Sampled, now: float) -> str:
        new = sampled.settled - (self._first or 0)
        if new <= 0:
            return "-:--:-- left"
        return f"{clock((now - self._began) / new * (self._wanted - sampled.settled))} left"


def last_lines(config: SampleConfig, sampler: Sampler, seconds: float) -> list[str]:
    """What was written, what was turned down and why, and the next command."""
    out = sampler.sampled
    pace = f", {out.new_tokens / seconds:.0f} tokens/s" if out.new_tokens and seconds > 0 else ""
    lines = [
        f"{out.kept} of {out.wanted} candidates of {out.prompts} prompts are in {config.store} "
        f"({out.drawn} drawn now, {out.found} before{pace})."
    ]
    if out.turned_down:
        causes = ", ".join(f"{number} x {cause}" for cause, number in sorted(out.turned_down.items()))
        lines.append(f"drawn again: {causes}.")
    if out.empty_slots:
        lines.append(
            f"{out.empty_slots} slots stay empty after {config.max_redraws} redraws: the model says the same again; "
            "higher --temperatures, another --adapter or a higher --max-rouge-l give more."
        )
    if out.cut:
        lines.append(f"{out.cut} candidates were cut at {config.max_new_tokens} tokens (--max-new-tokens).")
    if out.interrupted:
        lines.append("Stopped; the same command goes on, and draws nothing twice.")
        return lines
    lines.append(f"every answer, used or not: {draws_file(sampler.store.path)}")
    store = shlex.quote(config.store)
    lines.append(f"next:  tunesmith feedback label --store {store} --annotator NAME --kind comparison")
    return lines


def is_ours(sampler: Sampler) -> bool:
    """Whether the answers are made in this process, so that their pace can be probed for nothing."""
    return not any(isinstance(writer, Endpoint) for writer in sampler.writers)
