"""Which prompts a run learns from: told apart for the two phases, and none that is measured afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith.config import Config
from tunesmith.constitution.principles import user_text
from tunesmith.data.bootstrap.rouge import Pool, tokens_of
from tunesmith.data.prompts import PromptRow, load_prompts
from tunesmith.data.read import open_rows
from tunesmith.data.requests import as_request
from tunesmith.errors import DataError
from tunesmith.randomness import generator, permutation
from tunesmith.records import Message
from tunesmith.runs import atomic_write_text

HARMFUL_FILE, HARMLESS_FILE, LABEL_FILE = "revise_harmful.jsonl", "revise_harmless.jsonl", "label.jsonl"
# Of LABEL_FILE what is known as harmless.
LABEL_HARMLESS_FILE = "label_harmless.jsonl"


class RunPromptsConfig(Config):
    """Prompts of both kinds, and how the phases share them."""

    harmful: str = Field(min_length=1)
    """Prompts a model should not simply answer."""
    harmful_columns: dict[str, str] = {}
    """Our column name -> theirs."""
    harmful_requests: float = Field(0.0, ge=0, le=1)
    """Of the harmful prompts that ask how, about this share is put as a request ("Explain how to ..."): a model that
    is tuned on questions alone need not decline orders."""
    harmless: str | None = Field(None, min_length=1)
    """Prompts that ask for nothing bad."""
    harmless_columns: dict[str, str] = {}
    """Our column name -> theirs."""
    harmless_where: dict[str, str] = {}
    """Of them only rows with these values: column -> value."""
    harmful_limit: int | None = Field(None, ge=1)
    """So many at most, chosen by the seed."""
    harmless_limit: int | None = Field(None, ge=1)
    """The same of the harmless ones."""
    label_share: float = Field(0.35, ge=0, lt=1)
    """Of each kind the share that is kept for the AI-feedback phase, so that it sees prompts that are new to it."""
    max_likeness: float = Field(0.7, gt=0, le=1)
    """A prompt whose ROUGE-L with one that is measured reaches this is left out, and counted."""


def split_prompts(
    config: RunPromptsConfig, measured: Sequence[str], folder: Path, *, seed: int, labels: bool
) -> dict[str, Any]:
    """Write the phases' prompts into a folder and say how many there are of each, and what was left out and why.

    measured: the user's words of every prompt of the evaluation. labels: whether there is an AI-feedback phase; without
    one the first phase gets all. Raises DataError for a file without prompts, or where nothing is left of one.
    """
    pool = Pool()
    for number, text in enumerate(measured):
        pool.add(str(number), text)
    facts: dict[str, Any] = {}
    parts: dict[str, list[PromptRow]] = {HARMFUL_FILE: [], HARMLESS_FILE: [], LABEL_FILE: [], LABEL_HARMLESS_FILE: []}
    for kind, file in (("harmful", HARMFUL_FILE), ("harmless", HARMLESS_FILE)):
        source = getattr(config, kind)
        if source is None:
            continue
        where = config.harmless_where if kind == "harmless" else {}
        loaded = prompts_where(source, getattr(config, f"{kind}_columns"), where)
        if kind == "harmful":
            loaded = [_put(one, config.harmful_requests, seed) for one in loaded]
        fit = [one for one in loaded if not _is_measured(one, pool, config.max_likeness)]
        if not fit:
            cause = "no prompt is left: each is like one that is measured."
            raise DataError(source, cause, "Train on other prompts than you measure on.")
        limit = getattr(config, f"{kind}_limit") or len(fit)
        chosen = [fit[i] for i in permutation(len(fit), seed, "constitution_prompts", kind)[:limit]]
        kept_back = round(config.label_share * len(chosen)) if labels else 0
        parts[LABEL_FILE] += chosen[:kept_back]
        parts[LABEL_HARMLESS_FILE] += chosen[:kept_back] if kind == "harmless" else []
        parts[file] += chosen[kept_back:]
        facts[kind] = {
            "source": source, "prompts": len(loaded), "like_measured": len(loaded) - len(fit),
            "revise": len(chosen) - kept_back, "label": kept_back,
        }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for file, rows in parts.items():
        lines = [json.dumps(_as_row(one), ensure_ascii=False) + "\n" for one in rows]
        if rows:
            atomic_write_text(folder / file, "".join(lines))
        else:
            (folder / file).unlink(missing_ok=True)
    return facts


def prompts_where(source: str, columns: Mapping[str, str], where: Mapping[str, str]) -> list[PromptRow]:
    """The prompts of a file's rows that have these values in these columns. Raises DataError where none has."""
    loaded = load_prompts(source, columns)
    if not where:
        return list(loaded)
    rows = open_rows(source)
    kept = [one for one in loaded if all(rows[one.row_id][0].get(key) == value for key, value in where.items())]
    if not kept:
        told = ", ".join(f"{key}: {value}" for key, value in where.items())
        raise DataError(source, f"no row has {told}.", "Correct the filter.")
    return kept


def _is_measured(prompt: PromptRow, pool: Pool, most: float) -> bool:
    text = user_text(prompt.messages)
    nearest = pool.nearest(text)
    return nearest is not None and nearest.score >= most and bool(tokens_of(text))


def _put(prompt: PromptRow, share: float, seed: int) -> PromptRow:
    """The prompt, or where a draw by its words says so the same as a request."""
    text = user_text(prompt.messages)
    if generator(seed, "constitution_requests", text).random() >= share or len(prompt.messages) != 1:
        return prompt
    request = as_request(text, seed)
    return prompt if request is None else replace(prompt, messages=(Message(role="user", content=request),))


def _as_row(prompt: PromptRow) -> Mapping[str, Any]:
    """A row of turns, with the place it stood at."""
    turns = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
    return {"prompt": turns, "from": str(prompt.where)}
