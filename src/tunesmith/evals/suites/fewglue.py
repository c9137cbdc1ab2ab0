"""BoolQ and COPA as FewGLUE has them: 32 rows each (Schick and Schuetze 2021, arXiv:2009.07118)."""

from __future__ import annotations

from tunesmith.errors import DataError
from tunesmith.evals.asking import divide, question, read_table, suite_task
from tunesmith.evals.choice import CHOICE_METRICS, choice_chance, choice_scorer
from tunesmith.evals.suite import Suite, SuiteConfig, data_file
from tunesmith.evals.task import Task

_NUM_EXAMPLES = 4
_SMALL = " 32 rows: the interval is wide, and says so."


def _build_boolq(config: SuiteConfig) -> Task:
    items = []
    path = data_file(config, "fewglue/boolq_train.jsonl", BOOLQ.source)
    for row, where in read_table(path, ("question", "passage"), ("label",)):
        if not isinstance(row["label"], bool):
            raise DataError(where.at("label"), "true or false is expected.", "Write it without quotes.")
        prompt = f"{row['passage']}\n\nQuestion: {row['question']}? Answer yes or no."
        items.append(question("boolq", prompt, "yes" if row["label"] else "no", ("yes", "no")))
    parts = divide("boolq", items, num_examples=_NUM_EXAMPLES)
    return suite_task(BOOLQ, config, parts, choice_scorer(), CHOICE_METRICS, chance=choice_chance)


def _build_copa(config: SuiteConfig) -> Task:
    items = []
    path = data_file(config, "fewglue/copa_train.jsonl", COPA.source)
    for row, where in read_table(path, ("premise", "choice1", "choice2", "question"), ("label",)):
        if row["label"] not in (0, 1) or row["question"] not in ("cause", "effect"):
            raise DataError(where, "label must be 0 or 1 and question 'cause' or 'effect'.", "Correct the row.")
        choices = (row["choice1"], row["choice2"])
        asked = "What was the cause?" if row["question"] == "cause" else "What happened as a result?"
        items.append(question("copa", f"{row['premise']} {asked}", choices[row["label"]], choices))
    parts = divide("copa", items, num_examples=_NUM_EXAMPLES)
    return suite_task(COPA, config, parts, choice_scorer(), CHOICE_METRICS, chance=choice_chance)


BOOLQ = Suite(
    name="boolq",
    version=1,
    source="github.com/timoschick/fewglue",
    licence="CC BY-SA 3.0",
    about="A yes/no question about a passage (Clark et al. 2019, arXiv:1905.10044)." + _SMALL,
    answers="choice",
    headline="acc",
    build=_build_boolq,
)
COPA = Suite(
    name="copa",
    version=1,
    source="github.com/timoschick/fewglue",
    licence="BSD-2-Clause",
    about="Which of two sentences is the cause or the effect of a third (Roemmele et al. 2011)." + _SMALL,
    answers="choice",
    headline="acc",
    build=_build_copa,
)
