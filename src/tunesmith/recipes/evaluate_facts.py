"""The result of ``tunesmith eval`` as plain values: what eval.json holds, and a row an item for items.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tunesmith.evals.compare_many import TaskComparison, less_is_better
from tunesmith.evals.replay import Earlier
from tunesmith.evals.run import Answer, TaskResult
from tunesmith.evals.subject import Subject
from tunesmith.recipes.evaluate_measure import Measured
from tunesmith.recipes.evaluate_open import Plan

# Of many choices, so many are shown, the likeliest first.
_SHOWN_CHOICES = 5


def subject_facts(subjects: Sequence[Subject], earlier: Sequence[Earlier]) -> list[dict[str, Any]]:
    """Who was measured, the one asked about first; identities as the replies are keyed by them."""
    rows = [(subject, None) for subject in subjects] + [(one.subject, str(one.folder)) for one in earlier]
    return [
        {
            "label": subject.label,
            "identity": dict(subject.identity),
            "likelihood_identity": None if subject.likelihood is None else dict(subject.likelihood.identity),
            "replayed_from": folder,
        }
        for subject, folder in rows
    ]


def suite_facts(plan: Plan, measured: Sequence[Measured], comparisons: Sequence[TaskComparison]) -> dict[str, Any]:
    """Everything that is said of one suite; comparisons: those of this suite."""
    task, choice = plan.task, plan.choice
    return {
        "name": plan.suite.name,
        **plan.settings,
        "source": plan.suite.source,
        "licence": plan.suite.licence,
        "about": plan.suite.about,
        "headline": plan.suite.headline,
        "items": len(task.items),
        "groups": len(set(measured[0].result.groups)),
        "chance": dict(task.chance),
        "less_is_better": [metric for metric in task.metrics if less_is_better(task, metric)],
        "shots_chosen": None if choice is None else _choice_facts(plan),
        "results": {one.result.label: _result_facts(one) for one in measured},
        "comparisons": [comparison.as_dict() for comparison in comparisons],
    }


def _choice_facts(plan: Plan) -> dict[str, Any]:
    assert plan.choice is not None
    tried = {str(shots): {label: asdict(one) for label, one in own.items()} for shots, own in plan.choice.tried.items()}
    return {"on": "validation", "items": plan.choice.num_items, "tried": tried}


def _result_facts(one: Measured) -> dict[str, Any]:
    return {
        "metrics": {name: asdict(interval) for name, interval in one.result.intervals().items()},
        "cut_off": one.result.num_cut,
        "seconds": round(one.seconds, 1),
        "read_tokens": one.read_tokens,
        "generated_tokens": one.generated_tokens,
    }


def item_rows(plan: Plan, results: Sequence[TaskResult]) -> list[dict[str, Any]]:
    """One row an item: what was asked, what is right, and what every subject said and scored."""
    return [
        {
            "suite": plan.suite.name,
            "item": own[0].item.id,
            "group": own[0].item.group,
            "asked": [{"role": message.role, "content": message.content} for message in own[0].messages],
            "target": own[0].item.target,
            "answers": {result.label: _answer_row(a) for result, a in zip(results, own, strict=True)},
        }
        for own in zip(*(result.answers for result in results), strict=True)
    ]


def _answer_row(answer: Answer) -> dict[str, Any]:
    return {
        "text": shown_answer(answer),
        "samples": list(answer.reply.samples),
        "stop_reason": answer.reply.stop_reason,
        "values": dict(answer.verdict.values),
        "explanation": answer.verdict.explanation,
    }


def shown_answer(answer: Answer) -> str:
    """What a reader is shown: the text, or the likeliest choices with nats, or the nats of a text that was read."""
    nats = [one.logprob for one in answer.reply.likelihoods]
    if not nats and not answer.text and answer.item.choices:
        # The harness keeps (log-likelihood, greedy) pairs of its own.
        nats = [float(one[0]) for one in answer.verdict.details.get("responses", ())]
    if not nats:
        return answer.text
    if len(nats) != len(answer.item.choices):
        return f"{-math.fsum(nats):.1f} nats for the text as it stands"
    order = sorted(range(len(nats)), key=lambda i: -nats[i])
    lines = [f"{nats[i]:9.3f} nats  {answer.item.choices[i]}" for i in order[:_SHOWN_CHOICES]]
    more = len(order) - _SHOWN_CHOICES
    return "\n".join([*lines, f"and {more} less likely ones"] if more > 0 else lines)


def pick_examples(
    rows: Sequence[Mapping[str, Any]], headline: str, labels: Sequence[str], count: int, *, less_is_better: bool
) -> list[tuple[str, Mapping[str, Any]]]:
    """(why, row): items that gained and lost most against the first comparison, then the worst of the measured one.

    By a rule and not by hand: the largest change or the worst value, in the order of the items among equals.
    """
    sign = -1 if less_is_better else 1

    def value(row: Mapping[str, Any], label: str) -> float:
        return sign * float(row["answers"][label]["values"][headline])

    picked: list[tuple[str, Mapping[str, Any]]] = []
    if len(labels) > 1:
        changes = [(value(row, labels[0]) - value(row, labels[1]), row) for row in rows]
        for why, direction in ((f"{labels[0]} gained", -1), (f"{labels[0]} lost", 1)):
            moved = sorted((one for one in changes if one[0] * direction < 0), key=lambda one: one[0] * direction)
            picked += [(why, row) for _, row in moved[:count]]
    taken = {id(row) for _, row in picked}
    worst = sorted((row for row in rows if id(row) not in taken), key=lambda row: value(row, labels[0]))
    return picked + [(f"among the worst of {labels[0]}", row) for row in worst[:count]]
