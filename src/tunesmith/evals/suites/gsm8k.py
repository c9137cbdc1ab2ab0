"""GSM8K: school maths in words; the final number of a worked answer counts (Cobbe et al. 2021, arXiv:2110.14168)."""

from __future__ import annotations

import re

from tunesmith.errors import DataError
from tunesmith.evals.asking import question, read_table, suite_task, with_own_test
from tunesmith.evals.numeric import numeric_answer
from tunesmith.evals.suite import Suite, SuiteConfig, data_file
from tunesmith.evals.task import Item, Task
from tunesmith.records import Where

PROMPT = "{question}\nThink step by step, and end with the line '#### ' and the number."
_GOLD = re.compile(r"^#### *(-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?) *\Z", re.MULTILINE)
# The calculator's notes, <<2*3=6>>, were for the authors' own model.
_NOTE = re.compile(r"<<[^<>\n]*>>")


def gold_number(answer: str, where: Where) -> str:
    """The number on the last line of a worked answer, behind '####', without commas. Raises DataError without one."""
    found = _GOLD.search(answer.rstrip())
    if found is None:
        raise DataError(where.at("answer"), "no gold number stands behind '####'.", "End the answer with '#### 42'.")
    return found[1].replace(",", "")


def _items(config: SuiteConfig, part: str) -> list[Item]:
    items = []
    for row, where in read_table(data_file(config, f"gsm8k/{part}.jsonl", GSM8K.source), ("question", "answer")):
        number, worked = gold_number(row["answer"], where), _NOTE.sub("", row["answer"])
        items.append(question(f"gsm8k-{part}", PROMPT.format(question=row["question"]), worked, number=number))
    return items


def _build(config: SuiteConfig) -> Task:
    parts = with_own_test("gsm8k", _items(config, "train"), _items(config, "test"), num_examples=16)
    return suite_task(GSM8K, config, parts, numeric_answer(mark="####"), ("numeric", "marked"))


GSM8K = Suite(
    name="gsm8k",
    version=1,
    source="github.com/openai/grade-school-math",
    licence="MIT",
    about="School maths in words. numeric: the number behind '####', else the answer's last one, is right; marked: and "
    "it stood behind '####'.",
    answers="text",
    headline="numeric",
    shots=4,
    max_new_tokens=256,
    build=_build,
)
