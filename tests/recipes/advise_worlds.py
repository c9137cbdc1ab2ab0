"""A scripted model for ``advise``: what it can do is known, so the right advice is too.

It answers from what it is shown if it reads, from what it was tuned on if it learns, and from instructions if those
are all it needs; else it says that it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from tunesmith.config import build_config
from tunesmith.evals.advise.answers import answers_of
from tunesmith.evals.advise.bench import Bench, Counter
from tunesmith.evals.advise.conditions import question_of
from tunesmith.evals.advise.ledger import Ledger
from tunesmith.evals.subject import Subject
from tunesmith.evals.task import Item
from tunesmith.recipes.advise_config import AdviseConfig
from tunesmith.recipes.advise_rows import TaskRows, load_rows
from tunesmith.recipes.advise_tune import Tuned
from tunesmith.retrieval.lexical import words
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Written

ANIMALS = (
    "heron", "otter", "badger", "falcon", "lynx", "newt", "moth", "crane", "stoat", "viper", "swift", "perch",
    "raven", "shrew", "trout", "finch", "mole", "hare", "toad", "wren",
)  # fmt: skip
ASKED = ("{}: who feeds?", "{}, looked after by?", "keeper of {}")


def write_rows(path: Path) -> Path:
    """Each animal's keeper in three wordings: what one row says, another one's question asks for."""
    rows = [
        {"input": wording.format(animal), "output": f"Keeper {chr(65 + i)}{animal[:2]}"}
        for i, animal in enumerate(ANIMALS)
        for wording in ASKED
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@dataclass(slots=True, kw_only=True)
class World:
    """What the model can do; ``memory``: adapter -> the rows it was tuned on; ``asked``: every request it saw."""

    reads: bool = False
    learns: bool = False
    obeys: str = ""
    """An instruction that is all it needs."""
    memory: dict[str, list[Item]] = field(default_factory=dict)
    truth: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tuned_on: list[tuple[str, int]] = field(default_factory=list)

    def answer(self, messages: Sequence[Any], adapter: str | None) -> str:
        question = messages[-1].content
        if self.obeys and any(self.obeys in message.content for message in messages):
            return next((t for q, t in self.truth.items() if q in question), "no idea")
        if self.reads and (found := _best(question.split("\n\n")[-1], _shown(messages))):
            return found
        if self.learns and adapter is not None:
            known = [(question_of(item), item.target) for item in self.memory[adapter]]
            return _best(question.split("\n\n")[-1], known) or "no idea"
        return "no idea"

    def tune(self, name: str, rows: Sequence[Item], validation: Sequence[Item], epochs: float) -> Tuned:
        self.memory[name] = list(rows)
        self.tuned_on.append((name, len(rows)))
        return Tuned(
            adapter=name, folder=Path(name), num_rows=len(rows), seconds=60.0 * len(rows), num_tokens=100 * len(rows),
            loss_before=2.0, loss_after=1.0, best_step=3,
        )  # fmt: skip


def _shown(messages: Sequence[Any]) -> list[tuple[str, str]]:
    turns = [(a.content, b.content) for a, b in pairwise(messages) if b.role == "assistant"]
    for line in messages[-1].content.splitlines():
        if line.startswith("["):
            text = line.partition("] ")[2]
            turns.append((text.rpartition(" ")[0], text.rpartition(" ")[2]))
    return turns


def _best(question: str, known: Sequence[tuple[str, str]]) -> str:
    """The answer to the known question with the same rarest word, '' where none has it."""
    asked = [word for word in words(question) if word in ANIMALS or word in _THINGS]
    return next((answer for text, answer in known if set(asked) & set(words(text))), "")


_THINGS = (
    "lamp", "kettle", "flute", "globe", "clock", "map", "comb", "drum", "bell", "fan", "chest", "harp", "cradle",
    "sundial", "jug", "crown",
)  # fmt: skip


class ScriptedWriter:
    """The world's answers, as a writer with one adapter."""

    def __init__(self, world: World, adapter: str | None) -> None:
        self.world, self.adapter = world, adapter

    @property
    def identity(self) -> Mapping[str, str]:
        taught = [item.target for item in self.world.memory.get(self.adapter or "", [])]
        return {"model": "scripted", "adapter_digest": f"{self.adapter}-{hash(tuple(taught))}"}

    def write(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[tuple[int, Written]]:
        for i, one in enumerate(asked):
            self.world.asked.append(one.messages[-1].content)
            yield i, Written(text=self.world.answer(one.messages, self.adapter), stop_reason="end_of_turn")


def open_world(world: World, folder: Path, **settings: Any) -> tuple[AdviseConfig, TaskRows, Bench]:
    """Rows in the folder, and the world on a bench; tokens are words."""
    defaults = {
        "task": str(write_rows(folder / "rows.jsonl")), "output_dir": str(folder / "out"), "dense": False, "shots": [2],
        "retrieved": [1, 2], "timed_requests": 2, "requests": 100,
    }  # fmt: skip
    config = build_config(AdviseConfig, defaults | settings, place="test")
    rows = load_rows(config)
    world.truth = {question_of(item): item.target for side in (rows.train, rows.validation, rows.test) for item in side}
    bench = Bench(
        subject_of=lambda adapter: Subject(
            label=adapter or "base", writer=ScriptedWriter(world, adapter), likelihood=None
        ),
        answers=answers_of([item.target for item in rows.train], config.answers, by_choice=config.by_choice),
        sampling=Sampling(max_new_tokens=8),
        results=Path(config.output_dir) / "answers.jsonl",
        ledger=Ledger(Path(config.output_dir) / "times.json"),
        counter=Counter(
            prompt=lambda messages: sum(len(words(message.content)) for message in messages),
            text=lambda text: len(words(text)),
            context=2000,
        ),
        seed=config.seed,
        num_timed=config.timed_requests,
    )
    return config, rows, bench
