"""One round of red-teaming: attack, turn successes into rows, train on them, attack again with what was kept apart.

Read top to bottom: the stages and what is due, the loop over them, the report. Keys are in ``redteam_loop_config.py``,
the stages in ``redteam_loop_stages.py``, what makes one due in ``stages.py``.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import ConfigError, RunError
from tunesmith.models.roles import Base
from tunesmith.progress import clock
from tunesmith.recipes.constitution_run_shop import Workshop
from tunesmith.recipes.redteam_loop_config import RedteamLoopConfig
from tunesmith.recipes.redteam_loop_stages import build_loop
from tunesmith.recipes.stages import Interrupted, Stage, run_stage, why_due
from tunesmith.reports.redteam_loop import loop_headline, write_loop_report
from tunesmith.runs import RECIPE_FILE, RECORD_FILE, Run, atomic_write_text, machine_summary

FACTS_FILE, KIND = "redteam_loop.json", "redteam loop"


def run_loop(
    config: RedteamLoopConfig,
    say: Callable[[str], None],
    *,
    place: str = "recipe",
    start_from: str | None = None,
    plan_only: bool = False,
    base: Base | None = None,
) -> dict[str, Any]:
    """Do what is due and write the report; returns what ``--json`` prints.

    place: the recipe's name in errors. start_from: this stage and all after it are done afresh. plan_only: say what
    would be done, and do nothing. base: one already in memory. Raises ConfigError, DataError, RunError for a folder in
    use or another kind of run's, and what the stages raise.
    """
    # 1. The stages, and what is due.
    folder = Path(config.output_dir)
    _refuse_other(folder)
    shop = Workshop(config=config, say=say, loaded=base)
    stages = build_loop(config, shop, place)
    names = [stage.name for stage in stages]
    if start_from is not None and start_from not in names:
        raise ConfigError("--from", f"'{start_from}' is no stage of this run.", f"Use one of {', '.join(names)}.")
    afresh = set(names[names.index(start_from) :]) if start_from is not None else set[str]()
    if plan_only:
        due = {stage.name: "asked for" if stage.name in afresh else why_due(stage) or "" for stage in stages}
        for name, told in due.items():
            say(f"  {name}: {told or 'finished'}")
        return {"plan": due, "output_dir": str(folder)}

    # 2. Stage by stage.
    with Run.create(folder, {"kind": KIND, **config.model_dump(mode="json")}, resume=True) as run:
        did = list[str]()
        for stage in stages:
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

        # 3. The report.
        facts = {**_facts(config, stages, shop.digest), "did": did}
        atomic_write_text(folder / FACTS_FILE, json.dumps(facts, indent=1, default=str) + "\n")
        write_loop_report(folder, facts)
        run.finish({"stages": names, "changes": facts["again"]["changes"]})
    return facts


def _refuse_other(folder: Path) -> None:
    """Raise RunError for a folder that holds a run of another kind."""
    if not (folder / RECORD_FILE).exists():
        return
    path = folder / RECIPE_FILE
    tree = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
    if not isinstance(tree, dict) or tree.get("kind") != KIND:
        raise RunError(folder, "holds a run of another kind.", "Choose another output_dir.")


def _facts(config: RedteamLoopConfig, stages: list[Stage], base_digest: str) -> dict[str, Any]:
    """What every stage left, by name, and what it took."""
    done = {stage.name: stage.done() or {} for stage in stages}
    machine = machine_summary()
    return {
        "base": config.model_name_or_path,
        "learn": config.learn,
        "adapter": config.adapter,
        "tuned": str(Path(config.output_dir) / config.trained[-1]),
        **{name: one["facts"] for name, one in done.items()},
        "seconds": {name: one["seconds"] for name, one in done.items()},
        "footer": {
            "base digest": base_digest[:16],
            "seed": config.seed,
            "seconds of all stages": round(sum(one["seconds"] for one in done.values())),
            "processor": f"{machine['processor']}, {machine['cores']} cores",
            "date": time.strftime("%Y-%m-%d"),
        },
    }


def describe_loop(config: RedteamLoopConfig, facts: Mapping[str, Any]) -> list[str]:
    """What a terminal shows at the end: the four answers, seconds by stage, what was written, the next command."""
    folder = Path(config.output_dir)
    seconds = ", ".join(f"{name} {number:.0f}" for name, number in facts["seconds"].items())
    return [
        *loop_headline(facts),
        f"seconds by stage: {seconds}",
        f"wrote {folder / 'report.html'}, {folder / 'report.md'}, {folder / FACTS_FILE}; "
        f"the second attack in full: {folder / 'again' / 'report.html'}",
        f"next: tunesmith chat --adapter {shlex.quote(str(facts['tuned']))}",
    ]
