"""What the models of a campaign kept of their use: small tasks of the evaluation, the same items for all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError
from tunesmith.evals.run import run_task
from tunesmith.evals.subject import local_subject
from tunesmith.evals.suite import Suite, SuiteConfig
from tunesmith.evals.suites.catalogue import find_suite
from tunesmith.recipes.redteam_config import RedteamConfig
from tunesmith.recipes.redteam_open import LocalModels, label_of
from tunesmith.redteam.capability import capability_facts
from tunesmith.rollout.sampling import Sampling

RESULTS_FILE = "kept.jsonl"


def kept_suites(config: RedteamConfig) -> dict[str, Suite]:
    """The suites to be measured, by name; none where nothing is compared. Raises ConfigError for an unknown one."""
    compared = config.target is None and len(config.names) > 1
    return {name: find_suite(name) for name in config.capability} if compared else {}


def measure_kept(
    config: RedteamConfig, local: LocalModels | None, folder: Path, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Facts of one task each; none where there is nothing to compare. A set that is not there is told and left out."""
    suites = kept_suites(config)
    if local is None or not suites:
        return []
    subjects = {
        label_of(name, config): local_subject(
            local.base, local.generator, local.role(name), label_of(name, config), portion=config.portion
        )
        for name in config.names
    }
    facts = []
    for name, suite in suites.items():
        try:
            task = suite.build(SuiteConfig(data_dir=config.data_dir, limit=config.capability_items, seed=config.seed))
        except DataError as error:
            say(f"{name}, which tells what is kept, is not measured: {error}")
            continue
        say(f"what is kept: {config.capability_items} items of {name}.")
        results = {
            label: run_task(task, subject, Sampling(max_new_tokens=suite.max_new_tokens), folder / RESULTS_FILE)
            for label, subject in subjects.items()
        }
        facts.append(capability_facts(results, suite.headline, seed=config.seed))
    return facts
