"""Constitutional AI from end to end: helpful SFT, revision, SFT, AI feedback, reward, PPO or DPO, evaluation.

Read top to bottom: the stages and what is due, the cost, the loop, the report. Keys are in
``constitution_run_config.py``, the stages in ``constitution_run_stages.py``, what makes one due in ``stages.py``, the
cost in ``constitution_run_cost.py``. Source of the method: Bai et al. 2022, arXiv:2212.08073.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import ConfigError, RunError
from tunesmith.models.roles import Base
from tunesmith.progress import clock
from tunesmith.recipes.constitution_curve import branch_stages
from tunesmith.recipes.constitution_run_config import ConstitutionRunConfig
from tunesmith.recipes.constitution_run_cost import costs_of
from tunesmith.recipes.constitution_run_facts import gather_facts
from tunesmith.recipes.constitution_run_pace import Cost, measure_pace
from tunesmith.recipes.constitution_run_shop import Recipe, Workshop
from tunesmith.recipes.constitution_run_stages import build_stages
from tunesmith.recipes.stages import Interrupted, run_stage, why_due
from tunesmith.reports.constitution import write_constitution_report
from tunesmith.runs import RECIPE_FILE, RECORD_FILE, Run, atomic_write_text

PLAN_FILE, FACTS_FILE = "plan.json", "constitution_run.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A stage, why it is due (empty: it is finished), and what it costs; None where that is not known."""

    recipe: Recipe
    why: str
    cost: Cost | None

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.recipe.stage.name


def run_constitution(
    config: ConstitutionRunConfig,
    say: Callable[[str], None],
    *,
    place: str = "recipe",
    start_from: str | None = None,
    plan_only: bool = False,
    base: Base | None = None,
) -> dict[str, Any]:
    """Do what is due and write the report; returns what ``--json`` prints.

    place: the recipe's name in errors. start_from: this stage and all after it are done afresh. plan_only: say what
    would be done and what it costs, and do nothing. base: one already in memory. Raises ConfigError, DataError,
    RunError for a folder in use or another kind of run's, and what the stages raise.
    """
    # 1. The stages, and what is due.
    folder = Path(config.output_dir)
    _refuse_other(folder)
    shop = Workshop(config=config, say=say, loaded=base)
    main = build_stages(config, shop, place)
    recipes = [*main, *branch_stages(config, main, shop, place)]
    afresh = _afresh(recipes, start_from)
    # 2. What it costs.
    planned = plan(recipes, afresh, shop)
    for line in describe_plan(planned):
        say(line)
    if plan_only:
        return {"plan": [_as_row(one) for one in planned], "output_dir": str(folder)}
    # 3. Stage by stage.
    with Run.create(folder, {"kind": "constitution run", **config.model_dump(mode="json")}, resume=True) as run:
        expected = _keep_plan(folder, planned)
        began, did = time.perf_counter(), list[str]()
        for recipe in recipes:
            stage = recipe.stage
            why = "asked for" if stage.name in afresh else why_due(stage)
            if why is None:
                say(f"{stage.name}: finished before, and nothing it was made of has changed.")
                continue
            say(f"{stage.name}: {why} …")
            try:
                record = run_stage(stage, afresh=stage.name in afresh)
            except (Interrupted, KeyboardInterrupt):
                say(f"stopped in {stage.name}; the same command goes on there.")
                return {"interrupted": True, "stage": stage.name, "output_dir": str(folder)}
            did.append(stage.name)
            say(f"{stage.name}: {clock(record['seconds'])}")
        # 4. The report.
        facts = gather_facts(config, recipes, expected, shop.digest)
        facts |= {"did": did, "seconds": round(time.perf_counter() - began, 1)}
        atomic_write_text(folder / FACTS_FILE, json.dumps(facts, indent=1, default=str) + "\n")
        write_constitution_report(folder, facts)
        run.finish({"stages": [one["name"] for one in facts["stages"]], "goal": facts["evaluation"].get("goal", {})})
    return facts


def _refuse_other(folder: Path) -> None:
    """Raise RunError for a folder that holds a run of another kind."""
    if not (folder / RECORD_FILE).exists():
        return
    path = folder / RECIPE_FILE
    tree = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
    if not isinstance(tree, dict) or tree.get("kind") != "constitution run":
        raise RunError(folder, "holds a run of another kind.", "Choose another output_dir.")


def _afresh(recipes: Sequence[Recipe], start_from: str | None) -> set[str]:
    """The stages that are done whatever they left. Raises ConfigError for a stage that the run does not have."""
    if start_from is None:
        return set()
    names = [recipe.stage.name for recipe in recipes]
    if start_from not in names:
        raise ConfigError("--from", f"'{start_from}' is no stage of this run.", f"Use one of {', '.join(names)}.")
    return set(names[names.index(start_from) :])


def plan(recipes: Sequence[Recipe], afresh: set[str], shop: Workshop) -> list[Planned]:
    """Why each stage is due, and the cost of those that are; the pace is probed where anything is."""
    due, folders = dict[str, str](), dict[Path, str]()
    for recipe in recipes:
        stage = recipe.stage
        behind = [folders[one] for path in stage.reads.values() for one in (path, path.parent) if one in folders]
        why = "asked for" if stage.name in afresh else why_due(stage)
        if why is None and behind:
            why = f"if {behind[0]} comes to something else"
        if why is not None:
            due[stage.name] = why
            folders[stage.folder] = stage.name
    if not due:
        return [Planned(recipe=recipe, why="", cost=None) for recipe in recipes]
    with shop.base() as base:
        pace = measure_pace(base)
        costs = costs_of(recipes, base, pace)
    return [
        Planned(
            recipe=recipe,
            why=due.get(recipe.stage.name, ""),
            cost=costs[recipe.stage.name] if recipe.stage.name in due else None,
        )
        for recipe in recipes
    ]


def describe_plan(planned: Sequence[Planned]) -> list[str]:
    """A line a stage with tokens and minutes, and the sum."""
    lines, total = [], 0.0
    for one in planned:
        if not one.why:
            lines.append(f"  {one.name}: finished")
            continue
        told = "not known" if one.cost is None else str(one.cost)
        total += 0.0 if one.cost is None else one.cost.seconds
        lines.append(f"  {one.name}: {told} ({one.why})")
    if total:
        lines.append(f"about {clock(total)} in all if every answer is as long as allowed, by a short probe just now.")
    return lines


def _as_row(one: Planned) -> dict[str, Any]:
    cost = None if one.cost is None else one.cost.as_dict()
    return {
        "stage": one.name,
        "why": one.why,
        "cost": cost,
        "recipe": one.recipe.config.model_dump(mode="json", exclude_unset=True),
    }


def _keep_plan(folder: Path, planned: Sequence[Planned]) -> dict[str, float]:
    """Planned seconds by stage; those of a stage that is finished are the ones it was planned with."""
    path = folder / PLAN_FILE
    expected: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    going_on = {one.name for one in planned if one.why == "it was stopped on its way"}
    expected |= {
        one.name: round(one.cost.seconds, 1)
        for one in planned
        if one.cost is not None and not (one.name in going_on and one.name in expected)
    }
    atomic_write_text(path, json.dumps(expected, indent=1) + "\n")
    return expected


def describe_run(config: ConstitutionRunConfig, facts: Mapping[str, Any]) -> list[str]:
    """What a terminal shows at the end: the goal, seconds by stage, what was written, the next command."""
    lines = [str(line) for line in facts["headline"]]
    lines.append("seconds by stage, planned at most beside actual:")
    for one in facts["stages"]:
        planned = "-" if one["planned_seconds"] is None else f"{one['planned_seconds']:.0f}"
        resumed = ", resumed" if one["resumed"] else ""
        lines.append(f"  {one['name']:<10} {planned:>7} {one['seconds']:>7.0f}{resumed}")
    folder = Path(config.output_dir)
    lines.append(f"wrote {folder}: report.html, report.md, {FACTS_FILE}")
    final = facts["final_adapter"]
    return [*lines, *([f"next:  tunesmith chat --adapter {shlex.quote(final)}"] if final else [])]
