"""Estimate, choose shots on validation, measure: the parts of ``tunesmith eval`` that ask the models."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tunesmith.evals.compare_many import less_is_better
from tunesmith.evals.estimate import NO_WORK, Pace, Work, probe, remaining, tokens_done
from tunesmith.evals.run import TaskResult, run_task, unanswered
from tunesmith.evals.subject import Subject
from tunesmith.evals.suite import Suite
from tunesmith.progress import Bar
from tunesmith.recipes.evaluate_config import EvalConfig
from tunesmith.recipes.evaluate_open import Plan, ShotChoice, make_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One subject's result on one suite, and what it took in this process; nothing where it was replayed."""

    result: TaskResult
    seconds: float = 0.0
    read_tokens: int = 0
    generated_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What is left to do, and how long the probe says it takes: expected, and at most."""

    work: Work
    seconds: float
    seconds_at_most: float
    probed_seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For eval.json."""
        return {
            "requests": self.work.num_requests,
            "read_tokens": self.work.read_tokens,
            "generated_tokens_at_most": self.work.generated_tokens,
            "seconds": round(self.seconds, 1),
            "seconds_at_most": round(self.seconds_at_most, 1),
            "probe_seconds": round(self.probed_seconds, 1),
        }


def estimate(
    jobs: Sequence[tuple[Plan, Plan]], subjects: Sequence[Subject], path: Path, say: Callable[[str], None]
) -> Estimate:
    """Count what is left, ask a few items of each suite, and say what the rest will take.

    jobs: what is to be asked, and the plan whose items are probed for its pace: where shots are still to be chosen the
    test items are not touched, validation items stand for them. Raises DataError for an item that cannot be asked.
    """
    works = [remaining(plan.task, s, plan.sampling, path) for plan, _ in jobs for s in subjects]
    total = sum(works, NO_WORK)
    if not total.num_requests:
        if jobs:
            say("every answer is there already; nothing is asked.")
        return Estimate(work=total, seconds=0.0, seconds_at_most=0.0, probed_seconds=0.0)
    say(
        f"to do: {total.num_requests:,} requests, about {total.read_tokens:,} tokens to read and at most "
        f"{total.generated_tokens:,} to generate; a few items of each suite now tell how long that takes."
    )
    began = time.perf_counter()
    paces = {id(probed): _pace(probed, subjects, path) for probed in {id(plan): plan for _, plan in jobs}.values()}
    seconds = at_most = 0.0
    unknown = []
    for plan, probed in jobs:
        left = sum(len(unanswered(plan.task, s, plan.sampling, path)) for s in subjects)
        pace = paces[id(probed)]
        if pace is not None:
            expected, longest = pace.seconds(left)
            seconds, at_most = seconds + expected, at_most + longest
        elif left:
            unknown.append(plan.suite.name)
    but = f", not counting {', '.join(unknown)}, whose pace is not known" if unknown else ""
    say(f"the rest takes about {_minutes(seconds)}, {_minutes(at_most)} if every answer were as long as allowed{but}.")
    probed_seconds = time.perf_counter() - began
    return Estimate(work=total, seconds=seconds, seconds_at_most=at_most, probed_seconds=probed_seconds)


def _pace(plan: Plan, subjects: Sequence[Subject], path: Path) -> Pace | None:
    """The pace of the first subject that has an item of the plan left; None where none has."""
    for subject in subjects:
        if (pace := probe(plan.task, subject, plan.sampling, path)) is not None:
            return pace
    return None


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def plans_to_try(config: EvalConfig, suite: Suite) -> dict[int, Plan]:
    """The suite on its validation items with each number of shots. Raises ConfigError where it has none."""
    return {shots: make_plan(config, suite, shots=shots, validation=True) for shots in config.select_shots}


def choose_shots(
    suite: Suite, tried: Mapping[int, Plan], subjects: Sequence[Subject], path: Path, say: Callable[[str], None]
) -> ShotChoice:
    """Measure every number of shots on validation and take the best mean of the headline over the subjects.

    All subjects get the same number, so that they are asked the same; of equals the smallest is taken.
    """
    intervals = {
        shots: {s.label: measure(plan, s, path).result.interval(suite.headline) for s in subjects}
        for shots, plan in tried.items()
    }
    sign = -1 if less_is_better(next(iter(tried.values())).task, suite.headline) else 1
    means = {shots: sign * fmean(one.value for one in own.values()) for shots, own in intervals.items()}
    chosen = min(means, key=lambda shots: (-means[shots], shots))
    num_items = len(next(iter(tried.values())).task.items)
    told = ", ".join(f"{shots}: {sign * mean:.3f}" for shots, mean in means.items())
    say(f"{suite.name}: {chosen} shots, chosen on {num_items} validation items ({suite.headline} {told}).")
    return ShotChoice(chosen=chosen, num_items=num_items, tried=intervals)


def measure(plan: Plan, subject: Subject, path: Path) -> Measured:
    """Answer and score every item, with a bar that tells answers, tokens a second and the time left."""
    began, before = time.perf_counter(), tokens_done([subject])
    num_requests = len(plan.task.items) * plan.settings["samples"]
    num_kept = num_requests - remaining(plan.task, subject, plan.sampling, path).num_requests
    with ExitStack() as stack:
        bar = None
        if num_kept < num_requests:
            what = f"{plan.suite.name}, {subject.label}: answer"
            bar = stack.enter_context(Bar(num_requests, what, first=num_kept, pace=False))

        def tell(done: int, asked: int) -> None:
            tokens = sum(tokens_done([subject])) - sum(before)
            pace = f"{tokens / (time.perf_counter() - began):.0f} tok/s" if tokens else ""
            if bar is not None and done > num_kept:
                bar.update(done, pace)

        result = run_task(plan.task, subject, plan.sampling, path, on_progress=tell)
    read, generated = (now - then for now, then in zip(tokens_done([subject]), before, strict=True))
    seconds = time.perf_counter() - began
    return Measured(result=result, seconds=seconds, read_tokens=read, generated_tokens=generated)
