"""LegalBench: short questions of American law, the few-shot rows of 14 tasks (Guha et al. 2023, arXiv:2308.11462).

The prompts are our own; the test rows, and the options that the merger-agreement tasks name by letters, are elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tunesmith.errors import DataError
from tunesmith.evals.asking import divide, question, read_table, suite_task
from tunesmith.evals.choice import CHOICE_METRICS, choice_chance, choice_scorer
from tunesmith.evals.suite import Suite, SuiteConfig, data_file
from tunesmith.evals.task import Item, Task
from tunesmith.records import Where

_YES_NO = ("Yes", "No")
_UNFAIR = (
    "Arbitration", "Unilateral change", "Content removal", "Jurisdiction", "Choice of law", "Limitation of liability",
    "Unilateral termination", "Contract by using", "Other",
)  # fmt: skip
_OPTIONS = {"ucc_v_common_law": ("UCC", "Common Law"), "unfair_tos": _UNFAIR}
# Task -> what is asked after the row's text; None: the text or the row's own question says it.
PROMPTS: Mapping[str, str | None] = {
    "contract_qa": None,
    "hearsay": "Hearsay is an out-of-court statement introduced to prove the truth of the matter asserted. Is there "
    "hearsay?",
    "international_citizenship_questions": None,
    "jcrew_blocker": "A JCrew blocker keeps intellectual property out of unrestricted subsidiaries. Is this "
    "clause one?",
    "legal_reasoning_causality": "Does this excerpt rely on statistical evidence to decide about causality?",
    "overruling": "Does this sentence overrule an earlier case?",
    "personal_jurisdiction": "Does the court have personal jurisdiction over the defendant?",
    "proa": "Does this statute give private persons a right to sue?",
    "supply_chain_disclosure_best_practice_accountability": "Does this statement say that the company has standards of "
    "accountability for employees or contractors that fail its rules on slavery and trafficking?",
    "supply_chain_disclosure_disclosed_accountability": "Does this statement say to what extent the company keeps "
    "standards of accountability on slavery and trafficking?",
    "supply_chain_disclosure_disclosed_certification": "Does this statement say to what extent the company has "
    "suppliers certify that their materials comply with laws on slavery and trafficking?",
    "telemarketing_sales_rule": None,
    "ucc_v_common_law": None,
    "unfair_tos": "What is this clause of terms of service about?",
}


def _item(row: Mapping[str, Any], where: Where) -> Item:
    task, choices = row["task"], _OPTIONS.get(row["task"], _YES_NO)
    if row["answer"] not in choices:
        raise DataError(where.at("answer"), f"one of {', '.join(choices)} is expected.", "Correct the row.")
    text = (row.get("text") or row.get("contract") or "").strip()
    asked = [
        text,
        row.get("question") or "",
        PROMPTS[task] or "",
        f"Answer {', '.join(choices[:-1])} or {choices[-1]}.",
    ]
    item = question(f"legalbench-{task}", "\n".join(part for part in asked if part), row["answer"], choices, task=task)
    # One document may stand in several tasks.
    return replace(item, group=hashlib.sha256((text or row["question"]).encode()).hexdigest()[:12])


def _build(config: SuiteConfig) -> Task:
    rows = read_table(data_file(config, "legalbench/fewshot.jsonl", LEGALBENCH.source), ("task", "answer"))
    items = [_item(row, where) for row, where in rows if row["task"] in PROMPTS]
    parts = divide("legalbench", items)
    return suite_task(LEGALBENCH, config, parts, choice_scorer(), CHOICE_METRICS, chance=choice_chance)


LEGALBENCH = Suite(
    name="legalbench",
    version=1,
    source="github.com/HazyResearch/legalbench",
    licence="CC BY 4.0",
    about="Few-shot rows of 14 tasks with given options, asked zero-shot in our own words; tasks whose options or "
    "lists the rows do not hold are left out. Dozens of rows: a smoke test of legal reading, not LegalBench's score.",
    answers="choice",
    headline="acc",
    build=_build,
)
