"""Rewards of whole answers: the scalar head read at each answer's last token in the loss, the prompt computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tunesmith.models.blocks import Checkpointing
from tunesmith.models.forward import DropoutSeed, scalar_values
from tunesmith.models.roles import Base, Role, ScalarHead
from tunesmith.records import Example
from tunesmith.tokens.forest import forest_of
from tunesmith.tokens.pack import pack


def answer_rewards(
    base: Base,
    role: Role,
    groups: Sequence[Sequence[Example]],
    *,
    dropout_seed: DropoutSeed | None = None,
    checkpointing: Checkpointing = False,
) -> list[Tensor]:
    """Rewards (K,) of each group of whole examples of one prompt, in one pack; raw, no offset taken off.

    Raises ValueError for a role without a scalar head. With dropout, the answers of one prompt share its seed, and so
    their masks: what differs between their rewards is then the answers.
    """
    if not isinstance(role.head, ScalarHead):
        raise ValueError(f"role '{role.name}' has no scalar head")
    segments, parents, tails = forest_of(groups)
    packed = pack(segments, role.adapter, parents)
    ends = [packed.start_S[segment] + packed.length_S[segment] - 1 for group in tails for segment in group]
    rewards_N = scalar_values(
        base, packed, role.head, torch.tensor(ends), dropout_seed=dropout_seed, checkpointing=checkpointing
    )
    return list(torch.split(rewards_N, [len(group) for group in tails]))
