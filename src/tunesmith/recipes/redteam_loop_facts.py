"""What the second attack came to: families that were trained on beside those that were not, on goals that are new."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.recipes.redteam import Campaign
from tunesmith.recipes.redteam_loop_config import RedteamLoopConfig
from tunesmith.redteam.attack import Family
from tunesmith.redteam.attempts import Attempt
from tunesmith.redteam.rates import KnownError
from tunesmith.redteam.verdict import OVER_REFUSAL, SUCCESS, adjusted, verdict_facts
from tunesmith.runs import atomic_write_text

AGAIN_FILE = "again.json"
TRAINED_ON, NOT_TRAINED_ON = "families trained on", "families not trained on"


def again_facts(config: RedteamLoopConfig, campaign: Campaign, folder: Path) -> dict[str, Any]:
    """The second attack's verdict by what was trained on, written to again.json; Holm over its questions alone."""
    labels, facts = list(campaign.attempts), campaign.facts
    errors = {kind: KnownError(**error) for kind, error in facts["errors"].items() if error is not None}
    sides = {
        name: verdict_facts(
            {label: _of(campaign.attempts[label], families) for label in labels}, errors=errors, seed=config.seed
        )
        for name, families in ((TRAINED_ON, config.train_families), (NOT_TRAINED_ON, config.test_families))
    }
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
        "changes": adjusted([dict(one) for one in changes]),
    }
    atomic_write_text(folder / AGAIN_FILE, json.dumps(told, indent=1) + "\n")
    return dict(json.loads(json.dumps(told)))


def _of(attempts: Sequence[Attempt], families: Sequence[Family]) -> list[Attempt]:
    """Attempts of these families to get what should be withheld."""
    return [one for one in attempts if one.family in families and one.goal.kind != "safe"]
