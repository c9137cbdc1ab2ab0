"""PubMedQA: yes, no or maybe after a medical abstract without its conclusion (Jin et al. 2019, arXiv:1909.06146)."""

from __future__ import annotations

from tunesmith.errors import DataError
from tunesmith.evals.asking import divide, question, read_table, suite_task
from tunesmith.evals.choice import CHOICE_METRICS, choice_chance, choice_scorer
from tunesmith.evals.suite import Suite, SuiteConfig, data_file
from tunesmith.evals.task import Task

_ANSWERS = ("yes", "no", "maybe")


def _build(config: SuiteConfig) -> Task:
    items = []
    path = data_file(config, "pubmedqa/questions.jsonl", PUBMEDQA.source)
    for row, where in read_table(path, ("question", "final_decision"), ("contexts",)):
        if row["final_decision"] not in _ANSWERS:
            raise DataError(where.at("final_decision"), "yes, no or maybe is expected.", "Correct the row.")
        abstract = "\n".join(row["contexts"])
        prompt = f"{abstract}\n\nQuestion: {row['question']} Answer yes, no or maybe."
        items.append(question("pubmedqa", prompt, row["final_decision"], _ANSWERS))
    parts = divide("pubmedqa", items, num_examples=8)
    return suite_task(PUBMEDQA, config, parts, choice_scorer(), CHOICE_METRICS, chance=choice_chance)


PUBMEDQA = Suite(
    name="pubmedqa",
    version=1,
    source="github.com/pubmedqa/pubmedqa",
    licence="MIT",
    about="A research question answered from its abstract, the conclusion left out. Of the rows 52 % are 'yes': always "
    "saying so beats chance.",
    answers="choice",
    headline="acc",
    build=_build,
)
