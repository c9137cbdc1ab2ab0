"""Scalar heads: one number a token, a reward at an answer's end or a value at every token of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from tunesmith.models.roles import Base, Role, ScalarHead
from tunesmith.randomness import derive_seed

# transformers' sequence classifiers call their linear head so, and PEFT saves it beside an adapter under this name.
SCORE = "score"
SCORE_KEY = "base_model.model.score.weight"


def add_head(base: Base, role: Role, seed: int) -> Role:
    """The role with a fresh scalar head, drawn from N(0, 1 / (D + 1)) as in Stiennon et al. (arXiv:2009.01325).

    Raises ValueError for a role that has one already or that trains the whole base.
    """
    if role.head is not None or role.adapter is None:
        raise ValueError(f"role '{role.name}' cannot get a scalar head")
    width = base.head.weight_VD.shape[1]
    generator = torch.Generator().manual_seed(derive_seed(seed, "head_init", role.name) % 2**63)
    weight_1D = torch.randn(1, width, generator=generator) / (width + 1) ** 0.5
    return with_head(base, role, weight_1D, trainable=bool(role.parameters))


def with_head(base: Base, role: Role, weight_1D: Tensor, *, trainable: bool) -> Role:
    """The role with a head of the given weights, of which it holds a copy in fp32 (fp64 on an fp64 base)."""
    head = ScalarHead(weight_1D.shape[1])
    head.score.weight = nn.Parameter(
        weight_1D.detach().clone().to(base.device, torch.float64 if base.dtype == torch.float64 else torch.float32),
        requires_grad=trainable,
    )
    parameters = {**role.parameters, f"{SCORE}.weight": head.score.weight} if trainable else role.parameters
    return replace(role, head=head, parameters=parameters)


def head_tensors(role: Role) -> Mapping[str, Tensor]:
    """A role's head under the name of PEFT's files; empty without one."""
    return {} if role.head is None else {SCORE_KEY: role.head.score.weight.detach().cpu().contiguous()}
