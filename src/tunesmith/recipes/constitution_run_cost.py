"""What a run will take, stage by stage, told before it starts: tokens counted from rows and settings, pace from a probe.

Tokens that are written are the most there can be; rows that an earlier stage has still to make are estimated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.load import DataConfig, load_data
from tunesmith.data.prompts import load_prompts
from tunesmith.models.adapters import AdapterConfig, add_adapter, drop_adapter
from tunesmith.models.roles import Base
from tunesmith.progress import clock
from tunesmith.recipes.constitution_evaluate import jobs_of, measured_stages
from tunesmith.recipes.constitution_evaluate_config import ConstitutionEvaluateConfig
from tunesmith.recipes.constitution_run_stages import Recipe
from tunesmith.records import Conversation, Example, Where
from tunesmith.rollout.generate import LocalGenerator, Prompt
from tunesmith.rollout.sampling import Sampling
from tunesmith.tokens.template import encode
from tunesmith.training.distribute import one_process
from tunesmith.training.step import accumulate_gradients

# Rows whose tokens are counted; the others are taken to be as long.
_COUNTED = 64
# Tokens of a chat template around a turn, of what a critic is told beside prompt and answer, and of a judge's question.
_TURN, _CRITIC, _JUDGE = 8, 300, 150
_PROBE_ROWS, _PROBE_TOKENS = 32, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Tokens a second of this machine now: read (prompts, given answers), written in full batches, trained on."""

    read: float
    write: float
    train: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Tokens of a stage, and the seconds they take at most."""

    read: int = 0
    written: int = 0
    trained: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        parts = ((self.read, "read"), (self.written, "written"), (self.trained, "trained on"))
        told = ", ".join(f"{number:,} tokens {what}" for number, what in parts if number)
        return f"{told or 'no tokens'}, at most {clock(self.seconds)}"

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def measure_pace(base: Base) -> Pace:
    """Write a few tokens in a full batch, and take the gradient of a few rows; nothing is kept."""
    generator, ids = LocalGenerator(base, max_rows=_PROBE_ROWS), np.full(16, next(iter(base.end_ids_of(None))))
    prompts = [Prompt(ids=ids + (i % 2), row_id=i) for i in range(_PROBE_ROWS)]
    one, many = (_seconds(lambda n=n: generator.generate(prompts, Sampling(max_new_tokens=n, temperature=10.0)))
                 for n in (1, _PROBE_TOKENS))  # fmt: skip
    write = _PROBE_ROWS * (_PROBE_TOKENS - 1) / max(many - one, 1e-6)
    length = min(128, base.context_tokens)
    rows = [
        Example(ids=np.resize(ids, length), loss_weight=np.ones(length, np.float32), row_id=i, where=Where("probe"))
        for i in range(4)
    ]
    role = add_adapter(base, "probe", AdapterConfig(), 0)

    def train() -> None:
        accumulate_gradients(base, role, rows, one_process(), micro_batch_tokens=1024)

    try:
        train()
        trained = _seconds(train)
    finally:
        drop_adapter(base, "probe")
    # A forward pass is a third of a step's work (the frozen base has no weight gradients, its activations do).
    return Pace(read=3 * 4 * length / trained, write=write, train=4 * length / trained)


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def costs_of(recipes: Sequence[Recipe], base: Base, pace: Pace) -> dict[str, Cost]:
    """The cost of every stage, by name."""
    counter = _Counter(base, {}, {})
    out = {}
    for recipe in recipes:
        read, written, trained = counter.tokens(recipe)
        seconds = read / pace.read + written / pace.write + trained / pace.train
        out[recipe.stage.name] = Cost(read=read, written=written, trained=trained, seconds=seconds)
    return out


@dataclass(slots=True)
class _Counter:
    """Counts tokens; what a stage is expected to leave is noted for those behind it: file -> (rows, tokens a row)."""

    base: Base
    expected: dict[Path, tuple[int, float]]
    adapters: dict[str, Path]

    def tokens(self, recipe: Recipe) -> tuple[int, int, int]:
        """(read, written, trained on) of one stage."""
        kind = recipe.kind
        if kind in ("helpful", "sft", "dpo", "ppo"):
            self.adapters[kind] = recipe.stage.folder
        read, written, trained = getattr(self, f"_{kind}")(recipe)
        return round(read), round(written), round(trained)

    def _helpful(self, recipe: Recipe) -> tuple[float, float, float]:
        return self._training(recipe.config)

    _sft = _helpful

    def _training(self, config: Any) -> tuple[float, float, float]:
        num, each = self._rows(config.data)
        held = config.data.validation_share if config.data.validation is None else 0.0
        tokens = num * each
        steps = config.max_steps * config.per_device_train_batch_size * config.gradient_accumulation_steps
        trained = steps * each if config.max_steps > 0 else tokens * (1 - held) * config.num_train_epochs
        # About ten looks at the held-out rows.
        return 10 * held * tokens, 0, trained

    def _rows(self, data: Any) -> tuple[int, float]:
        path = Path(data.train)
        if path in self.expected and not path.exists():
            return self.expected[path]
        loaded = load_data(DataConfig(train=data.train, columns=data.columns, limit=data.limit, validation_share=0))
        rows = [loaded.train[i] for i in range(min(_COUNTED, len(loaded.train)))]
        texts = [[t.content for t in r.messages] if isinstance(r, Conversation) else [r.text] for r in rows]
        return len(loaded.train), float(np.mean([self._length(own) for own in texts]))

    def _pairs(self, recipe: Recipe, config: Any) -> tuple[int, float]:
        return self.expected.get(Path(config.data.train), (0, 0.0))

    def _length(self, texts: Sequence[str]) -> float:
        where = Where("cost")
        return float(sum(_TURN + len(encode(text, self.base.tokenizer, where)) for text in texts))

    def _prompts(self, source: str, columns: Mapping[str, str], limit: int | None) -> tuple[int, float]:
        rows = load_prompts(source, columns, limit=limit, on_bad_row="drop")
        some = rows[:_COUNTED]
        return len(rows), float(np.mean([self._length([t.content for t in one.messages]) for one in some]))

    def _evaluate(self, recipe: Recipe) -> tuple[float, float, float]:
        config = recipe.config
        assert isinstance(config, ConstitutionEvaluateConfig)
        models = 1 + len(measured_stages(config, self.adapters))
        read = written = 0.0
        for job in jobs_of(config, 0):
            items = job.task.items
            each = float(np.mean([self._length([t.content for t in one.messages]) for one in items[:_COUNTED]]))
            draws = config.creative.num_samples if job.task.name == "creative" and config.creative else 1
            read += models * len(items) * each
            if job.task.name == "reference":
                read += models * len(items) * float(np.mean([self._length([one.target]) for one in items[:_COUNTED]]))
            else:
                written += models * len(items) * draws * job.sampling.max_new_tokens
        if config.helpful is not None:
            read += (models - 1) * config.helpful.num_judged * 2 * (_JUDGE + 2 * config.max_new_tokens)
        return read, written, 0
