"""What an adapter of each method has and keeps, from a model's shape and the adapter's settings alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as IA3_INPUTS
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as IA3_MAPS
from peft.utils.other import get_pattern_key

from tunesmith.errors import ConfigError
from tunesmith.models.adapter_config import AdapterConfig
from tunesmith.models.bottleneck import FAMILIES
from tunesmith.models.shape import LinearMap, Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCost:
    """One adapter's numbers.

    parameters: what learns. saved_parameters: what its file holds. own_values: elements a token that all its parts
    keep for the backward pass, beside inputs of maps. inputs: names of the maps whose input it keeps.
    dropped_values: elements a token of inputs after dropout, which then stand in the inputs' place, each with a mask of
    a byte an element. virtual_tokens: before every row. full: whether the base's own weights learn.
    """

    parameters: int
    saved_parameters: int
    own_values: int = 0
    inputs: tuple[str, ...] = ()
    dropped_values: int = 0
    virtual_tokens: int = 0
    full: bool = False


def adapter_cost(shape: Shape, config: AdapterConfig) -> AdapterCost:
    """The cost of an adapter on a model. Raises ConfigError where the method cannot be had on its family."""
    return COSTS[config.method](shape, config)


def _lora(shape: Shape, config: AdapterConfig) -> AdapterCost:
    """A (r, in) and B (out, r) on each map (arXiv:2106.09685, 4.1); of DoRA a length a row too (arXiv:2402.09353).

    The file of a PiSSA start holds what the matrices began as, too.
    """
    maps, parameters, own, dropped, matrices = _targets(shape, config.target_modules), 0, 0, 0, 0
    if config.bias == "lora_only" and not any(one.has_bias for one in maps):
        raise ConfigError("adapter.bias", "none of the maps with matrices has a bias.", "Leave it out.")
    for one in maps:
        ranks = _ranks(one, config)
        matrices += ranks * (one.inputs + one.outputs)
        own += ranks
        if config.use_dora:
            # The product before it is scaled is kept too.
            parameters += one.count * one.outputs
            own += one.count * one.outputs
        if config.bias == "lora_only" and one.has_bias:
            parameters += one.count * one.outputs
        if config.lora_dropout:
            dropped += one.count * one.inputs
    parameters += matrices
    return AdapterCost(
        parameters=parameters,
        saved_parameters=parameters + (matrices if config.init_lora_weights.startswith("pissa") else 0),
        own_values=own,
        inputs=tuple(one.name for one in maps),
        dropped_values=dropped,
    )


def _ranks(one: LinearMap, config: AdapterConfig) -> int:
    """The ranks of all maps of one name together, as ``rank_pattern`` has them for each."""
    keys = [f"layers.{layer}.{one.name}" for layer in range(one.count)]
    return sum(config.rank_pattern.get(get_pattern_key(list(config.rank_pattern), key), config.r) for key in keys)


def _bottleneck(shape: Shape, config: AdapterConfig) -> AdapterCost:
    """Down and up projections with biases after the last maps of sublayers, or beside the feed-forward part."""
    family = FAMILIES.get(shape.family)
    if family is None:
        raise ConfigError(
            "adapter.method", f"bottleneck knows no sublayers of a '{shape.family}' model.", "Use method: lora."
        )
    beside = config.placement == "parallel"
    ends = (family.feed_forward,) if config.placement != "houlsby" else (*family.attention, family.feed_forward)
    parameters = own = 0
    for one in _maps_ending(shape, ends):
        size, inputs = one.outputs // config.reduction_factor, shape.width if beside else one.outputs
        if size == 0:
            raise ConfigError("adapter.reduction_factor", f"leaves nothing of {one.outputs}.", "Lower it.")
        parameters += one.count * (size * (inputs + one.outputs) + size + one.outputs)
        # What it reads and its inner values; beside the feed-forward part it reads the part's input.
        own += one.count * (inputs + size)
    return AdapterCost(parameters=parameters, saved_parameters=parameters, own_values=own)


def _ia3(shape: Shape, config: AdapterConfig) -> AdapterCost:
    """A vector over outputs of keys and values, and over inputs of the feed-forward part (arXiv:2205.05638, 3.3)."""
    named = isinstance(config.target_modules, list)
    ends: Sequence[str] = config.target_modules if named else IA3_MAPS.get(shape.family, ())
    scaled = config.feedforward_modules
    if scaled is None:
        scaled = [end for end in ends if end in IA3_INPUTS.get(shape.family, ())]
    maps = _maps_ending(shape, tuple(ends))
    if not maps:
        raise ConfigError(
            "adapter.target_modules",
            f"has no default for a '{shape.family}' model.",
            "Name the maps in target_modules.",
        )
    widths = [one.inputs if _ends(one, scaled) else one.outputs for one in maps]
    values = sum(one.count * width for one, width in zip(maps, widths, strict=True))
    return AdapterCost(parameters=values, saved_parameters=values, own_values=values)


def _prefix(shape: Shape, config: AdapterConfig) -> AdapterCost:
    """Keys and values of virtual tokens in every layer (arXiv:2101.00190, section 4).

    With a projection its rows and matrices learn (section 4.3), and only what they make is saved.
    """
    num, flat = config.num_virtual_tokens, 2 * shape.layers * shape.kv_width
    saved = parameters = num * flat
    if config.prefix_projection:
        inner = config.encoder_hidden_size or shape.width
        parameters = num * shape.width + (shape.width + 1) * inner + (inner + 1) * flat
    own = _seen_by_attention(shape, num)
    return AdapterCost(parameters=parameters, saved_parameters=saved, own_values=own, virtual_tokens=num)


def _prompt(shape: Shape, config: AdapterConfig) -> AdapterCost:
    """Embeddings of virtual tokens (arXiv:2104.08691, section 2)."""
    num = config.num_virtual_tokens
    values, own = num * shape.width, _seen_by_attention(shape, num)
    return AdapterCost(parameters=values, saved_parameters=values, own_values=own, virtual_tokens=num)


def _seen_by_attention(shape: Shape, num: int) -> int:
    """Each token's probabilities over virtual tokens, and copies of keys and values that stand behind these."""
    return shape.layers * (shape.heads * num + 2 * shape.width)


def _full(shape: Shape, config: AdapterConfig) -> AdapterCost:
    """Every weight, tied ones once."""
    inputs = tuple(one.name for one in shape.linear_maps)
    return AdapterCost(parameters=shape.parameters, saved_parameters=shape.parameters, inputs=inputs, full=True)


COSTS: dict[str, Callable[[Shape, AdapterConfig], AdapterCost]] = {
    "lora": _lora,
    "bottleneck": _bottleneck,
    "ia3": _ia3,
    "prefix": _prefix,
    "prompt": _prompt,
    "full": _full,
}


def _targets(shape: Shape, targets: str | list[str]) -> list[LinearMap]:
    """The maps that get matrices. Raises ConfigError for a name that no map has."""
    if targets == "all-linear":
        return list(shape.linear_maps)
    if targets == "attention":
        return [one for one in shape.linear_maps if re.search("attn|attention", one.name.rpartition(".")[0].lower())]
    for name in targets:
        if not _maps_ending(shape, (name,)):
            known = ", ".join(sorted({one.name for one in shape.linear_maps}))
            raise ConfigError("adapter.target_modules", f"no linear map is called '{name}'.", f"There are {known}.")
    return _maps_ending(shape, tuple(targets))


def _maps_ending(shape: Shape, ends: Sequence[str]) -> list[LinearMap]:
    return [one for one in shape.linear_maps if _ends(one, ends)]


def _ends(one: LinearMap, ends: Sequence[str]) -> bool:
    return any(one.name == end or one.name.endswith(f".{end}") for end in ends)
