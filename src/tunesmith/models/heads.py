"""Linear heads: a reward at an answer's end, a value at every token of it, the classes of a text at its last token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from tunesmith.models.roles import Base, LinearHead, Role, ScalarHead
from tunesmith.randomness import derive_seed

# transformers' sequence classifiers call their linear head so, and PEFT saves it beside an adapter under this name.
SCORE = "score"
SCORE_KEY = "base_model.model.score.weight"


def add_head(base: Base, role: Role, seed: int) -> Role:
    """The role with a fresh scalar head, drawn from N(0, 1 / (D + 1)) as in Stiennon et al. (arXiv:2009.01325).

    Raises ValueError for a role that has one already or that trains the whole base.
    """
    _refuse_unfit(role, "scalar")
    width = base.head.weight_VD.shape[1]
    generator = torch.Generator().manual_seed(derive_seed(seed, "head_init", role.name) % 2**63)
    weight_1D = torch.randn(1, width, generator=generator) / (width + 1) ** 0.5
    return with_head(base, role, weight_1D, trainable=bool(role.parameters))


def add_class_head(base: Base, role: Role, num_classes: int) -> Role:
    """The role with a fresh head of K classes that starts at 0: at first each of them is as likely as the others.

    Raises ValueError for a role that has one already or that trains the whole base, and for less than two classes.
    """
    _refuse_unfit(role, "class")
    if num_classes < 2:
        raise ValueError(f"{num_classes} classes leave nothing to tell apart")
    weight_KD = torch.zeros(num_classes, base.head.weight_VD.shape[1])
    return with_head(base, role, weight_KD, trainable=bool(role.parameters))


def _refuse_unfit(role: Role, kind: str) -> None:
    if role.head is not None or role.adapter is None:
        raise ValueError(f"role '{role.name}' cannot get a {kind} head")


def with_head(base: Base, role: Role, weight_KD: Tensor, *, trainable: bool) -> Role:
    """The role with a head of the given weights, of which it holds a copy in fp32 (fp64 on an fp64 base)."""
    num_outputs, width = weight_KD.shape
    head = ScalarHead(width) if num_outputs == 1 else LinearHead(width, num_outputs)
    head.score.weight = nn.Parameter(
        weight_KD.detach().clone().to(base.device, torch.float64 if base.dtype == torch.float64 else torch.float32),
        requires_grad=trainable,
    )
    parameters = {**role.parameters, f"{SCORE}.weight": head.score.weight} if trainable else role.parameters
    return replace(role, head=head, parameters=parameters)


def head_tensors(role: Role) -> Mapping[str, Tensor]:
    """A role's head under the name of PEFT's files; empty without one."""
    return {} if role.head is None else {SCORE_KEY: role.head.score.weight.detach().cpu().contiguous()}
