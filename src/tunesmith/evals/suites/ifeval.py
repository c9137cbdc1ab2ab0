"""IFEval: are instructions that a program can check followed (Zhou et al. 2023, arXiv:2311.07911)?"""

from __future__ import annotations

from dataclasses import replace

from tunesmith.evals.asking import divide, question, read_table, suite_task
from tunesmith.evals.ifeval import IFEVAL_METRICS, IFEVAL_RATIOS, instruction_following
from tunesmith.evals.suite import Suite, SuiteConfig, data_file
from tunesmith.evals.task import Task

_CHECKED = ("instruction_id_list", "kwargs")


def _build(config: SuiteConfig) -> Task:
    items = []
    path = data_file(config, "ifeval/prompts.jsonl", IFEVAL.source)
    for row, _ in read_table(path, ("prompt",), ("key", *_CHECKED)):
        item = question("ifeval", row["prompt"], "", **{name: row[name] for name in _CHECKED})
        items.append(replace(item, id=f"ifeval-{row['key']}"))
    parts, score = divide("ifeval", items), instruction_following()
    return suite_task(IFEVAL, config, parts, score, IFEVAL_METRICS, ratios=IFEVAL_RATIOS)


IFEVAL = Suite(
    name="ifeval",
    version=1,
    source="github.com/google-research/google-research/tree/master/instruction_following_eval",
    licence="Apache-2.0",
    about="Prompts with instructions that a program checks: lengths, words, forms. Strict: the reply as it is; loose: "
    "without its first or last line or its asterisks.",
    answers="text",
    headline="prompt_strict",
    max_new_tokens=512,
    build=_build,
)
