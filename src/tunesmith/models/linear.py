"""One linear map of a model as we run it: frozen storage, the adapters on it, and who applies.

LoRA's parameters are PEFT's; adapters of our own stand in a plain dict on the module they belong to, so that PEFT's
wrapping neither sees nor loses them. Which adapter acts is an argument that travels with the call, never module state,
so a layer recomputed in the backward pass runs the adapter it ran in the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.kernels.frozen import DenseWeight, FrozenWeight, TransposedWeight, frozen_linear
from tunesmith.kernels.lora import adapted_row_norms, dropout_rows, lora_group, lora_linear, row_squares, scale_rows
from tunesmith.kernels.packed import Product
from tunesmith.models.lora_extras import extras_of, frozen_under
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
        self.num_out = int(layer.weight.shape[1 if isinstance(layer, Conv1D) else 0])
        self.frozen: FrozenWeight
        if isinstance(layer, QuantizedLinear | QuantizedConv1D):
            self.frozen = layer.frozen
        elif isinstance(layer, Conv1D):
            self.frozen = TransposedWeight(layer.weight.detach())
        else:
            self.frozen = DenseWeight(layer.weight.detach())
        self.fused: Product | None = None
        # Of DoRA adapters: squared lengths of the frozen rows, constants; lengths of the adapted ones, with what of.
        self._squares: dict[tuple[str, torch.dtype], Tensor] = {}
        self._norms: dict[str, tuple[tuple[object, ...], Tensor]] = {}

    def over(self, frozen: FrozenWeight, fused: Product | None = None) -> Site:
        """The same place above another storage of its weight, for passes without gradients.

        fused: the weights of all sites of its group as one, which ``call_group`` then multiplies once.
        """
        site = copy(self)
        site.frozen, site.fused = frozen, fused
        # Lengths measured of the other storage's rows.
        site._squares, site._norms = {}, {}
        return site

    def __call__(self, x_TI: Tensor, routing: Routing) -> Tensor:
        """(T, in) -> (T, out) under the adapters of ``routing``."""
        if len(routing.runs) == 1:
            return self._one_run(x_TI, routing, *routing.runs[0])
        # One product for all that only add to it: decoding reads the weight once, not once an adapter.
        adds = {name: self._adds(name) for _, _, name in routing.runs}
        together = not torch.is_grad_enabled() and routing.seed_S is None and not self.layer.weight.requires_grad
        if together and sum(adds.values()) > 1:
            return self._from_product(self.frozen.matmul(x_TI), x_TI, routing)
        return torch.cat(
            [self._one_run(x_TI[first:end], routing, first, end, name) for first, end, name in routing.runs]
        )

    def _from_product(self, product_TO: Tensor, x_TI: Tensor, routing: Routing) -> Tensor:
        """What the adapters make of the frozen weight's product with x; those that only add to it need no other."""
        if self.lora is None and self.layer.bias is None and not own_adapters(self.layer):
            return product_TO
        out = []
        for first, end, name in routing.runs:
            if self._adds(name):
                out.append(self._added(product_TO[first:end], x_TI[first:end], name))
            else:
                out.append(self._one_run(x_TI[first:end], routing, first, end, name))
        return out[0] if len(out) == 1 else torch.cat(out)

    def _adds(self, adapter: str | None) -> bool:
        """Whether an adapter's answer is the frozen weight's own product and more, rather than another product."""
        extras = extras_of(self.lora, adapter)
        return (adapter or "") not in own_adapters(self.layer) and (extras is None or extras.start_a is None)

    def _added(self, product_TO: Tensor, x_TI: Tensor, adapter: str | None) -> Tensor:
        if adapter is None or self.lora is None or adapter not in self.lora.lora_A:
            return self.with_bias(product_TO)
        a, b = (held[adapter].weight.to(x_TI.dtype) for held in (self.lora.lora_A, self.lora.lora_B))
        return self.finished(product_TO.addmm(x_TI @ a.T, b.T, alpha=float(self.lora.scaling[adapter])), adapter)

    def _one_run(self, x_TI: Tensor, routing: Routing, first: int, end: int, adapter: str | None) -> Tensor:
        if self.layer.weight.requires_grad:
            return self._trainable(x_TI)
        if adapter is not None and (own := own_adapters(self.layer).get(adapter)) is not None:
            return own(x_TI, self._plain)
        if adapter is None or self.lora is None or adapter not in self.lora.lora_A:
            return self._plain(x_TI)
        a, b = self.lora.lora_A[adapter].weight, self.lora.lora_B[adapter].weight
        dropped = self._dropped(x_TI, routing, first, end, adapter)
        y_TO = lora_linear(x_TI, self.frozen_under(adapter), a, b, float(self.lora.scaling[adapter]), dropped)
        return self.finished(y_TO, adapter)

    def _plain(self, x_TI: Tensor) -> Tensor:
        return self.with_bias(frozen_linear(x_TI, self.frozen))

    def with_bias(self, y_TO: Tensor, adapter: str | None = None) -> Tensor:
        """The product plus a bias, where there is one: the adapter's own, or the layer's."""
        extras = extras_of(self.lora, adapter)
        bias = self.layer.bias if extras is None or extras.bias is None else extras.bias
        return y_TO if bias is None else y_TO + bias.to(y_TO.dtype)

    def frozen_under(self, adapter: str) -> FrozenWeight:
        """The constant weight that the adapter's matrices stand beside."""
        assert self.lora is not None
        return frozen_under(self.frozen, self.lora, adapter)

    def finished(self, y_TO: Tensor, adapter: str) -> Tensor:
        """What follows the sum of both products: DoRA's magnitudes where the adapter has them, then the bias."""
        assert self.lora is not None
        if adapter in self.lora.lora_magnitude_vector:
            norms_O = self.row_norms(adapter, y_TO.dtype)
            y_TO = scale_rows(y_TO, self.lora.lora_magnitude_vector[adapter].weight, norms_O)
        return self.with_bias(y_TO, adapter)

    def row_norms(self, adapter: str, dtype: torch.dtype) -> Tensor:
        """Lengths (out,) of the rows of the weight with the adapter's product added, as multiplied in ``dtype``.

        Kept from one decoded token to the next, while the matrices do not move: a step of ``build_optimizer``'s counts
        as a write, which a fused optimiser's own does not.
        """
        assert self.lora is not None
        a, b = self.lora.lora_A[adapter].weight, self.lora.lora_B[adapter].weight
        state = (dtype, a.data_ptr(), a._version, b.data_ptr(), b._version)
        held = self._norms.get(adapter)
        if held is not None and held[0] == state and not torch.is_grad_enabled():
            return held[1]
        frozen = self.frozen_under(adapter)
        if (adapter, dtype) not in self._squares:
            self._squares[adapter, dtype] = row_squares(frozen, a.shape[1], dtype, a.device)
        scaling = float(self.lora.scaling[adapter])
        norms_O = adapted_row_norms(self._squares[adapter, dtype], frozen, a, b, scaling, dtype)
        if not torch.is_grad_enabled():
            self._norms[adapter] = (state, norms_O)
        return norms_O

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
    if sites[0].fused is not None:
        parts = torch.split(sites[0].fused.matmul(x_TI), [site.num_out for site in sites], dim=1)
        return tuple(site._from_product(part, x_TI, routing) for site, part in zip(sites, parts, strict=True))
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
        [site.frozen_under(adapter) for site in sites],
        [lora.lora_A[adapter].weight for lora in held],
        [lora.lora_B[adapter].weight for lora in held],
        [float(lora.scaling[adapter]) for lora in held],
    )
    return tuple(site.finished(y, adapter) for site, y in zip(sites, out, strict=True))


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
