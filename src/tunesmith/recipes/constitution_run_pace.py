"""How fast this machine reads, writes and trains now, by a short probe, and what tokens cost at that pace."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tunesmith.models.adapters import AdapterConfig, add_adapter, drop_adapter
from tunesmith.models.roles import Base
from tunesmith.progress import clock
from tunesmith.records import Example, Where
from tunesmith.rollout.generate import LocalGenerator, Prompt
from tunesmith.rollout.sampling import Sampling
from tunesmith.training.distribute import one_process
from tunesmith.training.step import accumulate_gradients

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
    one, many = (_seconds(partial(generator.generate, prompts, Sampling(max_new_tokens=n, temperature=10.0)))
                 for n in (1, _PROBE_TOKENS))  # fmt: skip
    write = _PROBE_ROWS * (_PROBE_TOKENS - 1) / max(many - one, 1e-6)
    length = min(128, base.context_tokens)
    rows = [
        Example(
            ids=np.resize(ids, length),
            loss_weight=(np.arange(length) > 0).astype(np.float32),
            row_id=i,
            where=Where("probe"),
        )
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
