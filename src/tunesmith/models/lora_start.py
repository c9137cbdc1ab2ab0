"""How LoRA's options begin: PiSSA's principal part, DoRA's magnitudes, an adapter's own biases.

Shape letters: I in features, O out features, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from tunesmith.models.linear import Site
from tunesmith.models.lora_extras import give_extras
from tunesmith.models.quantized_linear import dense_weight
from tunesmith.models.roles import Base


@torch.no_grad()
def start_pissa(layers: Iterable[LoraLayer], name: str, how: str) -> None:
    """PiSSA (arXiv:2404.02948, equations 2-4): s B A begins as the weight's R largest singular directions.

    The paper takes them out of the base; here the base stays whole and each call leaves them out again
    (``LessLowRank``), so other adapters and the bare base are not concerned. how: pissa, or pissa_niter_N for N rounds
    of a randomised decomposition, drawn from torch's generator.
    """
    for layer in layers:
        plain = layer.get_base_layer()
        weight_OI = dense_weight(plain, layer.lora_A[name].weight.dtype)
        if isinstance(plain, Conv1D):
            weight_OI = weight_OI.T
        rank = min(layer.r[name], *weight_OI.shape)
        if how == "pissa":
            u_OR, size_R, vt_RI = torch.linalg.svd(weight_OI, full_matrices=False)
        else:
            u_OR, size_R, v_IR = torch.svd_lowrank(weight_OI, rank, niter=int(how.removeprefix("pissa_niter_")))
            vt_RI = v_IR.T
        root_R = (size_R[:rank] / layer.scaling[name]).sqrt()
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        # Where the weight has fewer directions than the rank, the others begin as LoRA's do.
        a.data[: len(root_R)] = root_R[:, None] * vt_RI[:rank]
        b.data[:, : len(root_R)] = u_OR[:, :rank] * root_R
        extras = give_extras(layer, name)
        extras.start_a, extras.start_b = a.detach().clone(), b.detach().clone()


@torch.no_grad()
def start_dora(base: Base, layers: Iterable[LoraLayer], name: str) -> None:
    """DoRA's magnitudes begin as the norms they are divided by, computed in the same way: their ratio is 1, exactly."""
    for layer in layers:
        magnitude_O = layer.lora_magnitude_vector[name].weight
        magnitude_O.data = Site(layer, 0).row_norms(name, base.dtype).to(layer.lora_A[name].weight.dtype)


@torch.no_grad()
def copy_biases(layers: Iterable[LoraLayer], name: str) -> None:
    """Give the adapter its own copy of the bias of each layer that has one."""
    for layer in layers:
        bias = layer.get_base_layer().bias
        if bias is not None:
            give_extras(layer, name).bias = nn.Parameter(bias.detach().to(layer.lora_A[name].weight.dtype, copy=True))


def converted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """PEFT's settings of a PiSSA adapter as plain LoRA: twice the rank, the same factor in front of the product."""
    growth = math.sqrt(2) if settings["use_rslora"] else 2
    return {
        **settings,
        "r": 2 * settings["r"],
        "lora_alpha": growth * settings["lora_alpha"],
        "rank_pattern": {key: 2 * rank for key, rank in settings["rank_pattern"].items()},
        "alpha_pattern": {key: growth * alpha for key, alpha in settings["alpha_pattern"].items()},
    }


def converted_scaling(layer: LoraLayer, name: str) -> float:
    """The factor that a reader computes from ``converted`` settings, to the last bit."""
    rank, alpha = layer.r[name], layer.lora_alpha[name]
    if layer.use_rslora[name]:
        return float(math.sqrt(2) * alpha / math.sqrt(2 * rank))
    return float(2 * alpha / (2 * rank))
