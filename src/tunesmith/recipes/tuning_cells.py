"""One trained adapter, and what it measures on a task, each kept under a digest of all it is made of.

An experiment is a table of such cells: one that is on the disk is never computed again, so a stopped experiment goes on
where it was, and arms that share a cell train it once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from tunesmith.config import Config
from tunesmith.data.load import DataConfig, load_data
from tunesmith.data.write import Form, to_row
from tunesmith.errors import ConfigError, DataError
from tunesmith.evals.scorers import comparable
from tunesmith.models.adapters import AdapterConfig, adapter_digest, drop_adapter, load_adapter
from tunesmith.models.forward import forward
from tunesmith.models.roles import Base
from tunesmith.recipes.prepare import ADAPTER_NAME, SFTConfig
from tunesmith.recipes.sft import train
from tunesmith.records import Conversation, Message
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling
from tunesmith.runs import atomic_write_text
from tunesmith.stats import Interval, bootstrap_ratio, wilson_interval
from tunesmith.tokens.pack import micro_batches, pack
from tunesmith.tokens.render import RenderConfig, render, render_prompt

# Cells measure whole rows; what a recipe may cut is its training rows.
_RENDERING = RenderConfig()
DONE_FILE, MESSAGES = "done.json", Form("messages", ".jsonl")


class TaskConfig(Config):
    """One task: what it is called and where its rows are."""

    name: str = Field(min_length=1, pattern=r"^[\w-]+$")
    """Names its column in tables and pictures."""
    train: str = Field(min_length=1)
    """Rows to learn from, as data.train of `tunesmith sft`."""
    validation: str | None = None
    """Rows to measure on; empty: a tenth of the training rows is held out."""
    columns: dict[str, str] = {}
    """Our column name -> theirs, as data.columns of `tunesmith sft`."""
    system: str | None = None
    """A system message before every row that has none: it tells tasks apart whose rows look alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRows:
    """A task's conversations. gold: of each validation row its last answer where exact match is asked, else None."""

    name: str
    train: tuple[Conversation, ...]
    validation: tuple[Conversation, ...]
    gold: tuple[str | None, ...]

    @property
    def digest(self) -> str:
        """Of the validation rows: what a measurement is of."""
        return _digest([to_row(record, MESSAGES) for record in self.validation])


def read_task(
    task: TaskConfig, *, limit: int | None, validation_limit: int | None, most_words: int, seed: int
) -> TaskRows:
    """Load one task's rows; exact match is asked where every validation row ends in an answer of at most most_words.

    Raises DataError for rows that are no conversations and a task without validation rows.
    """
    config = DataConfig(
        train=task.train,
        validation=task.validation,
        columns=task.columns,
        limit=limit,
        validation_limit=validation_limit,
    )
    data = load_data(config, seed=seed)
    sides = [tuple(data.train), tuple(data.validation)]
    found = [[_told(record, task.system) for record in side if isinstance(record, Conversation)] for side in sides]
    if len(found[0]) + len(found[1]) < len(sides[0]) + len(sides[1]):
        raise DataError(task.train, "holds texts, not conversations.", "Name rows with a prompt and an answer.")
    if not found[0] or not found[1]:
        raise DataError(
            task.train, f"leaves {len(found[0])} training and {len(found[1])} validation rows.", "Add rows."
        )
    answers = [record.messages[-1].content for record in found[1]]
    short = all(len(answer.split()) <= most_words for answer in answers)
    gold = tuple(answers) if short else (None,) * len(answers)
    return TaskRows(name=task.name, train=tuple(found[0]), validation=tuple(found[1]), gold=gold)


def _told(record: Conversation, system: str | None) -> Conversation:
    if system is None or record.messages[0].role == "system":
        return record
    return replace(record, messages=(Message(role="system", content=system), *record.messages))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A trained adapter on the disk; seconds: of its own training, without what it was started from."""

    folder: Path
    digest: str
    num_rows: int
    seconds: float
    num_tokens: int


class Interrupted(Exception):
    """The user stopped a training; it goes on from its checkpoint with the next call."""


def train_cell(
    base: Base,
    folder: Path,
    rows: Sequence[Conversation],
    settings: Mapping[str, Any],
    adapter: AdapterConfig,
    start: Cell | None = None,
) -> Cell:
    """Train on rows, from a fresh adapter or another cell's, or read it back where it was trained before.

    folder: where cells lie. settings: keys of SFTConfig. The last weights are kept: choosing by the rows that are
    measured afterwards would flatter them. The base has no adapter of the cell afterwards. Raises Interrupted.
    """
    written = [to_row(record, MESSAGES) for record in rows]
    made_of = [
        written, dict(settings), adapter.model_dump() if start is None else start.digest,
        base.digest, base.resolved.template_digest, str(base.dtype),
    ]  # fmt: skip
    place = folder / _digest(made_of)[:16]
    if not (place / DONE_FILE).exists():
        place.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in written]
        atomic_write_text(place / "train.jsonl", "".join(lines))
        _train(base, place, settings, adapter, start)
    facts = json.loads((place / DONE_FILE).read_text())
    return Cell(folder=place, num_rows=len(rows), **facts)


def _train(base: Base, place: Path, settings: Mapping[str, Any], adapter: AdapterConfig, start: Cell | None) -> None:
    begun = any(place.glob("checkpoint-*"))
    which = {"adapter": adapter} if start is None else {"adapter_name_or_path": str(start.folder)}
    recipe = SFTConfig(
        output_dir=str(place),
        resume_from_checkpoint="auto" if begun else None,
        overwrite_output_dir=not begun,
        data=DataConfig(train=str(place / "train.jsonl"), validation_share=0, cache=False),
        save_total_limit=1,
        after_training="off",
        **which,
        **settings,
    )
    trained = train(recipe, base=base)
    digest = adapter_digest(base, ADAPTER_NAME)
    drop_adapter(base, ADAPTER_NAME)
    if trained.interrupted:
        raise Interrupted(place)
    facts = {"digest": digest, "seconds": trained.train_seconds, "num_tokens": trained.num_tokens}
    atomic_write_text(place / DONE_FILE, json.dumps(facts) + "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One adapter on one task's validation rows.

    loss_sum, weight: nats and loss tokens of each row. exact: whether its answer is the gold one; None: not asked.
    """

    loss_sum: tuple[float, ...]
    weight: tuple[float, ...]
    exact: tuple[bool, ...] | None

    def loss(self) -> Interval:
        """Nats a token; the interval resamples rows."""
        return bootstrap_ratio(self.loss_sum, self.weight, seed=0)

    def share_exact(self) -> Interval | None:
        """Of rows answered with the gold answer's words."""
        return None if self.exact is None else wilson_interval(sum(self.exact), len(self.exact))

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the estimates with their limits."""
        loss, exact = self.loss(), self.share_exact()
        return {
            "loss": [loss.value, loss.low, loss.high],
            "exact": None if exact is None else [exact.value, exact.low, exact.high],
            "rows": len(self.weight),
        }


def measure_cells(
    base: Base,
    folder: Path,
    asked: Sequence[tuple[Cell | None, TaskRows]],
    *,
    max_new_tokens: int,
    micro_batch_tokens: int,
) -> list[Measured]:
    """What each adapter (None: the bare base) does on a task's validation rows, in the order asked.

    What was measured before is read back. The others' answers are written in common batches, whichever adapter gives
    them, on the one base.
    """
    paths = [_measured_path(base, folder, cell, task, max_new_tokens) for cell, task in asked]
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    missing = [i for n, i in enumerate(missing) if paths[i] not in {paths[j] for j in missing[:n]}]
    cells = {cell.digest: cell for cell, _ in (asked[i] for i in missing) if cell is not None}
    names = {digest: f"cell_{number}" for number, digest in enumerate(cells)}
    try:
        for digest, cell in cells.items():
            load_adapter(base, cell.folder, names[digest])
        adapters = [None if cell is None else names[cell.digest] for cell, _ in (asked[i] for i in missing)]
        tasks = [asked[i][1] for i in missing]
        exact = _exact(base, adapters, tasks, max_new_tokens)
        for i, adapter, task, right in zip(missing, adapters, tasks, exact, strict=True):
            sums, weights = _row_losses(base, adapter, task, micro_batch_tokens)
            paths[i].parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(paths[i], json.dumps({"loss_sum": sums, "weight": weights, "exact": right}) + "\n")
    finally:
        for name in names.values():
            if name in base.methods:
                drop_adapter(base, name)
    return [_read_measured(path) for path in paths]


def _measured_path(base: Base, folder: Path, cell: Cell | None, task: TaskRows, max_new_tokens: int) -> Path:
    made_of = [
        "base" if cell is None else cell.digest, task.digest, [g is not None for g in task.gold], max_new_tokens,
        base.digest, base.resolved.template_digest, str(base.dtype),
    ]  # fmt: skip
    return folder / f"{_digest(made_of)[:16]}.json"


def _read_measured(path: Path) -> Measured:
    tree = json.loads(path.read_text())
    exact = None if tree["exact"] is None else tuple(tree["exact"])
    return Measured(loss_sum=tuple(tree["loss_sum"]), weight=tuple(tree["weight"]), exact=exact)


def _exact(
    base: Base, adapters: Sequence[str | None], tasks: Sequence[TaskRows], max_new_tokens: int
) -> list[list[bool] | None]:
    """Whether each row is answered with the gold answer's words; None for a task of long answers."""
    prompts, whose, gold = list[Prompt](), list[str | None](), list[str]()
    for adapter, task in zip(adapters, tasks, strict=True):
        for record, answer in zip(task.validation, task.gold, strict=True):
            if answer is not None:
                ids = render_prompt(record.messages[:-1], base.tokenizer_of(adapter), tools=record.tools)
                prompts.append(Prompt(ids=ids, row_id=len(prompts)))
                whose.append(adapter)
                gold.append(answer)
    answers = LocalGenerator(base).generate_mixed(prompts, Sampling(max_new_tokens=max_new_tokens), whose)
    right = iter([comparable(a.text, g) == comparable(g, g) for a, g in zip(answers, gold, strict=True)])
    return [None if None in task.gold else [next(right) for _ in task.gold] for task in tasks]


@torch.no_grad()
def _row_losses(
    base: Base, adapter: str | None, task: TaskRows, micro_batch_tokens: int
) -> tuple[list[float], list[float]]:
    """Nats and loss tokens of each validation row. Raises DataError for a row beyond the context."""
    tokenizer, limit = base.tokenizer_of(adapter), base.context_tokens_of(adapter)
    rendered = [render(record, tokenizer, _RENDERING, max_tokens=limit) for record in task.validation]
    examples = [(row, example) for row, group in enumerate(rendered) for example in group]
    sums, weights = [0.0] * len(rendered), [0.0] * len(rendered)
    for batch in micro_batches([example.num_tokens for _, example in examples], micro_batch_tokens):
        packed = pack([examples[i][1] for i in batch], adapter)
        logprobs_N, weight_N = forward(base, packed, "target_logprobs")
        sizes = packed.num_loss_tokens_S()
        pieces = zip(torch.split(logprobs_N.double(), sizes), torch.split(weight_N.double(), sizes), strict=True)
        for i, (logprobs, weight) in zip(batch, pieces, strict=True):
            sums[examples[i][0]] -= float((logprobs * weight).sum())
            weights[examples[i][0]] += float(weight.sum())
    return sums, weights


def refuse_full(adapter: AdapterConfig) -> None:
    """Raise ConfigError for full tuning: cells share one base."""
    if adapter.method == "full":
        raise ConfigError(
            "adapter.method", "full tuning changes the base that all cells share.", "Take another method."
        )


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()
