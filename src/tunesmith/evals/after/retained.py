"""What a model could do before it was tuned, and still can: easy questions of five kinds, and plain English text.

The items are ours and lie in ``data/examples/retained_*.jsonl``. Each is a question with four answers, of which the
likeliest is taken (chance 0.25), asked as plain text; a text is predicted as a whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.data import examples
from tunesmith.evals.run import TaskResult, run_task
from tunesmith.evals.subject import Subject
from tunesmith.evals.task import Item, Reply, Task, choose, predict_text
from tunesmith.models.roles import Base
from tunesmith.records import Message, Verdict, Where
from tunesmith.rollout.sampling import Sampling
from tunesmith.stats import (
    Interval,
    bootstrap_paired_difference,
    exact_mcnemar,
    holm_adjusted,
    newcombe_paired_difference,
    smallest_detectable_difference,
    wilson_interval,
)
from tunesmith.tokens.continuation import continuation_examples

KINDS = ("knowledge", "arithmetic", "sense", "reading", "format")
TEXTS = "texts"
ALL = "all questions"
CHANCE = 0.25
BITS = "bits per byte"
_FOLDER = Path(str(examples.__path__[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """One kind of item, base against tuned on the same items; of texts the unit is bits per byte, and less is better.

    only_base, only_tuned: items only one of them got right, or of texts predicted better. p: exact McNemar (of texts
    the exact sign test), p_holm: adjusted for all kinds looked at.
    """

    kind: str
    unit: str
    num_items: int
    base: Interval
    tuned: Interval
    difference: Interval
    only_base: int
    only_tuned: int
    p: float
    p_holm: float
    detectable: float | None
    """Smallest difference in shares that as many items would show in four of five cases, before adjustment."""

    @property
    def verdict(self) -> str:
        """lost, gained or no change seen, at the 5 % level after adjustment."""
        if self.p_holm >= 0.05:
            return "no change seen"
        worse = self.difference.value > 0 if self.unit == BITS else self.difference.value < 0
        return "lost" if worse else "gained"

    def as_dict(self) -> dict[str, Any]:
        """For JSON; intervals as value, low and high."""
        return {**asdict(self), "verdict": self.verdict}


def retained_items(kind: str) -> list[Item]:
    """The questions of one kind, in file order."""
    return [
        Item(
            id=f"{kind}-{i}",
            messages=(Message(role="user", content=_asked(row)),),
            target=row["answer"],
            choices=tuple(row["choices"]),
            metadata={"kind": kind},
        )
        for i, row in enumerate(_rows(kind))
    ]


def _asked(row: dict[str, Any]) -> str:
    text = f"{row['text']}\n" if "text" in row else ""
    return f"{text}Question: {row['question']}\nAnswer:"


def retained_texts() -> list[str]:
    """Short neutral texts that stand nowhere else."""
    return [row["text"] for row in _rows(TEXTS)]


def _rows(name: str) -> list[dict[str, Any]]:
    lines = (_FOLDER / f"retained_{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def all_questions() -> tuple[Item, ...]:
    """The questions of every kind."""
    return tuple(item for kind in KINDS for item in retained_items(kind))


def questions_that_fit(base: Base, adapter: str | None) -> tuple[Item, ...]:
    """Those that the model's context holds with each of their answers; for all but toy models all of them.

    adapter: the tuned one, whose virtual tokens take their part of the context.
    """
    where = Where("question")

    def longest(item: Item) -> int:
        asked = continuation_examples(item.messages, item.choices, base.tokenizer, chat_template=False, where=where)
        return max(len(example.ids) for example in asked)

    return tuple(item for item in all_questions() if longest(item) <= base.context_tokens_of(adapter))


def questions_task(items: tuple[Item, ...]) -> Task:
    """Questions as one task whose metric is whether the right answer is the likeliest."""
    return Task(
        name="retained", version=1, items=items, solver=choose(), scorer=_likeliest, metrics=("right",),
        chance={"right": CHANCE},
    )  # fmt: skip


def texts_task() -> Task:
    """All texts as one task whose metric is their bits per byte."""
    items = tuple(
        Item(id=f"{TEXTS}-{i}", messages=(), target=text, metadata={"kind": TEXTS})
        for i, text in enumerate(retained_texts())
    )
    return Task(
        name="retained_texts", version=1, items=items, solver=predict_text, scorer=_bits_per_byte, metrics=("bits",)
    )


def _likeliest(item: Item, reply: Reply) -> Verdict:
    best = max(range(len(item.choices)), key=lambda i: reply.likelihoods[i].logprob)
    return Verdict(values={"right": float(item.choices[best] == item.target)}, explanation=item.choices[best])


def _bits_per_byte(item: Item, reply: Reply) -> Verdict:
    (whole,) = reply.likelihoods
    return Verdict(values={"bits": -whole.logprob / math.log(2) / len(item.target.encode())})


def measure_retained(subject: Subject, items: tuple[Item, ...], results_path: Path) -> dict[str, TaskResult]:
    """Questions and texts under one subject; what the results file holds already is not asked again."""
    # Nothing is drawn: the sampling is of no account.
    return {
        task.name: run_task(task, subject, Sampling(), results_path) for task in (questions_task(items), texts_task())
    }


def compare_retained(base: Mapping[str, TaskResult], tuned: Mapping[str, TaskResult], seed: int) -> list[Ability]:
    """One Ability for all questions, for each kind of them, and for the texts. Raises ValueError for other items."""
    first, second = base["retained"], tuned["retained"]
    texts = [result["retained_texts"] for result in (base, tuned)]
    for one, two in ((first, second), texts):
        if [a.item for a in one.answers] != [a.item for a in two.answers]:
            raise ValueError("base and tuned model answered different items")
    kinds = [answer.item.metadata["kind"] for answer in first.answers]
    out = []
    for kind in (ALL, *(kind for kind in KINDS if kind in kinds)):
        at = [i for i, own in enumerate(kinds) if kind in (ALL, own)]
        out.append(_of_questions(kind, *([result.outcomes("right")[i] for i in at] for result in (first, second))))
    before, after = (result.values("bits") for result in texts)
    # Fewer bits are better: the sign test is told so.
    test = exact_mcnemar(after, before)
    out.append(
        Ability(
            kind=TEXTS, unit=BITS, num_items=len(before), base=texts[0].interval("bits"),
            tuned=texts[1].interval("bits"), difference=bootstrap_paired_difference(before, after, seed),
            only_base=test.only_first, only_tuned=test.only_second, p=test.p, p_holm=test.p, detectable=None,
        )
    )  # fmt: skip
    adjusted = holm_adjusted([ability.p for ability in out])
    return [replace(ability, p_holm=p) for ability, p in zip(out, adjusted, strict=True)]


def _of_questions(kind: str, before: list[bool], after: list[bool]) -> Ability:
    test = exact_mcnemar(before, after)
    differ = (test.only_first + test.only_second) / len(before)
    return Ability(
        kind=kind, unit="right", num_items=len(before), base=wilson_interval(sum(before), len(before)),
        tuned=wilson_interval(sum(after), len(after)), difference=newcombe_paired_difference(before, after),
        only_base=test.only_first, only_tuned=test.only_second, p=test.p, p_holm=test.p,
        detectable=smallest_detectable_difference(len(before), differ),
    )  # fmt: skip
