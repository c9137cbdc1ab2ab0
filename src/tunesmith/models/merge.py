"""An adapter and its base as one plain transformers model, and how far the two differ.

What an adapter makes of a linear map is read off the map as it runs, from its answers to unit vectors: whatever the
method (LoRA, DoRA, (IA)^3) and the storage (dense, transposed, 4-bit), the merged weight is what was trained.
Shape letters: I in features, O out features, T tokens, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AutoTokenizer
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ModelError
from tunesmith.kernels.head_loss import logits_of
from tunesmith.models.forward import hidden_states
from tunesmith.models.gguf import no_progress_bars
from tunesmith.models.linear import Routing, Site, own_adapters
from tunesmith.models.quantize import quantized_layers
from tunesmith.models.quantized_linear import dense_weight
from tunesmith.models.roles import Base
from tunesmith.models.token_rows import TokenRows, head_for
from tunesmith.records import Example
from tunesmith.tokens.pack import pack

# Why an adapter of a method cannot become a part of the weights.
UNMERGEABLE: Mapping[str, str] = {
    "bottleneck": "its layers hold a non-linearity that no weight of the base can take in",
    "prefix": "it is keys and values put before every row, not a change of any weight",
    "prompt": "it is tokens put before every row, not a change of any weight",
}
UNIT_VECTORS = 1024


def check_mergeable(base: Base, name: str, folder: Path) -> None:
    """Raise ModelError with the reason where an adapter cannot be merged; folder: where it lies."""
    reason = UNMERGEABLE.get(base.methods[name])
    settings = json.loads((folder / "adapter_config.json").read_text())
    if settings.get("modules_to_save"):
        reason = "it has a head of its own, which a language model's folder has no place for"
    if reason is not None:
        raise ModelError(folder, f"cannot be merged: {reason}.", "Use it unmerged, with --adapter.")


@dataclass(frozen=True, slots=True)
class Merged:
    """One parameter of the plain model under transformers' name; ``make`` gives its values and keeps nothing."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]


def merged_tensors(base: Base, name: str | None) -> Iterator[Merged]:
    """Every parameter of the plain model, tied ones once, as it is with the adapter in it (None: the bare base).

    What the adapter leaves alone shares the base's memory, but for 4-bit maps, which are unpacked. float32 is the
    precision to load a base in for this. Raises ModelError for a method whose work no weight can hold.
    """
    if name is not None and (reason := UNMERGEABLE.get(base.methods[name])) is not None:
        raise ModelError(f"the {base.methods[name]} adapter", f"cannot be merged: {reason}.", "Use it unmerged.")
    maps = {} if name is None else {key: site for key, site in adapted_maps(base) if _acts(site, name)}
    for key, layer in quantized_layers(base.model).items():
        key = key.removesuffix(".base_layer")
        unpack = partial(dense_weight, layer, base.dtype)
        make = partial(_merged_weight, base, key, maps[key], name) if key in maps else unpack
        yield Merged(f"{key}.weight", layer.shape, make)
    rows = None if name is None else base.token_rows.get(name)
    embedding, output = base.model.get_input_embeddings().weight, base.model.get_output_embeddings().weight
    for full_key, parameter in base.model.named_parameters():
        if "lora_" in full_key:
            continue
        plain_key = full_key.replace(".base_layer.", ".")
        key, _, kind = plain_key.rpartition(".")
        shape, make = tuple(parameter.shape), parameter.detach
        if rows is not None and (parameter is embedding or parameter is output):
            shape = (rows.num_rows, *shape[1:])
            make = partial(_with_rows, parameter, rows, rows.embedding_RD if parameter is embedding else rows.head_RD)
        elif key in maps:
            make = partial({"weight": _merged_weight, "bias": _merged_bias}[kind], base, key, maps[key], name)
        yield Merged(plain_key, shape, make)


def merged_state(base: Base, name: str) -> dict[str, Tensor]:
    """Every parameter and buffer by its name in the plain model, tied ones by each of theirs: ``merged_tensors``."""
    made = {one.name: one.make() for one in merged_tensors(base, name)}
    state = {key: value for key, value in base.model.named_buffers() if "lora_" not in key}
    first: dict[int, str] = {}
    for key, parameter in base.model.named_parameters(remove_duplicate=False):
        if "lora_" not in key:
            key = key.replace(".base_layer.", ".")
            state[key] = made[first.setdefault(id(parameter), key)]
    return {**state, **made}


def _acts(site: Site, name: str) -> bool:
    return name in own_adapters(site.layer) or (site.lora is not None and name in site.lora.lora_A)


def adapted_maps(base: Base) -> Iterator[tuple[str, Site]]:
    """(name in the plain model, map) of every linear map that carries an adapter, whosever it is."""
    for key, module in base.model.named_modules():
        # A map inside PEFT's layer is read off that layer, which knows of both kinds of adapters.
        own = isinstance(module, nn.Linear | Conv1D) and own_adapters(module) and not key.endswith(".base_layer")
        if isinstance(module, LoraLayer) or own:
            yield key, Site(module, 0)


@torch.no_grad()
def map_under(base: Base, site: Site, name: str | None) -> tuple[Tensor, Tensor]:
    """(weight (I, O), bias (1, O)) of a linear map as it runs under an adapter; None: as the base has it."""
    bias_1O = _bias_under(base, site, name)
    units_II = torch.eye(_num_in(site), dtype=base.dtype, device=base.device)
    weight_IO = torch.cat([_call(site, units_NI, name) for units_NI in torch.split(units_II, UNIT_VECTORS)])
    return (weight_IO - bias_1O if bool(bias_1O.any()) else weight_IO), bias_1O


def updates(base: Base, name: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(map, what the adapter adds to its weight, that weight), both (I, O), for every map that it changes."""
    for key, site in adapted_maps(base):
        plain_IO, merged_IO = (map_under(base, site, adapter)[0] for adapter in (None, name))
        if not torch.equal(plain_IO, merged_IO):
            yield key, merged_IO - plain_IO, plain_IO


def _merged_weight(base: Base, key: str, site: Site, name: str | None) -> Tensor:
    """In the layout it is stored in."""
    weight_IO, bias_1O = map_under(base, site, name)
    if site.layer.bias is None and bool(bias_1O.any()):
        raise ModelError(key, "the adapter adds a bias to a map that has none.", "Use it unmerged, with --adapter.")
    return weight_IO if isinstance(site.layer, Conv1D) else weight_IO.T


def _merged_bias(base: Base, _: str, site: Site, name: str | None) -> Tensor:
    return _bias_under(base, site, name)[0]


def _bias_under(base: Base, site: Site, name: str | None) -> Tensor:
    """(1, O): the map's answer to zeros."""
    return _call(site, torch.zeros(1, _num_in(site), dtype=base.dtype, device=base.device), name)


def _num_in(site: Site) -> int:
    return int(site.layer.weight.shape[0] if isinstance(site.layer, Conv1D) else site.layer.in_features)


@torch.no_grad()
def _call(site: Site, x_NI: Tensor, name: str | None) -> Tensor:
    return site(x_NI, Routing(((0, x_NI.shape[0], name),)))


@torch.no_grad()
def _with_rows(weight_VD: Tensor, rows: TokenRows, own_RD: Tensor) -> Tensor:
    """An embedding or a head over the whole vocabulary of an adapter with new tokens."""
    missing = rows.num_rows - weight_VD.shape[0]
    weight_VD = torch.cat([weight_VD, weight_VD.new_zeros(missing, weight_VD.shape[1])])
    return weight_VD.index_copy(0, rows.ids_R, own_RD.to(weight_VD.dtype))


def write_merged(base: Base, name: str, folder: Path, dtype: torch.dtype) -> None:
    """Write the base with its adapter merged as a plain transformers folder, its tokenizer and template with it."""
    config = deepcopy(base.model.config)
    rows = base.token_rows.get(name)
    if rows is not None:
        config.vocab_size = rows.num_rows
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # A fresh model of the same class carries nothing that was placed on this one.
    with torch.device("meta"):
        model = type(base.model)(config)
    state = merged_state(base, name)
    kept = {key: _in_dtype(state[key].cpu(), dtype) for key in model.state_dict()}
    model.load_state_dict(kept, assign=True)
    model.tie_weights()
    model.generation_config = base.model.generation_config
    model.config.dtype = dtype
    with no_progress_bars():
        model.save_pretrained(folder)
    # Not the one in memory: it may carry marks of ours that say how it is used.
    tokenizer = AutoTokenizer.from_pretrained(base.resolved.folder) if rows is None else rows.tokenizer
    tokenizer.save_pretrained(folder)


def _in_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype).contiguous() if value.is_floating_point() else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far a model's next-token distributions are from another's, token by token over the same prompts.

    max_T, mean_T: the largest and the mean |logit difference| over the vocabulary at each token. kl_T: the divergence
    KL(first || second) in nats. agrees_T: whether both have the same likeliest token. prompt_T: whose token it is.
    """

    max_T: NDArray[np.float64]
    mean_T: NDArray[np.float64]
    kl_T: NDArray[np.float64]
    agrees_T: NDArray[np.bool_]
    prompt_T: NDArray[np.int64]


@torch.no_grad()
def measure_drift(first: Base, adapter: str | None, second: Base, examples: Sequence[Example]) -> Drift:
    """Compare the base under an adapter with another base of the same vocabulary, at every token of the examples."""
    columns: list[list[NDArray[Any]]] = [[], [], [], [], []]
    for number, example in enumerate(examples):
        one_TV, other_TV = _logits(first, adapter, example), _logits(second, None, example)
        gap_TV = (one_TV - other_TV).abs()
        log_p_TV, log_q_TV = one_TV.log_softmax(-1), other_TV.log_softmax(-1)
        kl_T = (log_p_TV.exp() * (log_p_TV - log_q_TV)).sum(-1)
        agrees_T = one_TV.argmax(-1) == other_TV.argmax(-1)
        found = (gap_TV.amax(-1), gap_TV.mean(-1), kl_T, agrees_T, torch.full((len(kl_T),), number))
        for column, values_T in zip(columns, found, strict=True):
            column.append(values_T.cpu().numpy())
    names = ("max_T", "mean_T", "kl_T", "agrees_T", "prompt_T")
    return Drift(**{name: np.concatenate(column) for name, column in zip(names, columns, strict=True)})


def _logits(base: Base, adapter: str | None, example: Example) -> Tensor:
    """Logits (T, V) after each token, in double precision so that the comparison adds no error of its own."""
    head, _, _ = head_for(base.token_rows, base.head, [adapter], "none")
    return logits_of(hidden_states(base, pack([example], adapter)), head).double()
