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

from tunesmith.models.linear import Routing, Site, own_adapters
from tunesmith.models.token_rows import TokenRows

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


def embedded_or_ids(ids_BL: Tensor, rows: TokenRows | None) -> dict[str, Tensor]:
    """What transformers' decoder is called with: ids, or embeddings (B, L, D) where some ids are an adapter's own."""
    return {"input_ids": ids_BL} if rows is None else {"inputs_embeds": rows.embed(ids_BL)}


def run_segment(
    model: Any,
    ids_L: Tensor,
    positions_L: Tensor,
    adapter: str | None,
    seed: int | None,
    checkpointing: bool,
    rows: TokenRows | None = None,
) -> Tensor:
    """Final hidden states (L, D) of one path of tokens, computed alone; ``rows`` are the adapter's new tokens."""
    length = int(ids_L.shape[0])
    seeds = None if seed is None else (seed,)
    routing = Routing(((0, length, adapter),), seeds, (length,))

    def call() -> Tensor:
        inner = model.get_decoder()
        with _route(routing):
            out = inner(**embedded_or_ids(ids_L[None], rows), position_ids=positions_L[None], use_cache=False)
        return out.last_hidden_state[0]  # type: ignore[no-any-return]

    if checkpointing and torch.is_grad_enabled():
        # The routing is set inside the recomputed function, so the recomputation runs the same adapter.
        return checkpoint(call, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]
    return call()
