"""Rows with answers -> the same rows with rewards: feedback of every kind, prompts with an answer, chats."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tunesmith.data.check import FaultLog, RowError, shown
from tunesmith.data.convertible import FEEDBACK_SHAPES, FeedbackShape, convertible_shapes
from tunesmith.data.feedback import FeedbackRow, read_feedback
from tunesmith.data.out import check_output
from tunesmith.data.pairs import prompt_key
from tunesmith.data.read import Rows, open_rows
from tunesmith.data.shape import SHAPES, Shape, detect_shape, to_record
from tunesmith.data.whole import temporary_sibling
from tunesmith.errors import DataError
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.roles import Base
from tunesmith.records import (
    Conversation,
    Document,
    Edit,
    Feedback,
    Message,
    Preference,
    PreferenceGroup,
    Ranking,
    Where,
)
from tunesmith.rollout.score import RewardModel, load_reward_model
from tunesmith.stats import clustered_proportion
from tunesmith.tokens.preference import RenderedGroup, render_groups
from tunesmith.tokens.render import RenderConfig

Turns = tuple[Message, ...]
ROWS_AT_ONCE = 256


class ScoreConfig(ModelConfig, RenderConfig):
    """What ``tunesmith score`` is asked."""

    rows: str = Field(min_length=1)
    """The file of rows, a folder with a train file, or a hub data set."""
    adapter: str = Field(min_length=1)
    """Folder of a reward model."""
    output: str = "scores.jsonl"
    """Where the rows with their rewards go."""
    overwrite: bool = False
    """Replace the output file if there is one."""
    on_bad_row: Literal["error", "drop"] = "error"
    """A faulty row stops the job, or is left out and counted by cause."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column name -> theirs, for files of feedback that name them differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What was read, scored and written; rows_read = rows_scored + all of rows_dropped."""

    output: str
    shape: str
    reward_digest: str
    rows_read: int
    rows_scored: int
    rows_dropped: dict[str, int]
    answers: int
    answers_cut: int
    mean: float
    std: float
    low: float
    high: float
    pairs: int = 0
    right: int = 0
    accuracy: list[float] = field(default_factory=list)
    """[value, low, high] over rows with a chosen and a rejected answer, ties half right, pairs of one prompt counted
    as one cluster; empty without any."""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for --json."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class _Row:
    """A raw row and the answers in it: name -> turns, one name '' where the row has one answer."""

    raw: Mapping[str, Any]
    group: PreferenceGroup
    names: tuple[str, ...]


def score_rows(config: ScoreConfig, *, base: Base | None = None) -> Scored:
    """Score every row of a source and write each with its rewards, in the source's order, whole or not at all.

    A row with one answer gets ``score``, one with several ``scores`` by name. Raises DataError for faulty rows unless
    they are dropped, and AdapterMismatchError where the reward model was trained on another base.
    """
    output, began = Path(config.output), time.perf_counter()
    # All that can be wrong with the output is told before a model is loaded, not after hours of scoring.
    if output.suffix.lower() != ".jsonl":
        raise DataError(output, "rows with rewards are written as .jsonl only.", "End its name with .jsonl.")
    check_output(output, Path(config.rows), "messages", overwrite=config.overwrite)
    rows, faults = open_rows(config.rows), FaultLog()
    shape = _shape_of(rows, config)
    read = list(_read(rows, shape, config, faults))
    if config.on_bad_row == "error":
        faults.raise_if_any(rows.path, len(rows))
    if not read:
        raise DataError(rows.path, f"none of its {len(rows)} rows can be scored.\n{faults.table()}\n", "Correct them.")
    base = load_base(config) if base is None else base
    model = load_reward_model(base, Path(config.adapter))
    dropped, scored = faults.by_cause(), list[tuple[_Row, NDArray[np.float64]]]()
    num_cut = 0
    for begin in range(0, len(read), ROWS_AT_ONCE):
        part, cut = _score(model, read[begin : begin + ROWS_AT_ONCE], config, dropped)
        scored, num_cut = scored + part, num_cut + cut
    if not scored:
        raise DataError(rows.path, "every row has an answer that is too long.", "Set --over-length truncate.")
    with temporary_sibling(output) as path, path.open("w", encoding="utf-8") as stream:
        for row, rewards_K in scored:
            stream.write(json.dumps(_with_rewards(row, rewards_K), ensure_ascii=False) + "\n")
    return _summary(config, shape, model, len(rows), scored, dropped, num_cut, time.perf_counter() - began)


def _shape_of(rows: Rows, config: ScoreConfig) -> FeedbackShape | Shape:
    """The shape of the first row that can be read; what sft reads only where it is no feedback."""
    for row_id in range(len(rows)):
        try:
            row, where = rows[row_id]
        except RowError:
            continue
        ours = {name for name in row if name not in config.columns.values()}
        ours |= {name for name, theirs in config.columns.items() if theirs in row}
        fitting = [shape for shape in FEEDBACK_SHAPES if shape in convertible_shapes(ours)]
        # Where several judgements stand beside one answer, it is the answer that counts.
        return fitting[0] if fitting else detect_shape(ours, where)
    return "messages"


def _read(rows: Rows, shape: FeedbackShape | Shape, config: ScoreConfig, faults: FaultLog) -> Iterator[_Row]:
    for row_id in range(len(rows)):
        try:
            row, where = rows[row_id]
            taken = [name for name in ("score", "scores") if name in row]
            if taken:
                fix = "Rename it in the file; scoring writes columns of that name."
                raise RowError(where.at(taken[0]), f"there is a column '{taken[0]}' already.", fix)
            answers = _answers_of(row, where, row_id, shape, config)
        except RowError as error:
            faults.add(error.fault)
            continue
        yield answers


def _answers_of(
    row: Mapping[str, Any], where: Where, row_id: int, shape: FeedbackShape | Shape, config: ScoreConfig
) -> _Row:
    feedback = next((known for known in FEEDBACK_SHAPES if known == shape), None)
    if feedback is not None:
        record = read_feedback(FeedbackRow(row, where, row_id, config.columns, False, set()), feedback)
        prompt, named = record.prompt, _named(record)
    else:
        plain = to_record(row, next(known for known in SHAPES if known == shape), where, row_id)
        if isinstance(plain, Document):
            raise RowError(where, "the row is raw text, which has no answer.", "Give prompts with answers, or chats.")
        prompt, named = _last_answer(plain)
    group = PreferenceGroup(prompt=prompt, answers=tuple(named.values()), pairs=(), row_id=row_id, where=where)
    return _Row(row, group, tuple(named))


def _named(record: Feedback) -> dict[str, Turns]:
    """The answers of a record by the names of their columns; '' for the only one."""
    if isinstance(record, Preference):
        return {"chosen": record.chosen, "rejected": record.rejected}
    if isinstance(record, Edit):
        return {"original": record.original, "corrected": record.corrected}
    return dict(record.candidates) if isinstance(record, Ranking) else {"": record.completion}


def _last_answer(chat: Conversation) -> tuple[Turns, dict[str, Turns]]:
    return chat.messages[:-1], {"": chat.messages[-1:]}


def _score(
    model: RewardModel, rows: list[_Row], config: ScoreConfig, dropped: dict[str, int]
) -> tuple[list[tuple[_Row, NDArray[np.float64]]], int]:
    """Rewards (K,) of each row, and how many answers were cut; rows with an answer that is dropped are counted."""
    base = model.base
    context = base.context_tokens_of(model.role.adapter)
    limit = min(config.max_length or context, context)
    tokenizer = base.tokenizer_of(model.role.adapter)
    rendered, _ = render_groups([row.group for row in rows], tokenizer, config, max_tokens=limit, needs_pairs=False)
    kept: list[tuple[_Row, RenderedGroup]] = []
    for row, group in zip(rows, rendered, strict=True):
        if len(group.examples) == len(row.names):
            kept.append((row, group))
        else:
            cause = f"an answer is longer than {limit} tokens with its prompt"
            dropped[cause] = dropped.get(cause, 0) + 1
    examples = [example for _, group in kept for example in group.examples]
    places = iter(range(len(examples)))
    groups = [[next(places) for _ in group.examples] for _, group in kept]
    rewards = model.score_examples(examples, groups)
    cut = sum(example.tokens_cut > 0 for example in examples)
    return [(row, rewards[group]) for (row, _), group in zip(kept, groups, strict=True)], cut


def _with_rewards(row: _Row, rewards_K: NDArray[np.float64]) -> dict[str, Any]:
    rewards = [float(reward) for reward in rewards_K]
    if row.names == ("",):
        return {**row.raw, "score": rewards[0]}
    return {**row.raw, "scores": dict(zip(row.names, rewards, strict=True))}


def _summary(
    config: ScoreConfig,
    shape: str,
    model: RewardModel,
    num_rows: int,
    scored: list[tuple[_Row, NDArray[np.float64]]],
    dropped: dict[str, int],
    num_cut: int,
    seconds: float,
) -> Scored:
    rewards = np.concatenate([rewards_K for _, rewards_K in scored])
    number: dict[bytes, int] = {}
    pairs = [
        (number.setdefault(prompt_key(row.group.prompt), len(number)), rewards_K)
        for row, rewards_K in scored
        if row.names == ("chosen", "rejected")
    ]
    right = sum(bool(better > worse) for _, (better, worse) in pairs)
    outcomes = [0.5 * (1 + float(np.sign(better - worse))) for _, (better, worse) in pairs]
    accuracy = clustered_proportion(outcomes, [prompt for prompt, _ in pairs]) if pairs else None
    return Scored(
        output=config.output,
        shape=shape,
        reward_digest=model.digest,
        rows_read=num_rows,
        rows_scored=len(scored),
        rows_dropped=dropped,
        answers=len(rewards),
        answers_cut=num_cut,
        mean=float(rewards.mean()),
        std=float(rewards.std(ddof=1)) if len(rewards) > 1 else 0.0,
        low=float(rewards.min()),
        high=float(rewards.max()),
        pairs=len(pairs),
        right=right,
        accuracy=[accuracy.value, accuracy.low, accuracy.high] if accuracy else [],
        seconds=seconds,
    )


def describe(scored: Scored) -> list[str]:
    """What to tell the user: the numbers, what was left out, what was written."""
    lines = [
        f"{scored.answers} answers of {scored.rows_scored} rows ({scored.shape}): reward {scored.mean:.3f} on average, "
        f"standard deviation {scored.std:.3f}, {scored.low:.3f} to {scored.high:.3f}"
    ]
    if scored.accuracy:
        value, low, high = (100 * x for x in scored.accuracy)
        lines.append(f"chosen above rejected in {value:.1f} % [{low:.1f}, {high:.1f}] of {scored.pairs} pairs")
    lines += [f"left out {count}: {shown(cause, most=200)}" for cause, count in scored.rows_dropped.items()]
    if scored.answers_cut:
        lines.append(f"{scored.answers_cut} answers were cut to max_length")
    return [*lines, f"wrote {scored.output} in {scored.seconds:.1f} s"]
