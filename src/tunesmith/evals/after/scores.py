"""Rows read by a model: the log-probability of every token in the loss, and whether it was the likeliest one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.models.forward import scored_targets
from tunesmith.models.roles import Base
from tunesmith.records import Example
from tunesmith.tokens.pack import micro_batches, pack


@dataclass(frozen=True, slots=True, kw_only=True)
class RowScore:
    """logprobs_T in nats of a row's tokens in the loss, greedy_T: whether none was likelier."""

    logprobs_T: NDArray[np.float64]
    greedy_T: NDArray[np.bool_]

    @property
    def nats(self) -> float:
        """Loss of the whole row."""
        return -float(self.logprobs_T.sum())

    @property
    def num_tokens(self) -> int:
        """Tokens in the loss."""
        return len(self.logprobs_T)


def score_rows(
    base: Base, adapter: str | None, examples: Sequence[Example], *, micro_batch_tokens: int = 1024
) -> list[RowScore]:
    """One RowScore an example, in order. Raises ValueError for one without a token in the loss."""
    if bare := [str(example.where) for example in examples if not example.num_loss_tokens]:
        raise ValueError(f"{bare[0]}: no token is in the loss")
    out: dict[int, RowScore] = {}
    for batch in micro_batches([example.num_tokens for example in examples], micro_batch_tokens):
        values = scored_targets(base, pack([examples[i] for i in batch], adapter))
        for i, (logprobs, greedy) in zip(batch, values, strict=True):
            out[i] = RowScore(logprobs_T=np.array(logprobs), greedy_T=np.array(greedy, bool))
    return [out[i] for i in range(len(examples))]
