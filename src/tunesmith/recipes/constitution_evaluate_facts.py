"""What is said of an evaluation: the goal, every task's numbers, what changed for certain, scenarios, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from tunesmith.evals.alignment import counts_of, harmful_compliance, nonsense_rise, over_refusal, verdict
from tunesmith.evals.compare_many import compare_many
from tunesmith.evals.kept import Scenario
from tunesmith.evals.reading import perplexity
from tunesmith.evals.run import TaskResult
from tunesmith.evals.safety import kinds_of
from tunesmith.evals.task import Task
from tunesmith.rollout.sampling import Sampling
from tunesmith.stats import holm_adjusted

HARMFUL, SAFE, UNSAFE = ("advbench", "harmbench"), "xstest-safe", "xstest-unsafe"
# Pairs of answers that the report shows of one set.
NUM_EXAMPLES = 6
# label -> result, for each task's name.
Results = Mapping[str, Mapping[str, TaskResult]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A task, how its answers are drawn, and the metric that is tested. scenarios: the rules, where it asks them."""

    task: Task
    sampling: Sampling
    headline: str
    scenarios: tuple[Scenario, ...] = ()


def evaluation_facts(
    jobs: Sequence[Job], results: Results, labels: Sequence[str], judged: Mapping[str, Any]
) -> dict[str, Any]:
    """All of evaluation.json. labels: the base first, then the stages measured, the last one final."""
    tuned = list(labels[1:])
    headlines = {job.task.name: job.headline for job in jobs}
    pairs = [(results[job.task.name]["base"], results[job.task.name][label]) for job in jobs for label in tuned]
    compared = [one.as_dict() for one in compare_many(pairs, headlines)] if pairs else []
    return {
        "labels": list(labels),
        "final": labels[-1],
        "goal": _goal(results, tuned),
        "tasks": [_task_facts(job, results[job.task.name]) for job in jobs],
        "kinds": _kinds(results),
        "comparisons": compared,
        "perplexity": _perplexity(results),
        "judged": dict(judged),
        "scenarios": [fact for job in jobs for fact in _scenario_facts(job, results)],
        "examples": _examples(results, labels[-1]) if tuned else [],
    }


def _goal(results: Results, tuned: Sequence[str]) -> dict[str, Any]:
    """Harmful compliance against over-refusal of every tuned model; Holm over all of their tests."""
    harmful = [results[name] for name in HARMFUL if name in results]
    if not harmful or SAFE not in results:
        return {}
    out: dict[str, Any] = {}
    for label in tuned:
        before = [kind for one in harmful for kind in kinds_of(one["base"])]
        after = [kind for one in harmful for kind in kinds_of(one[label])]
        harm = harmful_compliance(before, after)
        own = (kinds_of(results[SAFE]["base"]), kinds_of(results[SAFE][label]))
        safe = over_refusal(*own)
        dull = {"harm": nonsense_rise(before, after), "safe": nonsense_rise(*own)}
        out[label] = {
            "harm": harm.as_dict(), "safe": safe.as_dict(), "verdict": dict(verdict(harm, safe, list(dull.values()))),
            "nonsense": {side: plain(rise) for side, rise in dull.items()},
        }  # fmt: skip
    tests = [(label, side) for label in out for side in ("harm", "safe")]
    adjusted = holm_adjusted([out[label][side]["test"]["p"] for label, side in tests])
    for (label, side), p in zip(tests, adjusted, strict=True):
        out[label][side]["p_holm"] = p
    return out


def _task_facts(job: Job, own: Mapping[str, TaskResult]) -> dict[str, Any]:
    return {
        "name": job.task.name,
        "version": job.task.version,
        "num_items": len(job.task.items),
        "headline": job.headline,
        "sampling": job.sampling.model_dump(),
        "metrics": {label: {name: plain(value) for name, value in result.intervals().items()}
                    for label, result in own.items()},
        "cut": {label: result.num_cut for label, result in own.items()},
    }  # fmt: skip


def _kinds(results: Results) -> dict[str, Any]:
    names = [name for name in (*HARMFUL, SAFE, UNSAFE) if name in results]
    return {name: {label: counts_of(kinds_of(one)) for label, one in results[name].items()} for name in names}


def _perplexity(results: Results) -> dict[str, Any]:
    own = results.get("reference", {})
    return {label: plain(perplexity(result.interval("nats_per_token"))) for label, result in own.items()}


def _scenario_facts(job: Job, results: Results) -> list[dict[str, Any]]:
    out, own = [], results[job.task.name]
    for scenario in job.scenarios:
        asked = [i for i, item in enumerate(job.task.items) if item.group == scenario.id]
        sides = {
            label: {
                "passed": sum(result.answers[i].verdict.values["passed"] >= 1 for i in asked),
                "answer": result.answers[asked[0]].text,
                "why": result.answers[asked[0]].verdict.explanation,
            }
            for label, result in own.items()
        }
        told = {"id": scenario.id, "about": scenario.about, "rule": scenario.rule(), "prompt": scenario.prompts[0]}
        out.append({**told, "num": len(asked), "sides": sides})
    return out


def _examples(results: Results, final: str) -> list[dict[str, Any]]:
    """Of each set the first answers that became another kind, and the first that did not."""
    out = []
    for name in (*HARMFUL, SAFE):
        if name not in results:
            continue
        before, after = results[name]["base"], results[name][final]
        kinds = list(zip(kinds_of(before), kinds_of(after), strict=True))
        changed = [i for i, (one, other) in enumerate(kinds) if one != other]
        same = [i for i, (one, other) in enumerate(kinds) if one == other]
        for i in [*changed[: NUM_EXAMPLES - 2], *same[:2]]:
            one, other = before.answers[i], after.answers[i]
            out.append(
                {
                    "set": name, "prompt": one.item.messages[-1].content, "before": one.text, "after": other.text,
                    "kinds": list(kinds[i]),
                }
            )  # fmt: skip
    return out


def plain(value: Any) -> Any:
    """A frozen value as JSON takes it. Raises TypeError for what is none."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} is no plain value")
