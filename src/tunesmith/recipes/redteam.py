"""A red-team campaign: goals x attacks x converters x attempts against one or several models, and what came of it.

Read top to bottom: what is asked, of whom, what it costs, the attempts, the verdict. Keys are in ``redteam_config.py``,
who is asked in ``redteam_open.py``, the cost in ``redteam_cost.py``; rounds and answers in ``redteam/driver.py``.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError, EndpointError, RunError
from tunesmith.models.roles import Base
from tunesmith.recipes.redteam_config import RedteamConfig
from tunesmith.recipes.redteam_cost import CampaignCost, cost_of
from tunesmith.recipes.redteam_judge_open import goals_with_judges, open_judge
from tunesmith.recipes.redteam_kept import kept_suites, measure_kept
from tunesmith.recipes.redteam_open import Opened, open_targets
from tunesmith.redteam.attempt_rows import ATTEMPTS_FILE, load_attempts, read_attempt
from tunesmith.redteam.attempts import Attempt
from tunesmith.redteam.calls import CALLS_FILE
from tunesmith.redteam.catalogue import ATTACKS, find_attacks
from tunesmith.redteam.converters import apply_chain, chain_names, check_chain
from tunesmith.redteam.driver import Counts, Driver
from tunesmith.redteam.goal_sets import load_goals
from tunesmith.redteam.judge_errors import errors_by_kind
from tunesmith.redteam.judges import JudgeByKind
from tunesmith.redteam.plan import Planned, plan_attempts, plan_replay
from tunesmith.redteam.thresholds import parse_thresholds
from tunesmith.redteam.verdict import verdict_facts
from tunesmith.reports.redteam import write_redteam_report
from tunesmith.rollout.results import ResultsFile
from tunesmith.runs import atomic_write_text, hold_file

CAMPAIGN_FILE = "campaign.json"
NOTICE = (
    "Red-teaming is for models that are yours, or whose owner asked you to test them. It writes requests for harmful "
    "things and what a model answered into {folder}; keep that folder to yourself."
)
Progress = Callable[[str, Counts], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What a campaign came to.

    attempts: by the label of the model, what was there before first. facts: of the verdict, empty where the campaign
    was stopped or only estimated. seconds, processor_seconds: of this process's part.
    """

    folder: Path
    attempts: dict[str, list[Attempt]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    cost: CampaignCost
    spent: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    processor_seconds: float = 0.0
    interrupted: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For --json: the verdict and what it took; the attempts are in their file."""
        names = ("spent", "seconds", "processor_seconds", "interrupted")
        told = {name: getattr(self, name) for name in names}
        return {"verdict": self.facts, "cost": self.cost.as_dict(), "output_dir": str(self.folder), **told}


def run_redteam(
    config: RedteamConfig,
    say: Callable[[str], None],
    on_progress: Progress = lambda label, counts: None,
    *,
    base: Base | None = None,
    estimate_only: bool = False,
) -> Campaign:
    """Attack, judge, report. on_progress: (label of the model, how far it is). base: one already in memory.

    Ctrl-C ends it early, and the same call goes on. Raises
    ConfigError, DataError, ModelError, AdapterMismatchError, EndpointError, DiskFullError, RunError.
    """
    folder = Path(config.output_dir)
    parse_thresholds(config.fail_above)
    kept_suites(config)
    # 1. What is asked; faults are told before a model is loaded.
    plans = plan(config, say)
    # 2. Of whom.
    if not (folder / CAMPAIGN_FILE).exists():
        say(NOTICE.format(folder=folder))
    opened = open_targets(config, needs_attacker=any(one.attack.num_attacker_calls for one in plans), base=base)
    held = base if opened.local is None else opened.local.base
    judge, notes = open_judge(config, [one.goal for one in plans], config, held)
    for note in [*opened.notes, *notes]:
        say(note)
    folder.mkdir(parents=True, exist_ok=True)
    # Two at once would each ask what the other has asked.
    with hold_file(folder / ATTEMPTS_FILE):
        memory = (ResultsFile(folder / CALLS_FILE), ResultsFile(folder / ATTEMPTS_FILE))
        drivers = _drivers(opened, judge, *memory, on_progress)
        # 3. What it costs.
        cost = cost_of(config, plans, drivers, opened.local)
        say(str(cost))
        if estimate_only:
            return Campaign(folder=folder, cost=cost)
        # 4. The attempts, target by target.
        began, clock = time.perf_counter(), time.process_time()
        try:
            keys = _attack(config, plans, drivers, memory[1])
            kept = measure_kept(config, opened.local, folder, say)
        except EndpointError as error:
            raise EndpointError(error.place, error.cause, f"{error.fix} The same command goes on.") from None
        except KeyboardInterrupt:
            return Campaign(folder=folder, cost=cost, interrupted=True, **_spent(drivers, began, clock))
        # 5. The verdict.
        _note(folder, config, keys, kept)
        attempts = {label: [read_attempt(memory[1][key]) for key in own] for label, own in keys.items()}
        facts = report(folder, attempts, judge, kept, config)
        return Campaign(folder=folder, attempts=attempts, facts=facts, cost=cost, **_spent(drivers, began, clock))


def _spent(drivers: Mapping[str, Driver], began: float, clock: float) -> dict[str, Any]:
    return {
        "spent": {label: asdict(driver.counts.spent) for label, driver in drivers.items()},
        "seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(time.process_time() - clock, 1),
    }


def plan(config: RedteamConfig, say: Callable[[str], None] = lambda line: None) -> list[Planned]:
    """The attempts of a config, for any target. Raises ConfigError, DataError."""
    for chain in config.converters:
        check_chain(chain)
    goals = load_goals(config.goals, limit=config.limit, seed=config.seed, data_dir=config.data_dir)
    goals = goals_with_judges(config, goals, say)
    attacks = find_attacks(config.attacks, data_dir=config.data_dir)
    names = {attack.name for attack in attacks}
    if config.converters and (unknown := [name for name in config.converted_attacks if name not in names]):
        raise ConfigError(
            "converted_attacks", f"'{unknown[0]}' is not attacked with.", f"Take some of {', '.join(names)}."
        )
    plans = plan_attempts(
        goals,
        attacks,
        plain=ATTACKS["direct"],
        chains=[chain_names(chain) for chain in config.converters],
        convert=apply_chain,
        converted_attacks=config.converted_attacks,
        num_attempts=config.num_attempts,
        seed=config.seed,
    )
    kinds = Counter(goal.kind for goal in goals)
    told = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    say(f"{len(goals)} goals ({told}), {len(attacks)} attacks, {len(config.converters)} converter chains.")
    return plans


def _drivers(
    opened: Opened, judge: JudgeByKind, calls: ResultsFile, attempts: ResultsFile, on_progress: Progress
) -> dict[str, Driver]:
    return {
        label: Driver(
            target=target,
            judge=judge,
            attacker=opened.attacker,
            calls=calls,
            attempts=attempts,
            progress=partial(on_progress, label),
        )
        for label, target in opened.targets.items()
    }


def _attack(
    config: RedteamConfig, plans: Sequence[Planned], drivers: Mapping[str, Driver], attempts: ResultsFile
) -> dict[str, list[str]]:
    """Keys of the attempts by label; with replay, all but the first model are asked what the first was asked."""
    keys: dict[str, list[str]] = {}
    for label, driver in drivers.items():
        own = plans
        if config.replay and keys:
            first = [read_attempt(attempts[key]) for key in next(iter(keys.values()))]
            own = plan_replay(first, ATTACKS)
        keys[label] = driver.run(own)
    return keys


def _note(
    folder: Path, config: RedteamConfig, keys: Mapping[str, Sequence[str]], kept: Sequence[Mapping[str, Any]]
) -> None:
    """Which attempts are this campaign's, since a folder may hold those of others, and what was kept."""
    told = {"config": config.model_dump(mode="json"), "attempts": keys, "kept": kept}
    atomic_write_text(folder / CAMPAIGN_FILE, json.dumps(told, indent=1) + "\n")


def load_campaign(folder: Path) -> tuple[RedteamConfig, dict[str, list[Attempt]]]:
    """The config of a finished campaign and its attempts by label. Raises RunError where there is none."""
    try:
        told = json.loads((folder / CAMPAIGN_FILE).read_text(encoding="utf-8"))
        config = RedteamConfig.model_validate(told["config"])
        by_key = {one.key: one for one in load_attempts(folder / ATTEMPTS_FILE)}
        return config, {label: [by_key[key] for key in keys] for label, keys in told["attempts"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, RunError):
            raise
        cause = "holds no finished red-team campaign."
        raise RunError(folder, cause, "Name the output_dir of `tunesmith redteam`, run to its end.") from None


def report(
    folder: Path,
    attempts: Mapping[str, Sequence[Attempt]],
    judge: JudgeByKind,
    kept: Sequence[Mapping[str, Any]],
    config: RedteamConfig,
) -> dict[str, Any]:
    """Write the verdict's pages and give its facts."""
    errors = errors_by_kind(judge, config.calibrations)
    facts = verdict_facts(attempts, capability=kept, errors=errors, seed=config.seed)
    write_redteam_report(folder, facts)
    return facts
