"""A base in 4 bits: pack its linear maps while it is loaded, keep the packed form in a folder, unpack it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ModelError
from tunesmith.models.blocks import read_blocks
from tunesmith.models.cache import files_digest
from tunesmith.models.linear import own_adapters
from tunesmith.models.quantized_linear import (
    QuantizationConfig,
    QuantizedConv1D,
    QuantizedLinear,
    dense_weight,
    quantized,
    unfilled,
)
from tunesmith.models.reference import route_lora_layers, route_own
from tunesmith.models.resolve import QUANTIZED_FILE, QUANTIZED_KEY
from tunesmith.models.roles import Base


def linear_maps(model: Any) -> dict[str, nn.Module]:
    """Name -> linear map of every layer; the head is none of them, and a subclass may use its weight in its own way."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) in (nn.Linear, Conv1D) and module is not head
    }


@torch.no_grad()
def quantize_model(model: Any, config: QuantizationConfig, device: torch.device, dtype: torch.dtype) -> str:
    """Pack a model's linear maps one by one on ``device`` and bring the rest there in ``dtype``; returns a note.

    A dense map is let go as soon as it is packed, so that beside the model as it was loaded only one of them is held.
    Packing starts from the numbers of the file, so the 4-bit weights are the same whatever dtype they are computed in.
    """
    maps = linear_maps(model)
    if not maps:
        raise ModelError(type(model).__name__, "has no linear maps to pack.", "Leave quantization out.")
    num_weights = sum(layer.weight.numel() for layer in maps.values())  # type: ignore[operator, misc]
    names = list(maps)
    del maps
    for name in names:
        layer = quantized(model.get_submodule(name), config, device, _dtype_of(model, name, dtype))
        _put(model, name, layer)
    _move_rest(model, device, dtype)
    held = sum(layer.packed.num_bytes for layer in quantized_layers(model).values())
    return (
        f"{len(names)} linear maps in 4 bits (nf4): {held / 1e6:.0f} MB for {num_weights / 1e6:.0f}M weights, "
        f"{8 * held / num_weights:.3f} bits each"
    )


def _dtype_of(model: Any, name: str, dtype: torch.dtype) -> torch.dtype:
    """Some families name parts that overflow in fp16."""
    kept = getattr(model, "_keep_in_fp32_modules", None) or ()
    return torch.float32 if dtype == torch.float16 and any(part in name.split(".") for part in kept) else dtype


def _move_rest(model: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Everything that is not packed; what a model makes anew with each load keeps the precision it chose."""
    packed = {id(tensor) for layer in quantized_layers(model).values() for tensor in layer.buffers()}
    stored = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) in packed:
            continue
        floats = tensor.is_floating_point() and id(tensor) in stored
        tensor.data = tensor.data.to(device, _dtype_of(model, name, dtype) if floats else tensor.dtype)
    model.config.dtype = dtype


def quantized_layers(model: Any) -> dict[str, QuantizedLinear | QuantizedConv1D]:
    """Name -> packed linear map."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear | QuantizedConv1D)
    }


def _put(model: Any, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def save_quantized(base: Base, folder: Path) -> None:
    """Write a quantised base as it is: packed weights, config with our key, tokenizer; ``--model folder`` loads it.

    Raises ModelError for a base that is not quantised, or that carries adapters: their names are in its module tree.
    """
    if not quantized_layers(base.model):
        raise ModelError(base.resolved.name, "is not quantised.", "Load it with quantization.bits=4.")
    if base.methods or base.peft_model is not None:
        raise ModelError(
            base.resolved.name, "carries adapters, or did.", "Save the base before adapters are placed on it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(_stored(base.model)), folder / QUANTIZED_FILE, metadata={"format": "pt"})
    base.tokenizer.save_pretrained(folder)
    if base.model.generation_config is not None:
        base.model.generation_config.save_pretrained(folder)
    # Last, so that a folder without it is not taken for a model.
    config = base.model.config.to_dict()
    config[QUANTIZED_KEY] = {
        **(base.quantization or {}),
        "base_name": base.resolved.name,
        "base_digest": base.resolved.base_digest,
        "weights_sha256": files_digest([folder / QUANTIZED_FILE]),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True, default=str) + "\n")


def _stored(model: Any) -> Iterator[tuple[str, Tensor]]:
    """What a file of the model holds, tied weights once."""
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor.detach().cpu().contiguous()


@torch.no_grad()
def load_quantized(
    folder: Path, kind: Any, facts: Any, device: torch.device, dtype: torch.dtype, *, trust_remote_code: bool = False
) -> Any:
    """The model that ``save_quantized`` wrote, without packing anything again.

    kind: transformers' auto class; facts: the folder's config. Raises ModelError for a file that does not fit.
    """
    written = getattr(facts, QUANTIZED_KEY)
    config = QuantizationConfig(**{name: written[name] for name in QuantizationConfig.model_fields})
    # A model saved from this one in another form must not claim to be packed.
    delattr(facts, QUANTIZED_KEY)
    # Buffers that no file holds, as the rotary table, are computed; parameters take no memory before they are read.
    with init_empty_weights(include_buffers=False):
        model = kind.from_config(facts, dtype=dtype, trust_remote_code=trust_remote_code)
    for name, layer in linear_maps(model).items():
        _put(model, name, unfilled(layer, config, device, _dtype_of(model, name, dtype)))
    tensors = load_file(folder / QUANTIZED_FILE, device=str(device))
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not name.endswith(("magnitude_B", "magnitude_scale_C", "magnitude_mean")):
            tensors[name] = tensor.to(_dtype_of(model, name, dtype))
    problems = model.load_state_dict(tensors, strict=False, assign=True)
    # As transformers does: what the file holds under both names was not tied, whatever the config says.
    model.tie_weights(missing_keys=set(problems.missing_keys), recompute_mapping=False)
    left = [name for name, tensor in model.state_dict(keep_vars=True).items() if tensor.is_meta]
    if left or problems.unexpected_keys:
        raise ModelError(
            folder,
            f"its {QUANTIZED_FILE} does not fit its config: {len(left)} tensors missing, "
            f"{len(problems.unexpected_keys)} unknown (first: {(left or problems.unexpected_keys)[0]}).",
            "Copy the folder again.",
        )
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    for tensor in model.buffers():
        tensor.data = tensor.data.to(device)
    return model


@torch.no_grad()
def unpack(base: Base) -> None:
    """Put dense weights in the place of the packed ones, in the base's dtype: what merging starts from.

    Adapters stay where they are. ``base.quantization`` stays too: the values are those that 4 bits leave.
    """
    for name, layer in quantized_layers(base.model).items():
        fresh = dense_layer(layer)
        own_adapters(fresh).update(own_adapters(layer))
        _put(base.model, name, fresh)
        if own_adapters(fresh):
            route_own(fresh)
    route_lora_layers(base.model)
    if base.decoder is not None:
        decoder = read_blocks(base.model)
        assert not isinstance(decoder, str), decoder
        base.decoder = decoder


def dense_layer(layer: QuantizedLinear | QuantizedConv1D) -> nn.Linear | Conv1D:
    """The layer in the form transformers gave it, with the values its packed weight stands for."""
    first, last = layer.shape
    with torch.device("meta"):
        linear = nn.Linear(last, first, bias=layer.bias is not None)
        fresh = Conv1D(last, first) if isinstance(layer, QuantizedConv1D) else linear
    fresh.weight = nn.Parameter(dense_weight(layer), requires_grad=False)
    if layer.bias is not None:
        fresh.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
    return fresh
