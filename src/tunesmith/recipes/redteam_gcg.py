"""Goals -> suffixes that open them: the gradient's search beside its controls, on our own model.

One row a goal and method in suffixes.jsonl, written when it is answered; a run that was stopped goes on with the goals
that are missing. A row names all it depends on, so another model, adapter or setting never takes it for its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from tunesmith.errors import DataError
from tunesmith.feedback.judgements import digest_of
from tunesmith.models.adapters import load_adapter
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.roles import Base
from tunesmith.progress import Bar
from tunesmith.recipes.redteam import NOTICE
from tunesmith.redteam.attack_suffix import suffix_messages
from tunesmith.redteam.gcg import Method, Search, SearchConfig, search_suffixes
from tunesmith.redteam.goal_sets import load_goals
from tunesmith.redteam.goals import Goal
from tunesmith.redteam.suffix_verdict import suffix_facts
from tunesmith.reports.redteam_gcg import curves_picture, gcg_lines
from tunesmith.rollout.generate import LocalGenerator
from tunesmith.rollout.local_writer import LocalWriter
from tunesmith.rollout.refusal import read_refusal
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked
from tunesmith.runs import atomic_write_text, hold_file

SUFFIXES_FILE, RESULT_FILE, PAGE_FILE, CURVES_FILE = "suffixes.jsonl", "gcg.json", "gcg.md", "gcg.png"


class GcgConfig(ModelConfig, SearchConfig):
    """Which model is attacked with which goals, how long is searched, and where it goes."""

    adapter: str | None = None
    """Folder of the adapter under attack; empty: the bare base."""
    goals: list[str] = Field(["advbench"], min_length=1)
    """Sets of goals, or files; those without an opening are left out, and told."""
    limit: int | None = Field(8, ge=1)
    """So many goals at most, chosen by the seed; empty: all."""
    data_dir: str | None = None
    """Folder of the public sets; empty: the environment's TUNESMITH_DATA, else ../shared/data where that exists."""
    methods: list[Method] = Field(["gcg", "random-search", "none"], min_length=1)
    """What is run on every goal; the first is held against each other one."""
    goals_at_once: int = Field(4, ge=1)
    """Goals searched side by side, and written together."""
    max_new_tokens: int = Field(40, ge=1)
    """Tokens of the greedy answer that is read in the end."""
    output_dir: str = "runs/redteam-gcg"
    """Where suffixes, result, page and picture are written."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("methods names one twice")
        return self

    @property
    def search(self) -> SearchConfig:
        """What the search alone is told."""
        return SearchConfig(**{name: getattr(self, name) for name in SearchConfig.model_fields})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What a run works with. role: the adapter's name on the base."""

    config: GcgConfig
    base: Base
    role: str | None
    writer: LocalWriter
    goals: Sequence[Goal]

    def key(self, goal: Goal, method: Method) -> str:
        """Names a row by all it depends on."""
        sizes = {"pack_tokens"}
        search = {} if method == "none" else self.config.search.model_dump(exclude=sizes)
        search |= {"opening_tokens": self.config.opening_tokens, "max_new_tokens": self.config.max_new_tokens}
        told = [goal.id, goal.request, goal.system, goal.opening]
        return digest_of([dict(self.writer.identity), told, method, search])


def run_gcg(config: GcgConfig, say: Callable[[str], None] = print, *, base: Base | None = None) -> dict[str, Any]:
    """Search, answer, compare; what is there already is kept. Ctrl-C ends it early, which the facts say.

    base: one that is loaded already. Raises ConfigError, DataError, ModelError, AdapterMismatchError, RunError.
    """
    goals = _with_opening(load_goals(config.goals, limit=None, data_dir=config.data_dir), config, say)
    base = load_base(ModelConfig(**{n: getattr(config, n) for n in ModelConfig.model_fields})) if base is None else base
    job = _open(config, base, goals)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / SUFFIXES_FILE).exists():
        say(NOTICE.format(folder=folder))
    interrupted = False
    with hold_file(folder / SUFFIXES_FILE):
        results = ResultsFile(folder / SUFFIXES_FILE)
        try:
            _search_all(job, results, say)
        except KeyboardInterrupt:
            interrupted = True
        rows = [results[job.key(g, m)] for m in config.methods for g in goals if job.key(g, m) in results]
    facts = {
        **suffix_facts(rows, config.methods, config.seed),
        "target": dict(job.writer.identity),
        "settings": config.model_dump(mode="json"),
        "interrupted": interrupted,
        "output_dir": str(folder),
    }
    atomic_write_text(folder / RESULT_FILE, json.dumps(facts, indent=2) + "\n")
    atomic_write_text(folder / PAGE_FILE, "\n".join(gcg_lines(facts)) + "\n")
    if facts["goals"]:
        curves_picture(rows, config.methods, folder / CURVES_FILE)
    return facts


def _with_opening(goals: Sequence[Goal], config: GcgConfig, say: Callable[[str], None]) -> list[Goal]:
    """The goals that a search can be held to, at most ``limit`` of them."""
    fit = [goal for goal in goals if goal.opening.strip()]
    if not fit:
        cause = "no goal has an opening that an answer is to begin with."
        raise DataError(", ".join(config.goals), cause, "Add a column 'opening', such as: Sure, here is a poem.")
    if left_out := len(goals) - len(fit):
        say(f"{left_out} goals left out: they have no opening that an answer is to begin with.")
    if config.limit is None or config.limit >= len(fit):
        return fit
    return sorted(fit, key=lambda goal: digest_of([config.seed, goal.id]))[: config.limit]


def _open(config: GcgConfig, base: Base, goals: Sequence[Goal]) -> _Job:
    role = None if config.adapter is None else load_adapter(base, Path(config.adapter), "target").adapter
    resolved = base.resolved
    digests = {
        "model_digest": base.digest,
        "tokenizer_digest": resolved.tokenizer_digest,
        "template_digest": resolved.template_digest,
    }
    writer = LocalWriter(
        LocalGenerator(base), base.tokenizer_of(role), name=resolved.name, digests=digests, adapter=role
    )
    return _Job(config=config, base=base, role=role, writer=writer, goals=goals)


def _search_all(job: _Job, results: ResultsFile, say: Callable[[str], None]) -> None:
    config = job.config
    # Portion by portion through all methods, so that a run that is stopped can be compared as far as it came.
    size = config.goals_at_once
    portions = [
        (method, [goal for goal in job.goals[first : first + size] if job.key(goal, method) not in results])
        for first in range(0, len(job.goals), size)
        for method in config.methods
    ]
    measured = {method: 1 if method == "none" else 1 + config.steps * config.candidates for method in config.methods}
    total = sum(measured[method] * len(goals) for method, goals in portions)
    say(f"{len(job.goals)} goals, {', '.join(config.methods)}: at most {total} suffixes to measure.")
    done = 0
    with Bar(total, "suffixes") as bar:
        for method, goals in portions:
            if not goals:
                continue

            def show(searches: Sequence[Search], before: int = done, name: Method = method) -> None:
                losses = [one.loss for one in searches]
                reached = sum(one.reached for one in searches)
                text = f"{name}: loss {sum(losses) / len(losses):.2f}, {reached}/{len(losses)} reached"
                bar.update(before + sum(one.measured for one in searches), text)

            began = time.perf_counter()
            searches = search_suffixes(job.base, job.role, goals, method, config.search, show)
            results.append(_rows(job, method, searches, time.perf_counter() - began))
            done += measured[method] * len(goals)
            bar.update(done)


def _rows(job: _Job, method: Method, searches: Sequence[Search], seconds: float) -> list[Mapping[str, Any]]:
    """The searches' rows, with what the model answers to each."""
    config = job.config
    asked = [Asked(messages=suffix_messages(one.slots.goal, one.text), row_id=i) for i, one in enumerate(searches)]
    written = dict(job.writer.write(asked, Sampling(max_new_tokens=config.max_new_tokens)))
    rows: list[Mapping[str, Any]] = []
    for i, one in enumerate(searches):
        goal, answer = one.slots.goal, written[i].text
        kind = read_refusal(goal.request, answer)
        rows.append(
            {
                "key": job.key(goal, method),
                "goal": goal.id,
                "request": goal.request,
                "category": goal.category,
                "method": method,
                "suffix": one.text,
                "opening_wanted": one.slots.text(one.slots.opening),
                "answer": answer,
                "stop_reason": written[i].stop_reason,
                "opening": answer.startswith(one.slots.text(one.slots.opening)),
                "kind": kind.kind,
                "followed": kind.kind in ("comply", "partly"),
                "loss": one.loss,
                "reached": one.reached,
                "stop": one.stop,
                "measured": one.measured,
                "tokens": one.num_tokens,
                "seconds": round(seconds / len(searches), 3),
                "curve": one.curve,
                **job.writer.identity,
            }
        )
    return rows
