"""What ``tunesmith constitution revise`` reads: principles, prompts of two kinds, helpful rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.constitution.asking import Voice
from tunesmith.constitution.principles import Constitution, load_constitution
from tunesmith.constitution.revise import Question
from tunesmith.data.check import Fault, FaultLog
from tunesmith.data.prompts import LoadedPrompts, load_prompts
from tunesmith.errors import ConfigError
from tunesmith.recipes.constitution_config import ReviseConfig
from tunesmith.recipes.constitution_mix import helpful_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What the files hold; digests: of the files of prompts."""

    constitution: Constitution
    questions: list[Question]
    digests: dict[str, str]
    helpful: list[dict[str, Any]]


def load(config: ReviseConfig, say: Callable[[str], None]) -> Loaded:
    """Read all files. Raises ConfigError, DataError."""
    constitution = load_constitution(config.constitution)
    _check_thresholds(config, constitution)
    questions, digests = _questions(config, say)
    return Loaded(constitution=constitution, questions=questions, digests=digests, helpful=helpful_rows(config, say))


def _questions(config: ReviseConfig, say: Callable[[str], None]) -> tuple[list[Question], dict[str, str]]:
    """The prompts of both files, the harmless ones last, and the files' digests. Raises DataError."""
    loaded = _prompts(config, config.prompts)
    for note in loaded.notes():
        say(note)
    out = [Question(messages=one.messages, where=one.where) for one in loaded]
    digests = {"prompts": loaded.digest}
    if config.harmless is not None:
        more = _prompts(config, config.harmless)
        there = {one.id for one in out}
        added = [Question(messages=one.messages, where=one.where, harmless=True) for one in more]
        kept = [one for one in added if one.id not in there]
        if len(kept) < len(added):
            say(f"{len(added) - len(kept)} harmless prompts are among the others too, and are taken as one of those.")
        for note in more.notes():
            say(f"harmless: {note}")
        out, digests["harmless"] = [*out, *kept], more.digest
    return out, digests


def _prompts(config: ReviseConfig, source: str) -> LoadedPrompts:
    columns = config.columns if source == config.prompts else {}
    return load_prompts(source, columns, limit=config.limit, on_bad_row=config.on_bad_row)


def refuse_too_long(config: ReviseConfig, questions: Sequence[Question], voice: Voice) -> None:
    """Raise DataError with the place of every prompt whose answer has no room, unless those are left out."""
    if config.on_bad_row == "drop":
        return
    faults = FaultLog()
    for one in questions:
        if not voice.fits(one.messages, config.answer_tokens):
            cause = "the prompt with its answer is longer than the model's context."
            faults.add(Fault(one.where, cause, "Shorten it, lower answer_tokens, or set on_bad_row: drop."))
    faults.raise_if_any(config.prompts, len(questions))


def _check_thresholds(config: ReviseConfig, constitution: Constitution) -> None:
    known = {one.id for one in constitution.principles}
    if unknown := sorted(set(config.thresholds) - known):
        fix = f"Known are {', '.join(sorted(known))}."
        raise ConfigError("thresholds", f"there is no principle '{unknown[0]}' in {config.constitution}.", fix)
