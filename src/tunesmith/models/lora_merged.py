"""A LoRA layer's adapter as plain matrices, and the linear map with the adapter in it: for files and for export."""

from __future__ import annotations

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from tunesmith.models.lora_extras import extras_of
from tunesmith.models.quantized_linear import dense_weight


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


@torch.no_grad()
def merged_weight(layer: LoraLayer, name: str) -> Tensor:
    """The layer's weight with the adapter in it, laid out as the layer has it, in the precision of the matrices."""
    plain = layer.get_base_layer()
    a_RI, b_OR = plain_matrices(layer, name)
    stored = dense_weight(plain, a_RI.dtype)
    weight_OI = stored.T if isinstance(plain, Conv1D) else stored
    weight_OI = weight_OI + float(layer.scaling[name]) * b_OR @ a_RI
    if name in layer.lora_magnitude_vector:
        magnitude_O = layer.lora_magnitude_vector[name].weight.detach()
        weight_OI = weight_OI * (magnitude_O / weight_OI.norm(dim=1).clamp_min(1e-12))[:, None]
    return weight_OI.T if isinstance(plain, Conv1D) else weight_OI


def own_bias(layer: LoraLayer, name: str) -> Tensor | None:
    """The adapter's own bias, where it has one."""
    extras = extras_of(layer, name)
    return None if extras is None or extras.bias is None else extras.bias.detach()
