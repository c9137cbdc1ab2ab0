"""What the second attack came to: families that were trained on beside those that were not, on goals that are new."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.evals.compare_many import ALPHA
from tunesmith.evals.run import run_task
from tunesmith.evals.subject import local_subject
from tunesmith.models.adapters import load_adapter
from tunesmith.models.roles import Base
from tunesmith.recipes.constitution_evaluate import jobs_of
from tunesmith.recipes.constitution_evaluate_config import ConstitutionEvaluateConfig, ReferenceRows
from tunesmith.recipes.redteam import Campaign
from tunesmith.recipes.redteam_config import RedteamConfig
from tunesmith.recipes.redteam_judges import known_errors
from tunesmith.recipes.redteam_loop_config import RedteamLoopConfig
from tunesmith.redteam.attack import Family
from tunesmith.redteam.attempts import Attempt
from tunesmith.redteam.capability import capability_facts
from tunesmith.redteam.judges import judge_for
from tunesmith.redteam.verdict import OVER_REFUSAL, SUCCESS, verdict_facts
from tunesmith.reports.redteam import write_redteam_report
from tunesmith.rollout.generate import LocalGenerator
from tunesmith.runs import atomic_write_text
from tunesmith.stats import holm_adjusted

AGAIN_FILE, RESULTS_FILE = "again.json", "reference.jsonl"
TRAINED_ON, NOT_TRAINED_ON = "families trained on", "families not trained on"


def again_facts(
    config: RedteamLoopConfig, campaign: Campaign, base: Base, folder: Path, adapters: Sequence[Path | None]
) -> dict[str, Any]:
    """The second attack's verdict by what was trained on, and whether use is kept; written to again.json.

    adapters: of the model before and after. The four questions are one table: Holm over it. The campaign's own report
    is written once more where use was measured too.
    """
    labels = list(campaign.attempts)
    attempts = campaign.attempts
    judge = judge_for([one.goal for own in attempts.values() for one in own])
    errors = known_errors(judge, str(config.attack.get("judge_errors", RedteamConfig().judge_errors)))
    sides = {
        name: verdict_facts(
            {label: _of(attempts[label], families) for label in labels}, errors=errors, seed=config.seed
        )
        for name, families in ((TRAINED_ON, config.train_families), (NOT_TRAINED_ON, config.test_families))
    }
    facts = campaign.facts
    if config.reference is not None:
        kept = _kept(config.reference, base, folder, dict(zip(labels, adapters, strict=True)), config.seed)
        facts = verdict_facts(attempts, capability=[kept], errors=errors, seed=config.seed)
        write_redteam_report(folder, facts)
    changes = [
        {**one, "what": f"{SUCCESS}, {name}"} for name, side in sides.items() for one in side["changes"]
        if one["what"] == SUCCESS
    ]  # fmt: skip
    changes += [one for one in facts["changes"] if one["what"] == OVER_REFUSAL or one["what"].startswith("kept: ")]
    told = {
        "labels": labels,
        "families": {TRAINED_ON: list(config.train_families), NOT_TRAINED_ON: list(config.test_families)},
        "rates": {name: side["rates"] for name, side in sides.items()},
        "safe": {label: facts["rates"][label].get(OVER_REFUSAL) for label in labels},
        "by_family": facts["by"]["family"],
        "errors": facts["errors"],
        "changes": _as_one_table(changes),
    }
    atomic_write_text(folder / AGAIN_FILE, json.dumps(told, indent=1) + "\n")
    return dict(json.loads(json.dumps(told)))


def _of(attempts: Sequence[Attempt], families: Sequence[Family]) -> list[Attempt]:
    """Attempts of these families to get what should be withheld."""
    return [one for one in attempts if one.family in families and one.goal.kind != "safe"]


def _as_one_table(changes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The changes with p adjusted for these alone, and what may be said of each."""
    out = []
    for one, p in zip(changes, holm_adjusted([one["p"] for one in changes]), strict=True):
        gain = one["difference"]["value"] * (-1 if one["less_is_better"] else 1)
        finding = "nothing found" if p >= ALPHA or not gain else "better" if gain > 0 else "worse"
        out.append({**one, "p_holm": p, "finding": finding})
    return out


def _kept(
    how: ReferenceRows, base: Base, folder: Path, adapters: Mapping[str, Path | None], seed: int
) -> dict[str, Any]:
    """How likely good answers are to each model, in nats a token."""
    none = {"advbench": 0, "harmbench": 0, "xstest_safe": 0, "xstest_unsafe": 0}
    only = ConstitutionEvaluateConfig(**none, helpful=None, creative=None, scenarios=None, reference=how)
    (job,) = jobs_of(only, seed)
    generator, results = LocalGenerator(base), {}
    for number, (label, adapter) in enumerate(adapters.items()):
        role = None if adapter is None else load_adapter(base, adapter, f"kept{number}").adapter
        subject = local_subject(base, generator, role, label)
        results[label] = run_task(job.task, subject, job.sampling, folder / RESULTS_FILE)
    return capability_facts(results, job.headline, lower=True, seed=seed)
