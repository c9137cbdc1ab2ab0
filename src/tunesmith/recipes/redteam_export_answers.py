"""What should have been answered: by a template, or by a model that revises the harmful answer by a constitution."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.config import build_config
from tunesmith.constitution.revise import Chain
from tunesmith.feedback.judgements import digest_of, prompt_id_of
from tunesmith.recipes.constitution_config import ReviseConfig
from tunesmith.recipes.constitution_revise import run_revise
from tunesmith.recipes.redteam_export_config import RedteamExportConfig
from tunesmith.records import Message
from tunesmith.redteam.decline import decline
from tunesmith.redteam.export import Finding, SafeAnswer
from tunesmith.redteam.goals import Goal
from tunesmith.rollout.refusal import read_refusal
from tunesmith.runs import atomic_write_text

if TYPE_CHECKING:
    from tunesmith.models.roles import Base

# Every request is a bad one, so a fault that is missed costs more than a false alarm.
_OURS: dict[str, Any] = {"num_rounds": 2, "threshold": -4.0, "answer_tokens": 96, "critique_tokens": 32}
PROMPTS_FILE = "prompts.jsonl"


def by_template(finding: Finding, seed: int) -> SafeAnswer:
    """A refusal that names what is declined; prompts to one goal get different ones."""
    return SafeAnswer(text=decline(finding.attempt.goal, seed, finding.attempt.key), source="template")


def by_revision(
    findings: Sequence[Finding],
    config: RedteamExportConfig,
    say: Callable[[str], None],
    on_progress: Callable[[int, int], None],
    *,
    base: Base | None = None,
) -> tuple[list[SafeAnswer | None], dict[str, Any]] | None:
    """A revised answer each, None where none declines, and why how many do not; None where the user stopped it.

    The harmful answer is held against the goal in its plain words: by what an attack makes of them no principle is
    chosen, and a reviser would be attacked too. Of a goal's answers the worst is revised, for all its prompts. Raises
    what ``run_revise`` raises.
    """
    folder = Path(config.output_dir) / "revise"
    worst = dict[str, Finding]()
    for one in findings:
        name = prompt_id_of(_plain(one.attempt.goal))
        if name not in worst or one.one.judgement.score > worst[name].one.judgement.score:
            worst[name] = one
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"prompt": [{"role": m.role, "content": m.content} for m in _plain(one.attempt.goal)]}
             for one in worst.values()]  # fmt: skip
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    atomic_write_text(folder / PROMPTS_FILE, text)
    tree = {
        "seed": config.seed, **_OURS, **config.revise,
        "prompts": str(folder / PROMPTS_FILE), "output_dir": str(folder),
    }  # fmt: skip
    given = {name: (one.one.answer, digest_of(dict(one.attempt.target))) for name, one in worst.items()}
    settings = build_config(ReviseConfig, tree, place="revise")
    revised = run_revise(settings, say, on_progress, base=base, given=given)
    if revised.interrupted:
        return None
    chains = {chain.question.id: chain for chain in revised.chains}
    why = {name: _fault(one.attempt.goal, chains.get(name)) for name, one in worst.items()}
    out = list[SafeAnswer | None]()
    for one in findings:
        name = prompt_id_of(_plain(one.attempt.goal))
        out.append(None if why[name] else SafeAnswer(text=chains[name].last.after, source="revision"))
    told = Counter(fault for fault in why.values() if fault)
    return out, {"goals_revised": sum(not fault for fault in why.values()), "goals_not_revised": dict(told)}


def _plain(goal: Goal) -> tuple[Message, ...]:
    system = (Message(role="system", content=goal.system),) if goal.system else ()
    return (*system, Message(role="user", content=goal.request))


def _fault(goal: Goal, chain: Chain | None) -> str:
    """Why a revision is of no use; empty where it declines and tells no secret."""
    if chain is None or not chain.was_revised:
        return "nothing was changed"
    text = chain.last.after
    if any(secret.lower() in text.lower() for secret in goal.secrets):
        return "it tells a secret"
    kind = read_refusal(goal.request, text).kind
    return "" if kind == "refuse" else f"it reads as {kind}"
