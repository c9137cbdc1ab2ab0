"""The weights a model has with its adapter worked into them, in fp32, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from tunesmith.errors import ModelError
from tunesmith.models.lora_merged import merged_weight, own_bias
from tunesmith.models.quantize import quantized_layers
from tunesmith.models.quantized_linear import dense_weight
from tunesmith.models.roles import Base
from tunesmith.models.token_rows import TokenRows


@dataclass(frozen=True, slots=True)
class Merged:
    """One weight of the bare model under transformers' name; ``make`` gives it in fp32 and keeps nothing."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]


def merged_tensors(base: Base, adapter: str | None) -> Iterator[Merged]:
    """Every weight of the model, tied ones once, as it is with the adapter in it (None: the bare base).

    Weights in 4 bits are unpacked first. Raises ModelError for a method whose work no weight can hold.
    """
    check_mergeable(base, adapter)
    model = base.model
    rows = base.token_rows.get(adapter) if adapter is not None else None
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    for path, layer in quantized_layers(model).items():
        module = path.removesuffix(".base_layer")
        weight = partial(dense_weight, layer, torch.float32)
        yield Merged(f"{module}.weight", layer.shape, _with_adapter(weight, "weight", layers.get(module), adapter))
    for full_name, parameter in model.named_parameters():
        if "lora_" in full_name:
            continue
        name = full_name.replace(".base_layer.", ".")
        module, _, kind = name.rpartition(".")
        shape = tuple(parameter.shape)
        if rows is not None and (parameter is embedding or parameter is output):
            own = rows.embedding_RD if parameter is embedding else rows.head_RD
            yield Merged(name, (rows.num_rows, *shape[1:]), _with_rows(parameter, rows, own))
        else:
            yield Merged(name, shape, _with_adapter(parameter.detach, kind, layers.get(module), adapter))


def check_mergeable(base: Base, adapter: str | None) -> None:
    """Raise ModelError for a method whose work no weight can hold."""
    method = base.methods.get(adapter) if adapter is not None else None
    if method not in (None, "lora"):
        raise ModelError(
            "the adapter",
            f"is of method {method}, which computes what no weight of the model can hold.",
            "Export what can be merged: train with adapter.method: lora.",
        )


def _with_adapter(plain: Callable[[], Tensor], kind: str, layer: Any, adapter: str | None) -> Callable[[], Tensor]:
    @torch.no_grad()
    def make() -> Tensor:
        if layer is None or adapter is None or adapter not in layer.lora_A:
            return plain().float()
        if kind == "weight":
            return merged_weight(layer, adapter).float()
        bias = own_bias(layer, adapter)
        return (plain() if bias is None else bias).float()

    return make


def _with_rows(parameter: Tensor, rows: TokenRows, own_RD: Tensor) -> Callable[[], Tensor]:
    @torch.no_grad()
    def make() -> Tensor:
        weight_VD = parameter.detach().float()
        missing = rows.num_rows - weight_VD.shape[0]
        weight_VD = torch.cat([weight_VD, weight_VD.new_zeros(missing, weight_VD.shape[1])])
        return weight_VD.index_copy(0, rows.ids_R, own_RD.detach().float())

    return make
