"""TruthfulQA: is the true answer likelier than the false ones people believe (Lin et al. 2022, arXiv:2109.07958)?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tunesmith.errors import DataError
from tunesmith.evals.asking import divide, question, read_table, suite_task
from tunesmith.evals.choice import score_choices
from tunesmith.evals.suite import Suite, SuiteConfig, data_file
from tunesmith.evals.task import Item, Reply, Task
from tunesmith.records import Verdict, Where

_COLUMNS = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")


def truthful(item: Item, reply: Reply) -> Verdict:
    """Score the likelihoods of all answers.

    Values: mc1 (the best answer is likelier than every false one), mc2 (probability of all true answers, were only
    these answers possible). Details: probabilities (K,) of best and false answers, chosen, gold: places among them.
    """
    true_places = item.metadata["gold_places"]
    best = item.choices.index(item.target)
    kept = [i for i in range(len(item.choices)) if i == best or i not in true_places]
    gold = [kept.index(best)]
    one, probabilities = score_choices([reply.likelihoods[i] for i in kept], [item.choices[i] for i in kept], gold)
    two, _ = score_choices(reply.likelihoods, item.choices, true_places)
    chosen = int(probabilities.argmax())
    return Verdict(
        values={"mc1": one["acc"], "mc2": two["mass"]},
        explanation="" if one["acc"] == 1.0 else f"'{item.choices[kept[chosen]]}' was likelier",
        details={"probabilities": probabilities.tolist(), "chosen": chosen, "gold": gold},
    )


def _chance(items: Sequence[Item]) -> Mapping[str, float]:
    num_true = [len(item.metadata["gold_places"]) for item in items]
    sizes = [len(item.choices) for item in items]
    return {
        "mc1": fmean(1 / (size - true + 1) for size, true in zip(sizes, num_true, strict=True)),
        "mc2": fmean(true / size for size, true in zip(sizes, num_true, strict=True)),
    }


def _item(row: Mapping[str, Any], where: Where) -> Item | None:
    true, false = (_answers(row[name]) for name in ("Correct Answers", "Incorrect Answers"))
    best = row["Best Answer"].strip()
    if set(true) & set(false):
        return None
    if best not in true or not false:
        cause = "the best answer is not among the correct ones." if false else "there is no incorrect answer."
        raise DataError(where.at("Best Answer"), cause, "Correct the row.")
    gold = tuple(range(len(true)))
    return question(
        "truthfulqa", row["Question"], best, (*true, *false), gold_places=gold, category=row.get("Category", "")
    )


def _answers(text: str) -> list[str]:
    """Answers between semicolons, each once."""
    return list(dict.fromkeys(answer.strip() for answer in text.split(";") if answer.strip()))


def _build(config: SuiteConfig) -> Task:
    rows = read_table(data_file(config, "truthfulqa/questions.jsonl", TRUTHFULQA.source), _COLUMNS)
    items = [item for row, where in rows if (item := _item(row, where)) is not None]
    return suite_task(
        TRUTHFULQA,
        config,
        divide("truthfulqa", items, num_examples=12),
        truthful,
        ("mc1", "mc2"),
        chance=_chance,
    )


TRUTHFULQA = Suite(
    name="truthfulqa",
    version=1,
    source="github.com/sylinrl/TruthfulQA",
    licence="Apache-2.0",
    about="True answers against common misconceptions, by likelihood. mc1: best answer against all false ones, mc2: "
    "mass on true answers. Asked without the paper's primer, so not comparable with its table; a question with one "
    "answer listed as both is left out.",
    answers="choice",
    headline="mc1",
    build=_build,
)
