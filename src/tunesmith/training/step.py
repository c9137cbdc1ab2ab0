"""One optimiser step: micro-batches are summed, the token count is known before the first backward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tunesmith.errors import NonFiniteLossError
from tunesmith.kernels.head_loss import WeightGrad
from tunesmith.models.blocks import Checkpointing
from tunesmith.models.forward import DropoutSeed, forward
from tunesmith.models.roles import Base, Role
from tunesmith.records import Example
from tunesmith.tokens.pack import micro_batches, pack
from tunesmith.training.distribute import World

# fp16 gradients below 6e-8 vanish; scaling the loss by a power of two keeps them and is undone exactly.
FP16_LOSS_SCALE = 2.0**12


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """loss: token mean over all ranks, in nats. num_tokens: tokens of this step over all ranks."""

    loss: float
    num_tokens: int
    num_loss_tokens: float


def accumulate_gradients(
    base: Base,
    role: Role,
    examples: Sequence[Example],
    world: World,
    *,
    micro_batch_tokens: int,
    dropout_seed: DropoutSeed | None = None,
    checkpointing: Checkpointing = False,
) -> StepResult:
    """Fill ``.grad`` with the gradient of the step's token-mean loss; examples are this rank's share of the step.

    Raises NonFiniteLossError naming the rows of the micro-batch whose loss is infinite or not a number.
    """
    total_weight = world.sum(float(sum(float(example.loss_weight.sum(dtype="float64")) for example in examples)))
    scale = FP16_LOSS_SCALE if base.dtype == torch.float16 else 1.0
    weight_grad: WeightGrad = "none" if role.adapter is not None else "full"
    losses = []
    batches = micro_batches([example.num_tokens for example in examples], micro_batch_tokens)
    for batch in batches:
        packed = pack([examples[i] for i in batch], role.adapter)
        loss, _ = forward(
            base,
            packed,
            "ce_sum",
            weight_grad=weight_grad,
            dropout_seed=dropout_seed,
            checkpointing=checkpointing,
        )
        losses.append(loss.detach())
        (loss * (scale / total_weight)).backward()  # type: ignore[no-untyped-call]
    # Asked for once all is under way: a GPU would stand still between the two passes.
    values = [float(loss) for loss in losses]
    for batch, value in zip(batches, values, strict=True):
        if not math.isfinite(value):
            rows = ", ".join(str(examples[i].where) for i in batch)
            raise NonFiniteLossError(
                rows, f"the loss is {value}.", "Lower learning_rate, set dtype: float32, or look at these rows."
            )
    world.sum_gradients(list(role.parameters.values()))
    if scale != 1.0:
        for parameter in role.parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(1.0 / scale)
    return StepResult(
        loss=world.sum(sum(values)) / total_weight,
        num_tokens=int(world.sum(sum(example.num_tokens for example in examples))),
        num_loss_tokens=total_weight,
    )


@torch.no_grad()
def mean_loss(base: Base, role: Role, examples: Sequence[Example], world: World, micro_batch_tokens: int) -> float:
    """Token-mean loss in nats of a role over examples, dropout off; each rank takes every world.size-th example."""
    mine = [examples[i] for i in range(world.rank, len(examples), world.size)]
    loss_sum, weight_sum = 0.0, 0.0
    for batch in micro_batches([example.num_tokens for example in mine], micro_batch_tokens):
        loss, weight = forward(base, pack([mine[i] for i in batch], role.adapter), "ce_sum")
        loss_sum += float(loss)
        weight_sum += float(weight)
    return world.sum(loss_sum) / max(world.sum(weight_sum), 1e-12)
