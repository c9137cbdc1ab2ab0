"""Logits of whole texts over the classes of a role's head, read at each text's last token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunesmith.models.blocks import Checkpointing
from tunesmith.models.forward import DropoutSeed, head_values
from tunesmith.models.roles import Base, LinearHead, Role
from tunesmith.tokens.pack import micro_batches, pack_prompts


def class_logits(
    base: Base,
    role: Role,
    texts: Sequence[NDArray[np.int64]],
    row_ids: Sequence[int],
    *,
    dropout_seed: DropoutSeed | None = None,
    checkpointing: Checkpointing = False,
) -> Tensor:
    """(N, K) of texts (T,) in one pack, where none sees another. Raises ValueError for a role without classes."""
    head = class_head(role)
    packed = pack_prompts(texts, row_ids, role.adapter)
    ends_N = torch.tensor([start + length - 1 for start, length in zip(packed.start_S, packed.length_S, strict=True)])
    return head_values(base, packed, head, ends_N, dropout_seed=dropout_seed, checkpointing=checkpointing)


@torch.no_grad()
def text_logits(base: Base, role: Role, texts: Sequence[NDArray[np.int64]], micro_batch_tokens: int) -> Tensor:
    """(N, K) logits of texts (T,), dropout off, in their order; how they are packed is for memory alone."""
    weight_KD = class_head(role).score.weight
    out_NK = torch.empty(len(texts), len(weight_KD), dtype=weight_KD.dtype, device=weight_KD.device)
    for batch in micro_batches([len(ids) for ids in texts], micro_batch_tokens):
        out_NK[batch] = class_logits(base, role, [texts[i] for i in batch], batch)
    return out_NK


def class_head(role: Role) -> LinearHead:
    """The role's head of K classes. Raises ValueError where it has none, or a scalar one."""
    if role.head is None or role.head.num_outputs < 2:
        raise ValueError(f"role '{role.name}' has no head of classes")
    return role.head
