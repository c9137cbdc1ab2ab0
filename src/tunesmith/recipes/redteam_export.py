"""A red-team run -> rows to train on, with what is kept for the next test beside them.

Read top to bottom: read, split, find, what should have been answered, help, write. Keys are in
``redteam_export_config.py``; what a finding is, in ``redteam/export.py``.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import ConfigError, DataError
from tunesmith.randomness import permutation
from tunesmith.recipes.redteam import CAMPAIGN_FILE, load_campaign
from tunesmith.recipes.redteam_export_answers import by_revision, by_template
from tunesmith.recipes.redteam_export_config import RedteamExportConfig
from tunesmith.recipes.redteam_helpful import helpful_row, load_helpful, take
from tunesmith.redteam.attempt_rows import ATTEMPTS_FILE, goal_row, load_attempts
from tunesmith.redteam.attempts import Attempt
from tunesmith.redteam.export import (
    Finding,
    SafeAnswer,
    Split,
    Target,
    find,
    finding_row,
    openings,
    split_attempts,
    varied,
)
from tunesmith.runs import atomic_write_text, file_digest

if TYPE_CHECKING:
    from tunesmith.models.roles import Base

ROWS_FILES: Mapping[Target, str] = {
    "preferences": "preferences.jsonl", "sft": "sft.jsonl", "constitution-prompts": "prompts.jsonl",
}  # fmt: skip
TEST_GOALS_FILE, EXPORT_FILE = "test_goals.jsonl", "export.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written; summary: what export.json holds. interrupted: the reviser was stopped, nothing is written."""

    rows: Path
    summary: Mapping[str, Any] = field(default_factory=dict)
    interrupted: bool = False


def run_export(
    config: RedteamExportConfig,
    say: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    base: Base | None = None,
    measured: Sequence[str] = (),
) -> Exported:
    """Write the rows of a run's successes, the goals kept for the next test, and export.json.

    on_progress: (done, total) of the reviser's work. base: one that is loaded already, for the reviser. measured:
    requests of the next test that the run does not hold, which no helpful row may be like. Raises ConfigError,
    DataError, RunError, and what the reviser raises.
    """
    # 1. Read, and tell what is trained on from what is tested with.
    folder = Path(config.output_dir)
    out = folder / ROWS_FILES[config.to]
    _make_room(folder, out, overwrite=config.overwrite)
    path, attempts = _read(config)
    split = split_attempts(attempts, config, config.seed)

    # 2. Find.
    findings, left_out = find(
        attempts,
        split,
        likeness=config.likeness,
        most_of_an_attack=config.most_of_an_attack,
        most_of_a_goal=config.most_of_a_goal,
        seed=config.seed,
    )
    if not findings:
        told = "; ".join(f"{number} x {why}" for why, number in left_out.items()) or "no attack went through"
        raise DataError(path, f"gives no row: {told}.", "Attack with other families or more goals.")

    # 3. What should have been answered.
    answered = _answers(findings, config, say, on_progress, base)
    if answered is None:
        return Exported(rows=out, interrupted=True)
    answers, facts = answered

    # 4. Help beside refusals, in its share.
    own = list(zip(findings, answers, strict=True))
    own, helpful, mixture = _mixed(config, own, [*measured, *_measured(attempts, split)], left_out, say)

    # 5. Write.
    rows = [finding_row(one, safe, config.to) for one, safe in own] + helpful
    rows = [rows[i] for i in permutation(len(rows), config.seed, "redteam_rows")]
    summary = {
        "to": config.to,
        "rows": len(rows),
        **mixture,
        "left_out": left_out,
        **_summary([one for one, _ in own], [safe for _, safe in own], facts, split),
        "attempts": {"file": str(path), "digest": file_digest(path), "number": len(attempts)},
        "settings": config.model_dump(mode="json", exclude={"run", "output_dir", "overwrite"}),
    }
    _write_rows(folder / TEST_GOALS_FILE, _held_out(attempts, split))
    _write_rows(out, rows)
    atomic_write_text(folder / EXPORT_FILE, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return Exported(rows=out, summary=summary)


def _answers(
    findings: Sequence[Finding],
    config: RedteamExportConfig,
    say: Callable[[str], None],
    on_progress: Callable[[int, int], None],
    base: Base | None,
) -> tuple[list[SafeAnswer], dict[str, Any]] | None:
    """A safe answer each, and what became of revisions; None where the user stopped the reviser."""
    templates = [by_template(one, config.seed) for one in findings]
    if config.answers == "template" or config.to == "constitution-prompts":
        return templates, {}
    revised = by_revision(findings, config, say, on_progress, base=base)
    if revised is None:
        return None
    declined, facts = revised
    out, replaced = varied(
        [one or template for one, template in zip(declined, templates, strict=True)],
        lambda i: templates[i],
        config.most_alike,
    )
    return out, {**facts, "openings_used_up": replaced}


def _summary(
    findings: Sequence[Finding], answers: Sequence[SafeAnswer], facts: Mapping[str, Any], split: Split
) -> dict[str, Any]:
    """The split, what the findings are of, and what the safe answers are."""
    begins = openings([safe.text for safe in answers])
    return {
        "split": _split_facts(split),
        "findings": _counts(findings),
        "safe_answers": {**Counter(safe.source for safe in answers), "openings": begins, **facts},
    }


def _make_room(folder: Path, out: Path, *, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        raise DataError(out, "the file exists.", "Name another folder, or pass --overwrite.")
    folder.mkdir(parents=True, exist_ok=True)


def _read(config: RedteamExportConfig) -> tuple[Path, list[Attempt]]:
    """The file and its attempts: of a campaign those on one model, of any other file all."""
    run = Path(config.run)
    path = run / ATTEMPTS_FILE if run.is_dir() else run
    if not (run / CAMPAIGN_FILE).is_file():
        if config.of is not None:
            raise ConfigError("of", f"{run} does not say which model is which.", "Name a campaign's folder.")
        return path, load_attempts(path)
    _, by_label = load_campaign(run)
    label = list(by_label)[-1] if config.of is None else config.of
    if label not in by_label:
        raise ConfigError("of", f"the campaign has no model '{label}'.", f"Use one of {', '.join(by_label)}.")
    return path, by_label[label]


def _held_out(attempts: Sequence[Attempt], split: Split) -> list[dict[str, Any]]:
    goals = {one.goal.id: one.goal for one in attempts if one.goal.id in split.test_goals}
    return [goal_row(goal) for goal in goals.values()]


def _measured(attempts: Sequence[Attempt], split: Split) -> list[str]:
    """Requests of the next test: goals that are held out, and safe ones."""
    goals = {one.goal.request: one.goal for one in attempts}
    return [request for request, goal in goals.items() if goal.kind == "safe" or goal.id in split.test_goals]


def _mixed(
    config: RedteamExportConfig,
    own: list[tuple[Finding, SafeAnswer]],
    measured: Sequence[str],
    left_out: dict[str, int],
    say: Callable[[str], None],
) -> tuple[list[tuple[Finding, SafeAnswer]], list[dict[str, Any]], dict[str, Any]]:
    """Findings and helpful rows in the stated share, and the facts of it; what has to go is added to ``left_out``."""
    if config.to == "constitution-prompts":
        return own, [], {"own": len(own)}
    share = config.helpful_share
    if not share:
        say("rows of refusal alone: a small model that is trained on them learns to refuse everything.")
        return own, [], {"own": len(own), "helpful": 0, "borderline": 0}
    helpful, num_like = load_helpful(config.helpful, config.borderline_where, measured, config.max_likeness)
    wanted = round(len(own) * share / (1 - share))
    taken = take(helpful, max(1, wanted), config.borderline_share, config.seed)
    most = max(1, round(len(taken) * (1 - share) / share))
    if len(own) > most and len(taken) < wanted:
        say(f"{len(helpful)} helpful rows allow {most} others in a share of {share:g}: {len(own) - most} are left out.")
        left_out["too few rows of help"] = len(own) - most
        own = own[:most]
    rows = [helpful_row(one, config.to, config.seed) for one in taken]
    return own, rows, {
        "own": len(own),
        "helpful": len(taken),
        "borderline": sum(one.borderline for one in taken),
        "helpful_share": round(len(taken) / (len(own) + len(taken)), 4),
        "helpful_like_measured": num_like,
    }  # fmt: skip


def _split_facts(split: Split) -> dict[str, Any]:
    return {
        "train_families": list(split.train_families),
        "test_families": list(split.test_families),
        "train_goals": len(split.train_goals),
        "test_goals": len(split.test_goals),
    }


def _counts(findings: Sequence[Finding]) -> dict[str, dict[str, int]]:
    attempts = [one.attempt for one in findings]
    return {
        "families": dict(Counter(one.family for one in attempts).most_common()),
        "attacks": dict(Counter(one.attack for one in attempts).most_common()),
        "categories": dict(Counter(one.goal.category for one in attempts).most_common()),
    }


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    atomic_write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def describe_export(exported: Exported) -> list[str]:
    """What a terminal shows: rows, shares, the split, what was left out, the next command."""
    told, split = exported.summary, exported.summary["split"]
    lines = [f"{told['own']} successes became rows, of {told['attempts']['number']} attempts"]
    lines += [f"  left out: {number} x {why}" for why, number in told["left_out"].items()]
    if told.get("helpful"):
        borderline = f"{told['borderline']} of them only sound bad"
        lines.append(f"{told['helpful']} rows of help beside them ({told['helpful_share']:.0%}; {borderline})")
    lines.append(f"trained on: {', '.join(split['train_families'])}; {split['train_goals']} goals")
    lines.append(f"kept for the test: {', '.join(split['test_families'])}; {split['test_goals']} goals")
    if told["to"] != "constitution-prompts":
        begins = told["safe_answers"]["openings"]
        lines.append(
            f"safe answers begin in {begins['different']} ways; the commonest is {begins['share']:.0%} of them"
        )
    rows = shlex.quote(str(exported.rows))
    lines.append(f"wrote {told['rows']} rows to {exported.rows}")
    examples = "--helpful-rows ROWS --helpful-share 0.25"
    lines.append({
        "preferences": f"next: tunesmith dpo recipes/dpo.yaml data.train={rows}",
        "sft": f"next: tunesmith sft recipes/chat.yaml data.train={rows}",
        "constitution-prompts": f"next: tunesmith constitution revise {rows} --output-dir DIR {examples}",
    }[told["to"]])  # fmt: skip
    return lines
