"""Short statements that are true or false: does the model know, and does it know that it knows (arXiv:2310.01405)?"""

from __future__ import annotations

from tunesmith.errors import DataError
from tunesmith.evals.asking import divide, question, read_table, suite_task
from tunesmith.evals.choice import CHOICE_METRICS, choice_chance, choice_scorer
from tunesmith.evals.suite import Suite, SuiteConfig, data_file
from tunesmith.evals.task import Task

_TARGETS = {"1": "true", "0": "false"}


def _build(config: SuiteConfig) -> Task:
    items = []
    path = data_file(config, "true_false_facts/facts.jsonl", TRUE_FALSE_FACTS.source)
    for row, where in read_table(path, ("statement",), ("label",)):
        label = str(row["label"])
        if label not in _TARGETS:
            raise DataError(where.at("label"), "1 (true) or 0 (false) is expected.", "Correct the row.")
        prompt = f"Is this statement true or false?\n{row['statement']}"
        items.append(question("true_false_facts", prompt, _TARGETS[label], ("true", "false")))
    parts = divide("true_false_facts", items, num_examples=16)
    return suite_task(TRUE_FALSE_FACTS, config, parts, choice_scorer(), CHOICE_METRICS, chance=choice_chance)


TRUE_FALSE_FACTS = Suite(
    name="true_false_facts",
    version=1,
    source="github.com/andyzoujm/representation-engineering",
    licence="MIT",
    about="Short statements, as many true as false; the model's probability is made for a calibration curve.",
    answers="choice",
    headline="acc",
    build=_build,
)
