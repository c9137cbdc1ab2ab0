"""What both models are asked after training: how much of it, and which rows they have seen and which they have not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from tunesmith.config import Config
from tunesmith.data.canaries import make_canaries
from tunesmith.data.load import LoadedData
from tunesmith.evals.after.retained import questions_that_fit
from tunesmith.evals.after.rows import RowFacts
from tunesmith.evals.after.sides import Asked, token_limit
from tunesmith.models.roles import Base
from tunesmith.randomness import permutation
from tunesmith.recipes.prepare import SFTConfig
from tunesmith.records import Conversation, Document
from tunesmith.runs import METRICS_FILE, RECORD_FILE, read_metrics
from tunesmith.tokens.render import render


class AfterConfig(Config):
    """How much is looked at; the defaults cost less than a minute for 135M parameters on two CPU cores."""

    rows: int = Field(32, ge=2)
    """Rows at most that were trained on, and as many held-out ones, whose losses are compared."""
    row_tokens: int = Field(2500, ge=64)
    """Tokens at most of either."""
    max_rows_read: int | None = Field(100_000, ge=1)
    """Training rows searched for overlaps and personal data, a seeded sample where there are more; empty: all."""
    max_secrets: int = Field(12, ge=0)
    """Pieces of personal data whose echo is tried."""
    evaluation_sets: list[str] = []
    """Files of rows besides the shipped suites, whose overlap with the training rows is looked for."""
    data_dir: str | None = None
    """Folder of the public evaluation sets; empty: where the suites look for it."""
    seed: int = Field(0, ge=0)
    """Keys every sample and every bootstrap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A finished run and its two models, each opened when it is its turn; the tuned one with its adapter, if any.

    config: the recipe, with the dtype the run computed in.
    """

    folder: Path
    config: SFTConfig
    data: LoadedData
    base: Callable[[], Base]
    tuned: Callable[[], tuple[Base, str | None]]


def what_to_ask(run: Tuned, config: AfterConfig, rows: RowFacts, base: Base, adapter: str | None) -> Asked:
    """Samples of both kinds of rows, measured with the tuned model's tokenizer, and all that is asked beside them."""
    train, valid = run.data.train, run.data.validation
    places = {"seen": _seen_places(run), "unseen": list(range(len(valid)))}
    return Asked(
        questions=questions_that_fit(base, adapter),
        seen=_sample(train, places["seen"], run, config, "seen", base, adapter),
        unseen=_sample(valid, places["unseen"], run, config, "unseen", base, adapter),
        secrets=rows.secrets.sample,
        canaries=make_canaries(run.config.canaries, run.config.seed),
        chats=isinstance(train[0], Conversation),
        render=run.config,
    )


def _seen_places(run: Tuned) -> list[int]:
    """Places of the training rows that the kept weights have seen: all of them after a whole epoch.

    Before its end they are the first of the epoch's order; none where some rows made no example, or several, for then
    that order is not one of rows.
    """
    num_rows = len(run.data.train)
    metrics, kept = read_metrics(run.folder / METRICS_FILE), kept_step(run)
    epochs = [line["epoch"] for line in metrics if line["step"] <= kept and "epoch" in line]
    share = epochs[-1] if epochs else 1.0
    num_examples = num_rows + sum(canary.copies for canary in make_canaries(run.config.canaries, run.config.seed))
    if share >= 1:
        return list(range(num_rows))
    record = json.loads((run.folder / RECORD_FILE).read_text(encoding="utf-8"))
    # Runs of before this was noted say nothing.
    if record.get("num_examples", num_examples) != num_examples:
        return []
    order = list(range(num_examples))
    if run.config.shuffle:
        order = permutation(num_examples, run.config.seed, "row_order", 0)
    return sorted(i for i in order[: max(1, int(share * num_examples))] if i < num_rows)


def kept_step(run: Tuned) -> int:
    """The step whose weights are the run's result; the last one where nothing was evaluated."""
    result = json.loads((run.folder / RECORD_FILE).read_text(encoding="utf-8"))["result"]
    last = max((line["step"] for line in read_metrics(run.folder / METRICS_FILE)), default=0)
    return int(result["best_step"] or last)


def _sample(
    records: Sequence[Conversation | Document],
    places: Sequence[int],
    run: Tuned,
    config: AfterConfig,
    purpose: str,
    base: Base,
    adapter: str | None,
) -> list[Conversation | Document]:
    """A seeded sample within the budgets of rows and tokens; rows too long for training are passed over."""
    out: list[Conversation | Document] = []
    tokens = 0
    for i in permutation(len(places), config.seed, "after_rows", purpose):
        if len(out) == config.rows:
            break
        record = records[places[i]]
        examples = render(
            record, base.tokenizer_of(adapter), run.config, max_tokens=token_limit(base, adapter, run.config)
        )
        if not examples:
            continue
        tokens += examples[0].num_tokens
        if out and tokens > config.row_tokens:
            break
        out.append(record)
    return out
