"""Requests that should be declined, and requests that only look like them: what a model does with each.

Harmful: AdvBench (Zou et al. 2023, arXiv:2307.15043), HarmBench's standard behaviours (Mazeika et al. 2024,
arXiv:2402.04249), HarmfulQA (Bhardwaj and Poria 2023, arXiv:2308.09662) and XSTest's unsafe half. Safe: XSTest's other
half (Roettger et al. 2024, arXiv:2308.01263). The files are the user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from tunesmith.errors import DataError
from tunesmith.evals.asking import divide, question, read_table, suite_task
from tunesmith.evals.safety import SAFETY_METRICS, request_outcome, with_losses
from tunesmith.evals.suite import Suite, SuiteConfig, data_file
from tunesmith.evals.task import Item, Task

_ABOUT = " Told by a text detector whose errors are measured: docs/refusal.md. A nonsensical answer counts as neither."
_XSTEST = "github.com/paul-rottger/exaggerated-safety"
_TOKENS = 128


def _task(suite: Suite, config: SuiteConfig, items: Sequence[Item], requests: Literal["harmful", "safe"]) -> Task:
    parts = divide(suite.name, items)
    return with_losses(suite_task(suite, config, parts, request_outcome, SAFETY_METRICS), requests)


def _harmful(suite: Callable[[], Suite], file: str, column: str, category: str = "") -> Callable[[SuiteConfig], Task]:
    def build(config: SuiteConfig) -> Task:
        own = suite()
        columns = (column, category) if category else (column,)
        rows = read_table(data_file(config, file, own.source), columns)
        items = [question(own.name, row[column], "", category=row[category] if category else "") for row, _ in rows]
        return _task(own, config, items, "harmful")

    return build


def _xstest(
    suite: Callable[[], Suite], label: str, requests: Literal["harmful", "safe"]
) -> Callable[[SuiteConfig], Task]:
    def build(config: SuiteConfig) -> Task:
        own = suite()
        items = []
        for row, where in read_table(data_file(config, "xstest/prompts.csv", own.source), ("prompt", "label", "type")):
            if row["label"] not in ("safe", "unsafe"):
                raise DataError(where.at("label"), "safe or unsafe is expected.", "Correct the row.")
            if row["label"] == label:
                items.append(question(own.name, row["prompt"], "", category=row["type"]))
        return _task(own, config, items, requests)

    return build


ADVBENCH: Suite = Suite(
    name="advbench",
    version=1,
    source="github.com/llm-attacks/llm-attacks",
    licence="MIT",
    about="Harmful instructions; complied: the share followed, less is better." + _ABOUT,
    answers="text",
    headline="complied",
    max_new_tokens=_TOKENS,
    build=_harmful(lambda: ADVBENCH, "advbench/harmful_behaviors.csv", "goal"),
)
HARMBENCH: Suite = Suite(
    name="harmbench",
    version=1,
    source="github.com/centerforaisafety/HarmBench",
    licence="MIT",
    about="Harmful behaviours, the standard ones; complied: the share followed, less is better." + _ABOUT,
    answers="text",
    headline="complied",
    max_new_tokens=_TOKENS,
    build=_harmful(lambda: HARMBENCH, "harmbench/standard_behaviors.jsonl", "behavior", "category"),
)
HARMFULQA: Suite = Suite(
    name="harmfulqa",
    version=1,
    source="github.com/declare-lab/red-instruct",
    licence="Apache-2.0",
    about="Harmful questions by topic; complied: the share answered, less is better." + _ABOUT,
    answers="text",
    headline="complied",
    max_new_tokens=_TOKENS,
    build=_harmful(lambda: HARMFULQA, "harmfulqa/questions.jsonl", "question", "topic"),
)
XSTEST_UNSAFE: Suite = Suite(
    name="xstest-unsafe",
    version=1,
    source=_XSTEST,
    licence="CC BY 4.0",
    about="Unsafe prompts, each much like a safe one; complied: the share followed, less is better." + _ABOUT,
    answers="text",
    headline="complied",
    max_new_tokens=_TOKENS,
    build=_xstest(lambda: XSTEST_UNSAFE, "unsafe", "harmful"),
)
XSTEST_SAFE: Suite = Suite(
    name="xstest-safe",
    version=1,
    source=_XSTEST,
    licence="CC BY 4.0",
    about="Safe prompts that look unsafe; declined: over-refusal, in whole or in part, less is better." + _ABOUT,
    answers="text",
    headline="declined",
    max_new_tokens=_TOKENS,
    build=_xstest(lambda: XSTEST_SAFE, "safe", "safe"),
)
SAFETY_SUITES = (ADVBENCH, HARMBENCH, HARMFULQA, XSTEST_UNSAFE, XSTEST_SAFE)
