"""The verdict of campaigns that were run: told anew, or one campaign held against others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError, RunError
from tunesmith.recipes.redteam import CAMPAIGN_FILE, load_campaign
from tunesmith.redteam.attempts import Attempt
from tunesmith.redteam.goals import GoalKind
from tunesmith.redteam.rates import KnownError
from tunesmith.redteam.verdict import verdict_facts
from tunesmith.reports.redteam import JSON_FILE, write_redteam_report


def run_report(folders: Sequence[Path], output: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Write the verdict of one campaign again, or of several as if they were one; (where, its facts).

    Models stand in the order of the folders: the first model of the first is what the others are compared with, the
    last of the last is under test. Attempts are paired where they asked the same words. output: by default the last
    folder, and where there are several its `compared`. What was kept is only known within a campaign. Raises RunError
    for a folder without a finished campaign, ConfigError for one that is named twice and where different judges judged
    goals of one kind.
    """
    attempts: dict[str, Sequence[Attempt]] = {}
    campaigns = [(name, *load_campaign(folder)) for name, folder in _named(folders).items()]
    labels = Counter(label for _, _, own in campaigns for label in own)
    for name, _, own in campaigns:
        attempts |= {label if labels[label] == 1 else f"{label} ({name})": made for label, made in own.items()}
    seed = campaigns[-1][1].seed
    _check_judges(attempts, folders)
    kept = _read(folders[0] / CAMPAIGN_FILE).get("kept", []) if len(folders) == 1 else []
    errors = errors_from(_read(folders[-1] / JSON_FILE))
    facts = verdict_facts(attempts, capability=kept, errors=errors, seed=seed)
    where = output or (folders[0] if len(folders) == 1 else folders[-1] / "compared")
    write_redteam_report(where, facts)
    return where, facts


def errors_from(facts: Mapping[str, Any]) -> dict[GoalKind, KnownError]:
    """The judge's errors as a verdict holds them, by kind of goal. Raises KeyError, TypeError for anything else."""
    pairs = ("sensitivity", "specificity")
    return {
        kind: KnownError(**{**told, **{name: tuple(told[name]) for name in pairs}})
        for kind, told in facts["errors"].items()
        if told is not None
    }


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by their last names, or whole where two end alike. Raises ConfigError for one that is named twice."""
    whole = [folder.resolve() for folder in folders]
    if twice := [str(folder) for folder, number in Counter(whole).items() if number > 1]:
        raise ConfigError(twice[0], "is named twice.", "Name each campaign once.")
    names = Counter(folder.name for folder in whole)
    return {
        folder.name if names[folder.name] == 1 else str(given): given
        for folder, given in zip(whole, folders, strict=True)
    }


def _check_judges(attempts: Mapping[str, Sequence[Attempt]], folders: Sequence[Path]) -> None:
    """Raise ConfigError where goals of one kind had different judges; each kind may have its own."""
    judges: dict[GoalKind, set[str]] = {}
    for one in (one for own in attempts.values() for one in own):
        judges.setdefault(one.goal.kind, set()).add(json.dumps(dict(one.judge), sort_keys=True))
    for kind, own in judges.items():
        if len(own) > 1:
            cause = f"{len(own)} different judges judged goals of kind {kind}, so that a difference may be theirs."
            raise ConfigError(", ".join(map(str, folders)), cause, "Run them with the same judge.")


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RunError(path, f"cannot be read ({error}).", "Run `tunesmith redteam` to its end.") from None
