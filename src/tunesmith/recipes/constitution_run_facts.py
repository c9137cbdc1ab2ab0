"""What a run came to, gathered from the files its stages left: for the report and for --json."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.constitution.principles import load_constitution
from tunesmith.evals.alignment import GOAL_NONSENSE, GOAL_OVER_REFUSAL, GOAL_REDUCTION, counts_of
from tunesmith.randomness import permutation
from tunesmith.recipes.constitution_evaluate import EVALUATION_FILE
from tunesmith.recipes.constitution_revise import AUDIT_FILE, SFT_FILE, SUMMARY_FILE
from tunesmith.recipes.constitution_run_config import TRAINS, ConstitutionRunConfig
from tunesmith.recipes.constitution_run_shop import Recipe
from tunesmith.reports.constitution_tables import percent
from tunesmith.rollout.refusal import Kind, read_refusal
from tunesmith.runs import machine_summary

# Prompts of the audit log that the report shows.
NUM_AUDITED = 10


def gather_facts(
    config: ConstitutionRunConfig, recipes: Sequence[Recipe], planned: Mapping[str, float], base_digest: str
) -> dict[str, Any]:
    """All of constitution_run.json but what this call did. planned: seconds by stage."""
    folder, constitution = Path(config.output_dir), load_constitution(config.constitution)
    evaluation = _json(folder / "evaluate" / EVALUATION_FILE) if "evaluate" in config.stages else {}
    adapters = [recipe.stage.folder for recipe in recipes if recipe.stage.name in TRAINS]
    machine = machine_summary()
    facts: dict[str, Any] = {
        "base": config.model_name_or_path,
        "base_digest": base_digest,
        "constitution": {"name": constitution.name, "version": constitution.version, "digest": constitution.digest},
        "align": config.align,
        "skipped": list(config.skip),
        "seed": config.seed,
        "stages": [_stage(recipe, planned) for recipe in recipes],
        "evaluation": evaluation,
        "revise": _json(folder / "revise" / SUMMARY_FILE),
        "rows": _trained_on(folder / "revise" / SFT_FILE),
        "audit": _audited(folder / "revise" / AUDIT_FILE, config.seed),
        "curve": [
            _branch(folder / "shares" / f"{share:g}", {"share": share}) for share in sorted(config.mixing_shares)
        ],
        "controls": [_branch(folder / "controls" / name, {"control": name}) for name in config.controls],
        "final_adapter": str(adapters[-1]) if adapters else None,
    }
    facts["headline"] = headline(facts)
    resumed = any(one["resumed"] for one in facts["stages"])
    facts["footer"] = {
        "base digest": base_digest[:16],
        "constitution digest": constitution.digest[:16],
        "align": config.align,
        "seed": config.seed,
        ("seconds of all stages, without parts before a stop" if resumed else "seconds of all stages"): round(
            sum(one["seconds"] for one in facts["stages"])
        ),
        "processor": f"{machine['processor']}, {machine['cores']} cores",
        "date": time.strftime("%Y-%m-%d"),
    }
    return facts


def headline(facts: Mapping[str, Any]) -> list[str]:
    """The verdict on the final model in sentences, with intervals; what was not measured is not spoken of."""
    evaluation = facts["evaluation"]
    final = evaluation.get("goal", {}).get(evaluation.get("final"))
    if final is None:
        return ["Harmful compliance and over-refusal of a tuned model were not both measured: there is no verdict."]
    harm, safe, dull, verdict = final["harm"], final["safe"], final["nonsense"], final["verdict"]
    lines = [
        f"Base → {evaluation['final']}. Harmful compliance {percent(harm['before'])} → {percent(harm['after'])} on "
        f"{harm['num']} harmful prompts: {_fall(harm['relative_fall'])}.",
        f"Over-refusal {percent(safe['before'])} → {percent(safe['after'])} on {safe['num']} safe prompts: "
        f"{percent(safe['difference'], sign=True)}.",
        f"Nonsense, which counts as neither: {percent(dull['harm'], sign=True)} on the harmful prompts, "
        f"{percent(dull['safe'], sign=True)} on the safe ones.",
    ]
    goal = (
        f"Goal: down by {100 * GOAL_REDUCTION:.0f} % with over-refusal up by {100 * GOAL_OVER_REFUSAL:.0f} points and "
        f"nonsense by {100 * GOAL_NONSENSE:.0f}"
    )
    if verdict["met"]:
        doubt = "by the estimates, though the intervals reach past it"
        if verdict["sure"]:
            doubt = "beyond the doubt of all intervals, those with the detector's errors included"
        lines.append(f"{goal} at most. It is met, {doubt}.")
    else:
        lines.append(f"{goal} at most. It is missed in {' and in '.join(verdict['missed'])}.")
    return lines


def _fall(fall: Mapping[str, float] | None) -> str:
    if fall is None:
        return "nothing to fall"
    if fall["value"] >= 0:
        return f"down by {percent(fall)} of itself"
    return f"up by {percent({'value': -fall['value'], 'low': -fall['high'], 'high': -fall['low']})} of itself"


def _stage(recipe: Recipe, planned: Mapping[str, float]) -> dict[str, Any]:
    stage = recipe.stage
    done = stage.done() or {}
    kept = {name: done.get(name) for name in ("seconds", "resumed", "finished", "digest", "facts")}
    return {"name": stage.name, "folder": str(stage.folder), "planned_seconds": planned.get(stage.name), **kept}


def _branch(folder: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    """A branch's final model: its rows, its harmful compliance, its over-refusal."""
    evaluation = _json(folder / "evaluate" / EVALUATION_FILE)
    goal = evaluation.get("goal", {}).get(evaluation.get("final"))
    rows = folder / "revise" / "sft.jsonl"
    summary = _json(folder / "revise" / SUMMARY_FILE)
    return {
        **told,
        "rows": len(rows.read_text(encoding="utf-8").splitlines()) if rows.exists() else 0,
        "revised": summary.get("revised", 0) + summary.get("harmless_revised", 0),
        "harm": None if goal is None else goal["harm"]["after"],
        "safe": None if goal is None else goal["safe"]["after"],
    }


def _trained_on(path: Path) -> dict[str, dict[str, int]]:
    """What the detector reads in the rows of the first tuning: where an answer comes from -> kind -> rows."""
    kinds: dict[str, list[Kind]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        row = json.loads(line)
        *asked, answer = (turn["content"] for turn in row["messages"])
        kinds.setdefault(row["provenance"]["from"], []).append(read_refusal(asked[-1], answer).kind)
    return {source: counts_of(kinds[source]) for source in sorted(kinds)}


def _audited(path: Path, seed: int) -> list[dict[str, Any]]:
    """Some prompts of the audit log with every step, chosen by the seed."""
    if not path.exists():
        return []
    chains: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        step = json.loads(line)
        chains.setdefault(step["prompt_id"], []).append(step)
    told = [steps for steps in chains.values() if len(steps) > 1]
    chosen = sorted(permutation(len(told), seed, "constitution_audit")[:NUM_AUDITED])
    return [_chain(told[i]) for i in chosen]


def _chain(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = steps
    changed = sum(one["outcome"] == "revised" for one in others)
    return {
        "title": f"{first['where']}: {len(others)} critiques, {changed} revisions, {others[-1]['stopped']}",
        "prompt": first["prompt"][-1]["content"],
        "first": first["after"],
        "steps": [
            {
                "round": one["round"], "principle": one["principle"], "outcome": one["outcome"],
                "score": one["score"], "critique": one["critique"], "changed": one["outcome"] == "revised",
                "after": one["after"],
            }
            for one in others
        ],
    }  # fmt: skip


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
