"""The plain reference path: transformers' own modules, one segment at a time, for any causal model.

Slow and right. The only thing replaced is the forward of modules that carry adapters, so that the adapter is chosen by
the call and not by module state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tunesmith.models.blocks import Checkpointing
from tunesmith.models.linear import Routing, Site, own_adapters
from tunesmith.models.roles import Base
from tunesmith.models.virtual import SoftPrompt, num_virtual_tokens, reference_inputs

_routing: ContextVar[Routing | None] = ContextVar("tunesmith_routing", default=None)


@contextmanager
def _route(routing: Routing) -> Iterator[None]:
    token = _routing.set(routing)
    try:
        yield
    finally:
        _routing.reset(token)


def route_lora_layers(model: Any) -> None:
    """Give every LoRA layer of the model a forward that asks the current call which adapter acts."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for number, layer in enumerate(layers):
        layer.forward = _routed_forward(Site(layer, number))


def route_own(module: nn.Module) -> None:
    """Give a module that carries adapters of our own a forward that asks the current call which of them acts.

    One that carries none any more gets its own forward back. A linear map that PEFT has wrapped, now or later, is run
    by its LoRA layer's ``Site``, which asks the same.
    """
    plain = module.__dict__.setdefault("tunesmith_plain", module.forward)
    module.forward = _routed_own(module, plain) if own_adapters(module) else plain


def _routed_own(module: nn.Module, plain: Any) -> Any:
    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        routing = _routing.get()
        # A plain transformers call, outside of ``forward``: the bare base answers.
        adapters = [None] if routing is None else [name for _, _, name in routing.runs]
        if len(adapters) > 1:
            raise ValueError("the reference path runs one adapter at a time")
        own = own_adapters(module).get(adapters[0] or "")
        if own is None:
            return plain(x, *args, **kwargs)  # type: ignore[no-any-return]
        return own(x.reshape(-1, x.shape[-1]), plain).view(*x.shape[:-1], -1)

    return forward


def _routed_forward(site: Site) -> Any:
    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        routing = _routing.get()
        tokens = x.reshape(-1, x.shape[-1])
        if routing is None:
            # A plain transformers call, outside of ``forward``: the bare base answers.
            routing = Routing(((0, 0, None),))
        return site(tokens, routing.over(tokens.shape[0])).view(*x.shape[:-1], -1)

    return forward


def call_routed(model: Any, routing: Routing, **inputs: Any) -> Any:
    """model(**inputs) with the adapters of ``routing`` in force."""
    with _route(routing):
        return model(**inputs)


def run_segment(
    base: Base, ids_L: Tensor, positions_L: Tensor, adapter: str | None, seed: int | None, checkpointing: Checkpointing
) -> Tensor:
    """Final hidden states of one path of tokens, computed alone behind its adapter's virtual tokens.

    (L, D), or (P + L, D) where these are embeddings that run along.
    """
    own, rows = base.own.get(adapter or ""), base.token_rows.get(adapter or "")
    # A prefix is there before the layers begin; a soft prompt runs through them.
    num_virtual = num_virtual_tokens(own)
    num_running = num_virtual if isinstance(own, SoftPrompt) else 0
    start_P = torch.arange(num_running, device=ids_L.device)
    positions_1L = torch.cat([start_P, positions_L + num_virtual])[None]
    length = int(positions_1L.shape[1])
    routing = Routing(((0, length, adapter),), None if seed is None else (seed,), (length,))

    def call() -> Tensor:
        inputs = reference_inputs(base.model, ids_L[None], rows, own, base.dtype)
        out = call_routed(
            base.model.get_decoder(), routing, **{"use_cache": False, **inputs}, position_ids=positions_1L
        )
        return out.last_hidden_state[0]  # type: ignore[no-any-return]

    if checkpointing and torch.is_grad_enabled():
        # The routing is set inside the recomputed function, so the recomputation runs the same adapter.
        return checkpoint(call, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]
    return call()
