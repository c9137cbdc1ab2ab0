"""A LoRA layer's adapter as plain matrices, for files and for export."""

from __future__ import annotations

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from tunesmith.models.lora_extras import extras_of


@torch.no_grad()
def plain_matrices(layer: LoraLayer, name: str) -> tuple[Tensor, Tensor]:
    """A (R, in) and B (out, R) whose product the adapter adds to the layer's whole weight, times its scaling.

    Of a PiSSA start these are what was learnt less what it began as, with twice the rank.
    """
    a_RI, b_OR = layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach()
    extras = extras_of(layer, name)
    if extras is None or extras.start_a is None or extras.start_b is None:
        return a_RI, b_OR
    return torch.cat([a_RI, extras.start_a]), torch.cat([b_OR, -extras.start_b], dim=1)


def own_bias(layer: LoraLayer, name: str) -> Tensor | None:
    """The adapter's own bias, where it has one."""
    extras = extras_of(layer, name)
    return None if extras is None or extras.bias is None else extras.bias.detach()
