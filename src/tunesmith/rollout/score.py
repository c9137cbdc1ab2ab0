"""A trained reward model at work: token ids of prompts and answers -> rewards, whatever batch they come in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.errors import ModelError
from tunesmith.models.adapters import PROVENANCE_FILE, adapter_digest, load_adapter
from tunesmith.models.rewards import answer_rewards
from tunesmith.models.roles import Base, Role, ScalarHead
from tunesmith.records import Example, Where
from tunesmith.tokens.forest import num_forest_tokens
from tunesmith.tokens.pack import micro_batches

# What the recipe writes into the provenance: the mean score of its held-out answers, or minus the mean grade.
OFFSET_KEY = "reward_offset"


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModel:
    """A role with a scalar head on a base that others may share; a reward is the head's number less the offset.

    budget_tokens: most tokens in one pack; it never changes a reward beyond the rounding of the fast path.
    """

    base: Base
    role: Role
    offset: float = 0.0
    budget_tokens: int = 2048

    @property
    def digest(self) -> str:
        """SHA-256 of adapter, head and offset: two reward models with one digest give the same rewards."""
        assert self.role.head is not None
        head = self.role.head.score.weight.detach().cpu().float().numpy().tobytes()
        known = f"{adapter_digest(self.base, self.role.adapter)} {self.offset!r} ".encode()
        return hashlib.sha256(known + head).hexdigest()

    def score(
        self, prompts_ids: Sequence[NDArray[np.int64]], answers_ids: Sequence[NDArray[np.int64]]
    ) -> NDArray[np.float64]:
        """Rewards (N,) of answers (T,) to prompts (T,), read at an answer's last token: its end of turn, if it has one.

        Answers to equal prompts share its computation. Raises ValueError for an empty prompt or answer, and for lists
        of different lengths.
        """
        examples = []
        for i, (prompt, answer) in enumerate(zip(prompts_ids, answers_ids, strict=True)):
            if not len(prompt) or not len(answer):
                raise ValueError(f"answer {i}: an empty {'answer' if len(prompt) else 'prompt'} has no reward")
            weight = np.concatenate([np.zeros(len(prompt), np.float32), np.ones(len(answer), np.float32)])
            ids = np.concatenate([prompt, answer]).astype(np.int64)
            examples.append(Example(ids=ids, loss_weight=weight, row_id=i, where=Where("answer", i)))
        by_prompt: dict[bytes, list[int]] = {}
        for i, prompt in enumerate(prompts_ids):
            by_prompt.setdefault(np.ascontiguousarray(prompt, np.int64).tobytes(), []).append(i)
        return self.score_examples(examples, list(by_prompt.values()))

    def score_examples(
        self, examples: Sequence[Example], groups: Sequence[Sequence[int]] | None = None
    ) -> NDArray[np.float64]:
        """Rewards (N,) of whole examples, read at the last token in the loss; groups: indices of one prompt's."""
        parts = [part for group in groups or [[i] for i in range(len(examples))] for part in self._cut(examples, group)]
        lengths = [num_forest_tokens([examples[i] for i in part]) for part in parts]
        rewards = np.zeros(len(examples), np.float64)
        with torch.no_grad():
            for batch in micro_batches(lengths, self.budget_tokens):
                chosen = [parts[b] for b in batch]
                for part, reward_K in zip(
                    chosen,
                    answer_rewards(self.base, self.role, [[examples[i] for i in p] for p in chosen]),
                    strict=True,
                ):
                    rewards[list(part)] = reward_K.double().cpu().numpy()
        return rewards - self.offset

    def _cut(self, examples: Sequence[Example], group: Sequence[int]) -> list[list[int]]:
        """A group in parts of which none needs more than the budget, bar single answers that do alone."""
        parts: list[list[int]] = [[]]
        for i in group:
            wider = [*parts[-1], i]
            if parts[-1] and num_forest_tokens([examples[j] for j in wider]) > self.budget_tokens:
                parts.append([i])
            else:
                parts[-1] = wider
        return parts


def load_reward_model(base: Base, folder: Path, name: str = "reward") -> RewardModel:
    """A reward model that ``tunesmith reward`` saved, frozen, as a role on a base in memory.

    Raises AdapterMismatchError where it was trained on another base, ModelError where it has no scalar head.
    """
    role = load_adapter(base, folder, name)
    if not isinstance(role.head, ScalarHead):
        raise ModelError(folder, "is an adapter without a scalar head.", "Train one with `tunesmith reward`.")
    return RewardModel(base=base, role=role, offset=float(_provenance(folder).get(OFFSET_KEY, 0.0)))


def _provenance(folder: Path) -> dict[str, Any]:
    path = folder / PROVENANCE_FILE
    return dict(json.loads(path.read_text())) if path.is_file() else {}
