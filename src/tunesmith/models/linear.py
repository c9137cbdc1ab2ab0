"""One linear map of a model as we run it: frozen storage, the adapters on it, and who applies.

LoRA's parameters are PEFT's; adapters of our own stand in a plain dict on the module they belong to, so that PEFT's
wrapping neither sees nor loses them. Which adapter acts is an argument that travels with the call, never module state,
so a layer recomputed in the backward pass runs the adapter it ran in the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.kernels.frozen import DenseWeight, FrozenWeight, TransposedWeight, frozen_linear
from tunesmith.kernels.lora import dropout_rows, lora_group, lora_linear
from tunesmith.models.quantized_linear import QuantizedConv1D, QuantizedLinear

Plain = Callable[[Tensor], Tensor]
# adapter(x_TI, plain) -> y_TO: what an adapter makes of a module's input; plain is the module without any adapter.
OwnAdapter = Callable[[Tensor, Plain], Tensor]


def own_adapters(module: nn.Module) -> dict[str, OwnAdapter]:
    """Adapters of our own on a linear map or around a feed-forward module, by name; write to it to place one."""
    held: dict[str, OwnAdapter] = module.__dict__.setdefault("tunesmith_adapters", {})
    return held


@dataclass(frozen=True, slots=True)
class Routing:
    """Which tokens use which adapter, and the dropout seeds of the segments (None: no dropout).

    runs: (first token, end token, adapter or None). seed_S and length_S describe the segments in order.
    """

    runs: tuple[tuple[int, int, str | None], ...]
    seed_S: tuple[int, ...] | None = None
    length_S: tuple[int, ...] = ()

    def dropout_for(self, first: int, end: int) -> tuple[list[int], tuple[int, ...]] | None:
        """Seeds and lengths of the segments inside one run."""
        if self.seed_S is None:
            return None
        seeds, lengths, at = [], [], 0
        for seed, length in zip(self.seed_S, self.length_S, strict=True):
            if first <= at < end:
                seeds.append(seed)
                lengths.append(length)
            at += length
        return seeds, tuple(lengths)

    def over(self, num_tokens: int) -> Routing:
        """The same single run for a layer that is given num_tokens tokens, equally many a segment.

        Inside one call an encoder's layers and a decoder's are given different numbers of them.
        """
        ((_, _, adapter),) = self.runs
        count = len(self.length_S)
        lengths = (num_tokens // count,) * count if count else ()
        return Routing(((0, num_tokens, adapter),), self.seed_S, lengths)


class Site:
    """A place in the model where a linear map stands; ``number`` is its order in the model."""

    def __init__(self, module: nn.Module, number: int) -> None:
        self.number = number
        self.lora = module if isinstance(module, LoraLayer) else None
        layer = module.get_base_layer() if isinstance(module, LoraLayer) else module
        assert isinstance(layer, nn.Linear | Conv1D), f"no linear map: {type(layer).__name__}"
        self.layer = layer
        self.frozen: FrozenWeight
        if isinstance(layer, QuantizedLinear | QuantizedConv1D):
            self.frozen = layer.frozen
        elif isinstance(layer, Conv1D):
            self.frozen = TransposedWeight(layer.weight.detach())
        else:
            self.frozen = DenseWeight(layer.weight.detach())

    def __call__(self, x_TI: Tensor, routing: Routing) -> Tensor:
        """(T, in) -> (T, out) under the adapters of ``routing``."""
        if len(routing.runs) == 1:
            return self._one_run(x_TI, routing, *routing.runs[0])
        return torch.cat(
            [self._one_run(x_TI[first:end], routing, first, end, name) for first, end, name in routing.runs]
        )

    def _one_run(self, x_TI: Tensor, routing: Routing, first: int, end: int, adapter: str | None) -> Tensor:
        if self.layer.weight.requires_grad:
            return self._trainable(x_TI)
        if adapter is not None and (own := own_adapters(self.layer).get(adapter)) is not None:
            return own(x_TI, self._plain)
        if adapter is None or self.lora is None or adapter not in self.lora.lora_A:
            return self._plain(x_TI)
        a, b = self.lora.lora_A[adapter].weight, self.lora.lora_B[adapter].weight
        dropped = self._dropped(x_TI, routing, first, end, adapter)
        return self.with_bias(lora_linear(x_TI, self.frozen, a, b, float(self.lora.scaling[adapter]), dropped))

    def _plain(self, x_TI: Tensor) -> Tensor:
        return self.with_bias(frozen_linear(x_TI, self.frozen))

    def with_bias(self, y_TO: Tensor) -> Tensor:
        """The product plus the layer's bias, where it has one."""
        bias = self.layer.bias
        return y_TO if bias is None else y_TO + bias.to(y_TO.dtype)

    def drops(self, adapter: str) -> bool:
        """Whether the adapter has dropout here."""
        return self.lora is not None and getattr(self.lora.lora_dropout[adapter], "p", 0.0) > 0

    def _dropped(self, x_TI: Tensor, routing: Routing, first: int, end: int, adapter: str) -> Tensor | None:
        assert self.lora is not None
        p = getattr(self.lora.lora_dropout[adapter], "p", 0.0)
        keys = routing.dropout_for(first, end)
        return dropout_rows(x_TI, p, *keys, self.number) if p > 0 and keys is not None else None

    def _trainable(self, x_TI: Tensor) -> Tensor:
        """Full tuning: fp32 master weights, multiplied in the dtype of x."""
        weight = self.layer.weight.to(x_TI.dtype)
        y_TO = x_TI @ weight if isinstance(self.layer, Conv1D) else nn.functional.linear(x_TI, weight)
        bias = self.layer.bias
        return y_TO if bias is None else y_TO + bias.to(x_TI.dtype)


def call_group(sites: Sequence[Site], x_TI: Tensor, routing: Routing) -> tuple[Tensor, ...]:
    """Several sites of one input, in one go where one adapter without dropout acts on all of them."""
    adapter = routing.runs[0][2]
    loras = [site.lora for site in sites]
    together = (
        len(routing.runs) == 1
        and adapter is not None
        and all(lora is not None and adapter in lora.lora_A for lora in loras)
        and not (routing.seed_S is not None and any(site.drops(adapter) for site in sites))
        and not any(site.layer.weight.requires_grad for site in sites)
    )
    if not together:
        return tuple(site(x_TI, routing) for site in sites)
    assert adapter is not None
    held = [lora for lora in loras if lora is not None]
    out = lora_group(
        x_TI,
        [site.frozen for site in sites],
        [lora.lora_A[adapter].weight for lora in held],
        [lora.lora_B[adapter].weight for lora in held],
        [float(lora.scaling[adapter]) for lora in held],
    )
    return tuple(site.with_bias(y) for site, y in zip(sites, out, strict=True))


def add_own(module: nn.Module, x_TI: Tensor, y_TO: Tensor, routing: Routing) -> Tensor:
    """A module's output y, made of x without adapters of its own, as the adapters of ``routing`` around it leave it."""
    held = own_adapters(module)
    if not any(name in held for _, _, name in routing.runs):
        return y_TO
    parts = []
    for first, end, name in routing.runs:
        own, part_TO = held.get(name or ""), y_TO[first:end]
        parts.append(part_TO if own is None else own(x_TI[first:end], partial(_given, part_TO)))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _given(y_TO: Tensor, _: Tensor) -> Tensor:
    return y_TO
