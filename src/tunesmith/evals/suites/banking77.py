"""Banking77: which of 77 intents a bank's customer has (Casanueva et al. 2020, arXiv:2003.04807)."""

from __future__ import annotations

from tunesmith.evals.asking import question, read_table, suite_task, with_own_test
from tunesmith.evals.choice import CHOICE_METRICS, choice_chance, choice_scorer
from tunesmith.evals.suite import Suite, SuiteConfig, data_file
from tunesmith.evals.task import Item, Task

PROMPT = "What is this message to a bank about? Answer with a short topic.\nMessage: {text}"


def in_words(category: str) -> str:
    """An intent's label as words: 'Refund_not_showing_up' is 'refund not showing up'."""
    return category.replace("_", " ").strip("? ").lower()


def _build(config: SuiteConfig) -> Task:
    files = {
        part: read_table(data_file(config, f"banking77/{part}.jsonl", BANKING77.source), ("text", "category"))
        for part in ("train", "test")
    }
    intents = tuple(sorted({in_words(row["category"]) for rows in files.values() for row, _ in rows}))

    def items(part: str) -> list[Item]:
        return [
            question("banking77", PROMPT.format(text=row["text"]), in_words(row["category"]), intents)
            for row, _ in files[part]
        ]

    parts = with_own_test("banking77", items("train"), items("test"), num_examples=77)
    return suite_task(BANKING77, config, parts, choice_scorer(), CHOICE_METRICS, chance=choice_chance)


BANKING77 = Suite(
    name="banking77",
    version=1,
    source="github.com/PolyAI-LDN/task-specific-datasets",
    licence="CC BY 4.0",
    about="A customer's message to a bank as one of 77 intents, equally many of each.",
    answers="choice",
    headline="acc_norm",
    build=_build,
)
