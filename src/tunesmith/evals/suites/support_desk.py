"""The demo's suite: tickets from messages whose wordings, products and names were never trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.data.examples import support_desk
from tunesmith.evals.scorers import ToneRules, json_ticket
from tunesmith.evals.task import Item, Solver, Task, bare_prompt, few_shot
from tunesmith.randomness import permutation
from tunesmith.records import Message

METRICS = ("valid_json", *support_desk.FIELDS, "all_fields", "tone")
TONE = ToneRules(
    max_words=25,
    num_emojis=1,
    cheerful_words=support_desk.CHEERFUL_WORDS,
    gloomy_words=support_desk.GLOOMY_WORDS,
)


def items_of(split: str) -> list[Item]:
    """The shipped rows of a split as items; the ticket is the target."""
    return [_item(f"{split}-{i}", row) for i, row in enumerate(support_desk.read_rows(split))]


def _item(name: str, row: Mapping[str, Any]) -> Item:
    *asked, answer = row["messages"]
    messages = tuple(Message(role=turn["role"], content=turn["content"]) for turn in asked)
    return Item(id=name, messages=messages, target=answer["content"])


def support_desk_task(num_items: int | None, *, num_shots: int = 0, seed: int = 0) -> Task:
    """The test rows, or a seeded subset of them that every condition shares; shots come from the training rows."""
    items = items_of("test")
    order = permutation(len(items), seed, "support_desk_subset")[: num_items or len(items)]
    solver: Solver = few_shot(items_of("train"), num_shots, seed) if num_shots else bare_prompt
    return Task(
        name="support_desk",
        version=1,
        items=tuple(items[i] for i in order),
        solver=solver,
        scorer=json_ticket(support_desk.FIELDS, "reply", TONE),
        metrics=METRICS,
    )
