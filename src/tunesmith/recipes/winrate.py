"""A blind win rate: policies against the model they started from, on held-out prompts, by a judge they never saw.

Read top to bottom: config, load, play (``evals/match.py``), write.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith.data.prompts import load_prompts
from tunesmith.errors import ConfigError
from tunesmith.evals.match import Match, MatchConfig, play
from tunesmith.models.adapters import PROVENANCE_FILE, load_adapter
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.resolve import EMBEDDED_MODEL
from tunesmith.models.roles import Base
from tunesmith.recipes.chat import base_of
from tunesmith.reports.winrate import interval_text, write_winrate_report
from tunesmith.rollout.generate import LocalGenerator
from tunesmith.rollout.reward_open import SourceConfig, open_rewards
from tunesmith.rollout.rewards import WeightedSum
from tunesmith.runs import atomic_write_text, machine_summary

RESULT_FILE, ROWS_FILE, REPORT_FILE = "winrate.json", "winrate.jsonl", "winrate.html"
# In a policy's provenance: the identity of the rewards it was trained with.
REWARDS_KEY = "rewards"
# Parts of an identity that say what gave the numbers, rather than how they were asked for.
_WHO = ("reward_model", "code", "model_digest")


class WinRateConfig(ModelConfig, MatchConfig):
    """What ``tunesmith winrate`` can be told."""

    prompts: str
    """File of held-out prompts, in any shape that ``feedback sample`` reads."""
    columns: dict[str, str] = {}
    """Our column names -> the file's."""
    limit: int | None = Field(None, ge=1)
    """First rows of the file; empty: all."""
    policies: list[str] = Field(min_length=1)
    """Folders of the adapters to be judged."""
    baseline: str | None = None
    """Folder of the adapter they are compared with, mostly the SFT model; empty: the bare base."""
    rewards: list[SourceConfig] = Field(min_length=1)
    """Who judges: sources no policy was trained with."""
    allow_seen: bool = False
    """Measure even with a source a policy was trained with; the result then says so."""
    output_dir: str = "runs/winrate"
    """Where the result, the rows and the page are written."""


def run_winrate(config: WinRateConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Load, play, write; returns what ``--json`` prints."""
    began = time.perf_counter()
    prompts = load_prompts(config.prompts, config.columns, limit=config.limit)
    folders = [Path(folder) for folder in config.policies]
    model = config.model_name_or_path
    if model == EMBEDDED_MODEL:
        model = base_of(folders[0]) or model
    base = load_base(config.model_copy(update={"model_name_or_path": model}))
    judge, notes = open_rewards(config.rewards, base, prefix="judge")
    seen = refuse_seen(folders, judge, allow=config.allow_seen)
    baseline = _named(base, None if config.baseline is None else Path(config.baseline), "baseline")
    policies = [_named(base, folder, f"policy_{i}") for i, folder in enumerate(folders)]
    for note in [*prompts.notes(), *base.notes, *notes]:
        say(note)
    match = play(base, LocalGenerator(base), baseline, policies, prompts, judge, config, say)
    facts = {
        **match.as_dict(),
        "seen_in_training": seen,
        "sampling": config.sampling.model_dump(),
        "prompts": {"source": config.prompts, "digest": prompts.digest},
        "base": {"name": base.resolved.name, "digest": base.digest},
        "machine": machine_summary(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_match(Path(config.output_dir), match, facts)
    return facts


def write_match(folder: Path, match: Match, facts: Mapping[str, Any]) -> None:
    """Write winrate.json, winrate.jsonl and winrate.html; ``facts`` is what the first holds. Raises DiskFullError."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = match.rows()
    atomic_write_text(folder / ROWS_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    atomic_write_text(folder / RESULT_FILE, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    write_winrate_report(folder / REPORT_FILE, facts, match.example_rows())


def refuse_seen(folders: Sequence[Path], judge: WeightedSum, *, allow: bool) -> list[str]:
    """Judges a policy was trained with, as its provenance tells. Raises ConfigError unless they are allowed."""
    told = {folder: folder / PROVENANCE_FILE for folder in folders}
    trained_with = {
        folder.name: json.loads(path.read_text()).get(REWARDS_KEY, {}) if path.is_file() else {}
        for folder, path in told.items()
    }
    return refuse_trained_with(judge, trained_with, allow=allow)


def refuse_trained_with(judge: WeightedSum, trained_with: Mapping[str, Mapping[str, str]], *, allow: bool) -> list[str]:
    """The same for identities at hand: policy -> identity of the rewards it was, or will be, trained with."""
    judges = {value: key for key, value in judge.identity.items() if key.rpartition(".")[2] in _WHO}
    seen = []
    for policy, identity in trained_with.items():
        # A source of weight 0 was only watched.
        counted = [v for k, v in identity.items() if identity.get(f"{k.rpartition('.')[0]}.weight") != "0.0"]
        seen += [f"{policy}: {judges[value].rpartition('.')[0]}" for value in counted if value in judges]
    if seen and not allow:
        raise ConfigError(
            "rewards",
            f"the judge is what a policy was trained with ({', '.join(seen)}).",
            "Take a source it never saw, such as a reward model of other pairs and another seed; or allow_seen=true.",
        )
    return seen


def _named(base: Base, folder: Path | None, adapter: str) -> tuple[str, str | None]:
    """(label, adapter) of a folder's adapter put on the base; the bare base without one."""
    if folder is None:
        return "base", None
    return folder.resolve().name, load_adapter(base, folder, adapter).adapter


def describe(config: WinRateConfig, facts: Mapping[str, Any]) -> list[str]:
    """What a terminal shows at the end."""
    against = facts["against"]
    lines = [f"{facts['num_prompts']} prompts, {facts['num_samples']} answers each, against {against}:"]
    for label, result in facts["win_rates"].items():
        sides = facts["sides"]
        lines.append(
            f"  {label}: win rate {interval_text(result['rate'], percent=True)}, score difference "
            f"{interval_text(result['difference'])}, sign test p {result['p']:.2g} "
            f"({result['wins']} : {result['ties']} : {result['losses']})"
        )
        own, other = (sides[side]["tokens"]["value"] for side in (label, against))
        lines.append(f"    tokens an answer {own:.1f} ({against} {other:.1f})")
        if label in facts["kl"]:
            kl = facts["kl"][label]
            lines.append(f"    KL {interval_text(kl['sequence'])} nats an answer, {kl['token']:.4f} a token")
    if facts["judge_agreement"]:
        lines.append(f"the judge that writes its scores: {facts['judge_agreement']} against people.")
    if facts["seen_in_training"]:
        lines.append(f"the judge was trained with: {', '.join(facts['seen_in_training'])}.")
    folder = Path(config.output_dir)
    lines.append(f"wrote {folder / REPORT_FILE}, {folder / ROWS_FILE}, {folder / RESULT_FILE}")
    return [*lines, f"next:  tunesmith chat --adapter {shlex.quote(config.policies[0])}"]
