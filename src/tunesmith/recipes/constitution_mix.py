"""Revised rows and helpful ones in a stated share, so that a model does not learn to refuse everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tunesmith.constitution.audit import turns_of
from tunesmith.data.load import DataConfig, load_data
from tunesmith.errors import DataError
from tunesmith.randomness import permutation
from tunesmith.recipes.constitution_config import ReviseConfig
from tunesmith.records import Conversation


def helpful_rows(config: ReviseConfig, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The helpful rows as turns; what is left out is said. Raises DataError."""
    if config.helpful_rows is None:
        return []
    loaded = load_data(DataConfig(train=config.helpful_rows, validation_share=0.0, on_bad_row=config.on_bad_row))
    for cause, number in loaded.rows_dropped.items():
        say(f"helpful: {number} rows left out: {cause}")
    out = []
    for record in loaded.train:
        if not isinstance(record, Conversation):
            raise DataError(config.helpful_rows, "its rows are raw text.", "Give rows with a prompt and an answer.")
        out.append({"messages": turns_of(record.messages), "provenance": {"from": "helpful", "row": str(record.where)}})
    return out


def mixed(
    config: ReviseConfig, own: Sequence[dict[str, Any]], helpful: Sequence[dict[str, Any]], say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Own and helpful rows in the stated share, in an order of the seed, and what became of the share."""
    wanted = round(len(own) * config.helpful_share / (1 - config.helpful_share))
    order = permutation(len(helpful), config.seed, "constitution_helpful")
    taken = [helpful[i] for i in order[:wanted]]
    if len(taken) < wanted:
        say(f"{wanted} helpful rows make a share of {config.helpful_share:g}, {len(helpful)} are there: all are taken.")
    if not own:
        say("nothing was revised: there are no rows to train on. Look at the audit log.")
    rows = [*own, *taken]
    mixed = [rows[i] for i in permutation(len(rows), config.seed, "constitution_mix")]
    share = len(taken) / len(rows) if rows else 0.0
    return mixed, {"own": len(own), "helpful": len(taken), "helpful_share": round(share, 4), "wanted": wanted}
