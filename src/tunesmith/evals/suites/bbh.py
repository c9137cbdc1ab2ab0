"""BIG-Bench Hard: eight of its tasks, answered in words or by likelihood (Suzgun et al. 2022, arXiv:2210.09261)."""

from __future__ import annotations

import re

from tunesmith.errors import DataError
from tunesmith.evals.asking import Parts, divide, question, read_table, suite_task
from tunesmith.evals.choice import CHOICE_METRICS, choice_chance, choice_scorer
from tunesmith.evals.scorers import exact_text
from tunesmith.evals.suite import Suite, SuiteConfig, data_file
from tunesmith.evals.task import Item, Task

INSTRUCTIONS = {
    "boolean_expressions": "Evaluate this expression. Answer True or False.",
    "date_understanding": "Answer with the letter of the right option, such as (A).",
    "hyperbaton": "Answer with the letter of the right option, such as (A).",
    "navigate": "Answer Yes or No.",
    "object_counting": "Answer with a number only.",
    "sports_understanding": "Answer yes or no.",
    "web_of_lies": "Answer Yes or No.",
    "word_sorting": "Answer with the sorted words, a blank between two.",
}
_CHOICES = {
    "boolean_expressions": ("True", "False"),
    "navigate": ("Yes", "No"),
    "sports_understanding": ("yes", "no"),
    "web_of_lies": ("Yes", "No"),
}
_LETTER = re.compile(r"^\([A-Z]\)", re.MULTILINE)


def _choices(task: str, text: str) -> tuple[str, ...]:
    return _CHOICES.get(task) or tuple(_LETTER.findall(text))


def _parts(suite: Suite, config: SuiteConfig, *, choice: bool) -> Parts:
    items: list[Item] = []
    for row, where in read_table(data_file(config, "bbh/examples.jsonl", suite.source), ("task", "input", "target")):
        task, text, target = row["task"], row["input"], row["target"]
        if task not in INSTRUCTIONS:
            cause = f"'{task}' is not one of the tasks this suite has prompts for."
            raise DataError(where.at("task"), cause, f"Keep {', '.join(INSTRUCTIONS)}.")
        choices = _choices(task, text)
        if choices and target not in choices:
            raise DataError(where.at("target"), f"'{target}' is none of the options.", "Correct the row.")
        if choices or not choice:
            prompt = f"{INSTRUCTIONS[task]}\n{text}"
            items.append(question(f"bbh-{task}", prompt, target, choices if choice else (), task=task))
    return divide(suite.name, items, num_examples=5, by="task")


def _build_text(config: SuiteConfig) -> Task:
    parts = _parts(BBH, config, choice=False)
    return suite_task(BBH, config, parts, exact_text, ("exact", "contained"), by="task")


def _build_choice(config: SuiteConfig) -> Task:
    parts = _parts(BBH_CHOICE, config, choice=True)
    scorer = choice_scorer()
    return suite_task(BBH_CHOICE, config, parts, scorer, CHOICE_METRICS, chance=choice_chance, by="task")


BBH = Suite(
    name="bbh",
    version=1,
    source="github.com/suzgunmirac/BIG-Bench-Hard",
    licence="MIT",
    about="Eight tasks that were hard for language models, answered in words after three examples of the same task, "
    "without a chain of thought.",
    answers="text",
    headline="exact",
    shots=3,
    max_new_tokens=96,
    build=_build_text,
)
BBH_CHOICE = Suite(
    name="bbh_choice",
    version=1,
    source=BBH.source,
    licence=BBH.licence,
    about="The six of the eight tasks that offer options, answered by the likeliest one after three examples.",
    answers="choice",
    headline="acc",
    shots=3,
    build=_build_choice,
)
