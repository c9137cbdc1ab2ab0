"""The demo's suite: tickets from messages whose wordings, products and names were never trained on."""

from __future__ import annotations

from tunesmith.data.examples import support_desk
from tunesmith.evals.scorers import ToneRules, json_ticket
from tunesmith.evals.task import Task, bare_prompt, few_shot, items_from_rows, subset

METRICS = ("valid_json", *support_desk.FIELDS, "all_fields", "tone")
TONE = ToneRules(
    max_words=support_desk.MAX_REPLY_WORDS,
    num_emojis=1,
    cheerful_words=support_desk.CHEERFUL_WORDS,
    gloomy_words=support_desk.GLOOMY_WORDS,
)


def support_desk_task(num_items: int | None, *, num_shots: int = 0, seed: int = 0) -> Task:
    """The test rows, or a seeded subset of them that every condition shares; shots come from the training rows."""
    items = items_from_rows(support_desk.read_rows("test"), "test")
    examples = items_from_rows(support_desk.read_rows("train"), "train") if num_shots else []
    return Task(
        name="support_desk",
        version=1,
        items=subset(items, num_items, seed),
        solver=few_shot(examples, num_shots, seed) if num_shots else bare_prompt,
        scorer=json_ticket(support_desk.FIELDS, "reply", TONE),
        metrics=METRICS,
    )
