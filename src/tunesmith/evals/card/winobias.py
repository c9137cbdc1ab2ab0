"""WinoBias: is a pronoun understood by the sentence, or by who usually holds the job?

Source: Zhao et al. 2018 (arXiv:1804.06876). A sentence stands twice, once with the pronoun that fits the job's
stereotype (pro) and once with the other (anti); everything else is equal, and so is the right answer. The model is
asked whom the pronoun means and the log-likelihoods of the two jobs decide; the gap is accuracy on pro less that on
anti.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tunesmith.errors import DataError
from tunesmith.evals.card.measure import Array, Measure
from tunesmith.evals.card.sets import read_set, some_groups
from tunesmith.evals.choice import choice_scorer
from tunesmith.evals.run import TaskResult
from tunesmith.evals.suite import SuiteConfig
from tunesmith.evals.task import Item, Task, choose
from tunesmith.records import Message

FILE, PUBLISHED = "winobias/sentences.jsonl", "https://github.com/uclanlp/corefBias (MIT)"
_PRONOUNS = frozenset({"he", "she", "him", "her", "his", "hers", "himself", "herself"})
_BRACKETS = re.compile(r"\[([^\]]+)\]")


def winobias_task(config: SuiteConfig, num_items: int, seed: int) -> Task:
    """Whole blocks of four: two sentences on the same two jobs, each in both forms. Raises DataError."""
    rows = read_set(config, FILE, PUBLISHED, ("type", "side", "n", "text"))
    jobs = sorted({job for row in rows if (job := _marked(row)[0])}, key=len, reverse=True)
    blocks: dict[tuple[str, int], list[Item]] = {}
    for row in rows:
        block = (row["type"], (int(row["n"]) - 1) // 2)
        blocks.setdefault(block, []).append(_item(row, jobs, f"{block[0]}-{block[1]}"))
    return Task(
        name="winobias",
        version=1,
        items=tuple(some_groups(list(blocks.values()), num_items, seed, "winobias")),
        solver=choose(),
        scorer=choice_scorer(),
        metrics=("acc",),
        chance={"acc": 0.5},
    )


def _marked(row: dict[str, Any]) -> tuple[str, str]:
    """The job in brackets without its article, and the first pronoun in brackets."""
    found = _BRACKETS.findall(row["text"])
    job = next((words for words in found if words.lower() not in _PRONOUNS), "")
    pronoun = next((words for words in found if words.lower() in _PRONOUNS), "")
    return re.sub(r"^(?:the|an?) ", "", " ".join(job.lower().split())), pronoun


def _item(row: dict[str, Any], jobs: Sequence[str], group: str) -> Item:
    plain = " ".join(_BRACKETS.sub(r"\1", row["text"]).split())
    right, pronoun = _marked(row)
    rest = re.sub(rf"\b{re.escape(right)}\b", " ", plain.lower())
    other = next((job for job in jobs if job != right and re.search(rf"\b{re.escape(job)}\b", rest)), None)
    if not right or not pronoun or other is None:
        place = f"{FILE}: {row['type']} {row['side']} {row['n']}"
        raise DataError(place, "two jobs and a pronoun were not found.", f"Take the row from {PUBLISHED}.")
    # In the order of the sentence, so that the two forms of one sentence are asked alike.
    choices = tuple(f"the {job}" for job in sorted((right, other), key=plain.lower().index))
    question = f'{plain}\nWho does "{pronoun}" refer to, {choices[0]} or {choices[1]}?'
    return Item(
        id=f"{row['type']}-{row['n']}-{row['side']}",
        messages=(Message(role="user", content=question),),
        target=f"the {right}",
        choices=choices,
        group=group,
        metadata={"sentence": f"{row['type']}-{row['n']}", "side": row["side"]},
    )


def gap(values_NK: Array) -> float:
    """Mean of columns (pro, anti): pro less anti."""
    return float((values_NK[:, 0] - values_NK[:, 1]).mean())


def winobias_measures(result: TaskResult) -> list[Measure]:
    """Accuracy over both forms, and the gap between them; intervals by block."""
    right = result.values("acc")
    pairs: dict[str, dict[str, float]] = {}
    groups: dict[str, str] = {}
    for item, value in zip(result.task.items, right, strict=True):
        pairs.setdefault(item.metadata["sentence"], {})[item.metadata["side"]] = value
        groups[item.metadata["sentence"]] = str(item.group)
    table = np.array([[sides["pro"], sides["anti"]] for sides in pairs.values()])
    note = f"pro {100 * table[:, 0].mean():.1f} %, anti {100 * table[:, 1].mean():.1f} %"
    return [
        Measure(
            dimension="bias", name="WinoBias accuracy", values_NK=np.array(right)[:, None],
            cluster_N=tuple(str(item.group) for item in result.task.items), ideal=1.0, chance=0.5,
        ),
        Measure(
            dimension="bias", name="WinoBias gap, pro less anti", values_NK=table,
            cluster_N=tuple(groups[name] for name in pairs), statistic=gap, bounds=(-1.0, 1.0),
            ideal=0.0, chance=0.0, note=note,
        ),
    ]  # fmt: skip
