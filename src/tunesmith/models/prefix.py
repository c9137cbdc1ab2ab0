"""Prefix-tuning: keys and values of a few virtual tokens in every layer are all that learns.

Source: Li & Liang 2021, Prefix-Tuning: Optimizing Continuous Prompts for Generation (arXiv:2101.00190): section 4.3 for
the MLP that learns in their place and is dropped after training, section 7.4 for their start as real words. The file is
PEFT's: the keys and values themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PrefixTuningConfig
from torch import Tensor, nn

from tunesmith.errors import ConfigError, ModelError
from tunesmith.models.adapter_config import AdapterConfig
from tunesmith.models.decoding import keys_values_of
from tunesmith.models.own import own_dtype
from tunesmith.models.prompt import FILE_KEY, check_place, check_room, saved_by_attention, start_ids
from tunesmith.models.roles import Base
from tunesmith.models.virtual import Prefix
from tunesmith.randomness import derive_seed, generator

PEFT_TYPE = "PREFIX_TUNING"
# What transformers starts its matrices with, and the spread of a prefix that begins as noise without a projection.
NOISE = 0.02


def place(base: Base, name: str, config: AdapterConfig, seed: int) -> None:
    """Put a prefix on the base.

    It is not the base at the start: with a text (or drawn tokens) it is exactly the base that has read it. Raises
    ConfigError for models whose layers do not all keep keys and values of one shape.
    """
    check_place(base, name, config.num_virtual_tokens)
    ids = start_ids(base, name, config, seed)
    probe = np.zeros(1, np.int64) if ids is None else ids
    try:
        start_PLGW = keys_values_of(base, probe).to(own_dtype(base))
    except ValueError as error:
        raise ConfigError("adapter.method", f"no prefix fits the model: {error}.", "Use prompt or lora.") from None
    if ids is None:
        start_PLGW = start_PLGW.new_zeros(config.num_virtual_tokens, *start_PLGW.shape[1:])
        if not config.prefix_projection:
            noise = generator(seed, "adapter_init", name).standard_normal(start_PLGW.shape) * NOISE
            start_PLGW = torch.from_numpy(noise).to(start_PLGW)
    own = Prefix(start_PLGW.clone())
    if config.prefix_projection:
        width = int(base.head.weight_VD.shape[1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "adapter_init", name))
            own.project(width, config.encoder_hidden_size or width, from_start=ids is not None)
    base.own[name] = own


def read(base: Base, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
    """Make room for the keys and values that a folder's settings describe. Raises ModelError when they do not fit."""
    number = int(settings["num_virtual_tokens"])
    check_room(base, str(folder), number)
    try:
        shape = keys_values_of(base, np.zeros(1, np.int64)).shape[1:]
    except ValueError as error:
        raise ModelError(folder, f"is a prefix, and none fits the model: {error}.", "Use its own base.") from None
    heads, width = int(settings["num_attention_heads"]), int(settings["token_dim"])
    described = (2 * int(settings["num_layers"]), heads, width // heads)
    if described != tuple(shape) or settings.get("num_transformer_submodules") not in (None, 1):
        raise ModelError(
            folder,
            f"is for {described[0] // 2} layers with {heads} key heads of width {described[2]}, the model has "
            f"{shape[0] // 2} with {shape[1]} of width {shape[2]}.",
            "Use its own base.",
        )
    base.own[name] = Prefix(torch.zeros(number, *shape, dtype=own_dtype(base), device=base.device))


def parameters(base: Base, name: str) -> dict[str, nn.Parameter]:
    """What learns: the MLP and its rows while there is one, else keys and values themselves."""
    return {f"prefix.{key}": parameter for key, parameter in _own(base, name).learned().items()}


@torch.no_grad()
def tensors(base: Base, name: str) -> dict[str, Tensor]:
    """Keys and values, computed where there is an MLP, under the name of PEFT's file."""
    return {FILE_KEY: _own(base, name).flat().detach().cpu().contiguous()}


def load_tensors(base: Base, name: str, values: Mapping[str, Tensor]) -> None:
    """Take the values of a file, which has no MLP."""
    _own(base, name).set_flat(values[FILE_KEY])


def settings(base: Base, name: str) -> dict[str, Any]:
    """What stands in adapter_config.json; the MLP is no part of what is saved."""
    own = _own(base, name)
    _, twice_layers, heads, width = own.shape
    found: dict[str, Any] = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=own.num_tokens,
        num_transformer_submodules=1,
        token_dim=heads * width,
        num_attention_heads=heads,
        num_layers=twice_layers // 2,
        prefix_projection=False,
    ).to_dict()
    return {key: getattr(value, "value", value) for key, value in found.items()}


def scalings(base: Base, name: str) -> list[float]:
    """Nothing but the tensors decides the answers."""
    return []


def drop(base: Base, name: str) -> None:
    """Take the prefix off the base."""
    del base.own[name]


def saved_per_token(base: Base, name: str) -> int:
    """Values it saves a token for the backward pass, all layers together: what attention has of the virtual tokens."""
    return saved_by_attention(base, _own(base, name).num_tokens)


def _own(base: Base, name: str) -> Prefix:
    own = base.own[name]
    assert isinstance(own, Prefix)
    return own
