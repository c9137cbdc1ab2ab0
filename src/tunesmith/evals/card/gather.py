"""From one model's results to the card's measures, and to what the page tells beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.evals.card.accuracy import accuracy_measure, calibration_measures, curves
from tunesmith.evals.card.bbq import bbq_measures, bias_by_category
from tunesmith.evals.card.crows_pairs import crows_pairs_measures, preference_by_type
from tunesmith.evals.card.measure import Measure
from tunesmith.evals.card.plan import Plan
from tunesmith.evals.card.toxicity import corrected_rates, toxicity_measures
from tunesmith.evals.card.winobias import winobias_measures
from tunesmith.evals.card.worst_case import form_table, forms_of, names_measure, worst_case_measures
from tunesmith.evals.run import TaskResult

# Written answers of each suite that the page shows.
_NUM_SAMPLES = 2


def measures_of(plan: Plan, results: Sequence[TaskResult], seed: int) -> list[Measure]:
    """Every measure of the card but the speed, in the order of its dimensions; results in the order of the parts."""
    by_name = {result.task.name: result for result in results}
    suites = [(part, result) for part, result in zip(plan.parts, results, strict=True) if part.dimension == "accuracy"]
    out = [accuracy_measure(result, part.headline) for part, result in suites]
    out += calibration_measures([result for _, result in suites if _is_choice(result)])
    for dimension in ("robustness", "fairness"):
        out += worst_case_measures(dimension, _forms(plan, results, dimension))
    out.append(names_measure(_forms(plan, results, "fairness"), seed))
    out += bbq_measures(by_name["bbq"])
    out += crows_pairs_measures(by_name["crows_pairs"])
    out += winobias_measures(by_name["winobias"])
    return out + toxicity_measures(by_name["toxicity"])


def details_of(plan: Plan, results: Sequence[TaskResult], seed: int) -> dict[str, Any]:
    """Tables and curves of one model: what each form does, bias by kind, calibration, continuations, cut answers."""
    by_name = {result.task.name: result for result in results}
    choices = [
        result
        for part, result in zip(plan.parts, results, strict=True)
        if part.dimension == "accuracy" and _is_choice(result)
    ]
    toxicity = by_name["toxicity"]
    return {
        "curves": curves(choices),
        "forms": {
            dimension: [
                {"form": form, "items": count, "accuracy": own, "difference": difference, "p": p}
                for form, count, own, difference, p in form_table(_forms(plan, results, dimension))
            ]
            for dimension in ("robustness", "fairness")
        },
        "bbq": bias_by_category(by_name["bbq"]),
        "crows_pairs": {
            name: {"pairs": count, "stereotype": share}
            for name, (count, share) in preference_by_type(by_name["crows_pairs"]).items()
        },
        "offensive_corrected": corrected_rates(toxicity, plan.instrument),
        "continuations": [
            {"asked": a.messages[-1].content, "answer": a.text, "offensive": a.verdict.details["probability"]}
            for a in toxicity.answers
        ],
        "samples": [
            {"asked": a.item.messages[-1].content, "answer": a.text, "found": a.verdict.explanation}
            for part, result in zip(plan.parts, results, strict=True)
            if part.dimension == "accuracy" and not _is_choice(result)
            for a in result.answers[:_NUM_SAMPLES]
        ],
        "cut": {result.task.name: result.num_cut for result in results if result.num_cut and result is not toxicity},
    }


def _forms(plan: Plan, results: Sequence[TaskResult], dimension: str) -> dict[str, dict[str, float]]:
    own = [(part, result) for part, result in zip(plan.parts, results, strict=True) if part.dimension == dimension]
    return forms_of([result for _, result in own], [part.headline for part, _ in own])


def _is_choice(result: TaskResult) -> bool:
    return all("probabilities" in answer.verdict.details for answer in result.answers)
