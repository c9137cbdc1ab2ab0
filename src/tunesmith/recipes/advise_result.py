"""What was measured -> the decision, and all of it as plain values: what advise.json holds and the report shows."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from tunesmith.evals.advise.conditions import Family
from tunesmith.evals.advise.decide import Decision, Option, decide, sensitivity, takes_less, what_would_change
from tunesmith.evals.advise.words import reasons, verdict
from tunesmith.recipes.advise_config import AdviseConfig
from tunesmith.recipes.advise_measure import Advised
from tunesmith.runs import machine_summary

# Where freshness was not tried: what reads an index can follow a change of it, weights cannot.
BY_CONSTRUCTION: dict[Family, bool] = {"retrieve": True, "tune+retrieve": True}
_NOT_TRIED = "Facts that change were not tried: what reads an index is taken to follow them, and nothing else."


def facts_of_advice(config: AdviseConfig, advised: Advised, base: dict[str, str]) -> dict[str, Any]:
    """Everything as JSON holds it. base: name, digest and dtype."""
    rules, options = config.rules, advised.options
    fresh = advised.freshness
    follows = BY_CONSTRUCTION if fresh is None else fresh.follows
    decision = decide(options, rules, follows)
    curve = [(point.num_rows, point.tuned) for point in advised.curve]
    answers = advised.bench.answers
    return {
        "task": config.task,
        "rows": {side: len(getattr(advised.rows, side)) for side in ("train", "validation", "test")}
        | {"left_out_as_near_copies": advised.rows.num_leaks},
        "answers": {"kind": answers.kind, "metric": answers.metric, "note": answers.note},
        "conditions": [_condition(advised, decision, i) for i in range(len(options))],
        "validation": advised.validation,
        "curve": [asdict(point) for point in advised.curve],
        "freshness": None if fresh is None else _freshness(fresh),
        "follows": dict(follows),
        "break_even": _break_even(options),
        "decision": {
            "verdict": verdict(decision),
            "choice": decision.choice.name if decision.choice else None,
            "family": decision.choice.family if decision.choice else None,
            "best": decision.best.name if decision.best else None,
            "usable": decision.usable,
            "unsure": list(decision.unsure),
            "reasons": reasons(decision, options, rules, curve, advised.curve[-2].gain if len(curve) > 1 else None),
            "would_change": [asdict(change) for change in what_would_change(options, rules, follows)],
        },
        "sensitivity": sensitivity(options, rules, follows),
        "rules": asdict(rules),
        "notes": [*advised.notes, *([] if fresh else [_NOT_TRIED])],
        "examples": _examples(advised),
        "settings": config.model_dump(mode="json"),
        "base": base,
        "machine": machine_summary(),
        "date": time.strftime("%Y-%m-%d"),
        "adapter": str(advised.tuned.folder),
        "minutes": {"estimated": advised.budget.minutes, "taken": advised.minutes},
    }


def _condition(advised: Advised, decision: Decision, place: int) -> dict[str, Any]:
    measured, option = advised.measured[place], advised.options[place]
    tested = {one.name: one for one in decision.against}
    against = tested.get(option.name)
    return {
        "name": option.name,
        "family": option.family,
        "chosen": measured.condition.chosen,
        "quality": asdict(option.quality),
        "metrics": {name: asdict(interval) for name, interval in measured.result.intervals().items()},
        "cut_off": measured.result.num_cut,
        "prompt_tokens": measured.prompt_tokens,
        "answer_tokens": measured.answer_tokens,
        "ms": {
            "median": measured.median_ms,
            "low": min(measured.ms),
            "high": max(measured.ms),
            "num": len(measured.ms),
        },
        "setup_minutes": option.setup_minutes,
        "setup_tokens": option.setup_tokens,
        "against_best": None if against is None else asdict(against),
    }


def _freshness(fresh: Any) -> dict[str, Any]:
    return {
        "rows": [asdict(row) | {"follows": row.follows} for row in fresh.rows],
        "num_changed": fresh.num_changed,
        "num_kept": fresh.num_kept,
        "invented": fresh.invented,
        "learnt": fresh.learnt,
        "examples": list(fresh.examples),
    }


def _break_even(options: tuple[Option, ...]) -> list[dict[str, Any]]:
    """Tuning alone against each condition without tuning: when it takes less time, and the requests it hangs on."""
    tuned = next((option for option in options if option.family == "tune"), None)
    others = [option for option in options if option.family in ("prompt", "shots", "retrieve")]
    if tuned is None:
        return []
    found = [(option.name, *takes_less(tuned, option)) for option in others]
    return [{"tuned": tuned.name, "against": name, "when": when, "requests": n} for name, when, n in found]


def _examples(advised: Advised, count: int = 3) -> list[dict[str, str]]:
    """Test rows with every condition's answer, one the tuned model got wrong among them where there is one."""
    tuned = next(m for m in advised.measured if m.condition.family == "tune")
    metric = advised.bench.answers.metric
    places = list(range(min(count, len(advised.rows.test))))
    wrong = [i for i, right in enumerate(tuned.result.outcomes(metric)) if not right]
    if wrong and not set(wrong) & set(places):
        places[-1] = wrong[0]
    shown = []
    for i in places:
        item = advised.rows.test[i]
        row = {"question": item.messages[-1].content, "expected": item.target}
        for measured in advised.measured:
            answer = measured.result.answers[i]
            chosen = answer.verdict.explanation or "right"
            row[measured.condition.name] = answer.text or chosen
        shown.append(row)
    return shown
