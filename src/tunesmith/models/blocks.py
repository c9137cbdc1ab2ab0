"""The fast path: decoder blocks of the Llama family run by our kernels on the weights transformers holds.

Covers Llama, Mistral, Qwen2 and Qwen3 (RMSNorm, rotary positions, SwiGLU, grouped heads; optional q/k norms and
biases). ``read_blocks`` checks the modules it needs and the loader compares one short sequence with transformers'
own forward, so a changed release falls back to the reference path instead of running silently wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tunesmith.kernels.attention import AttentionRules
from tunesmith.kernels.elementwise import rms_norm, rope, rope_rolled, signed_sin, swiglu
from tunesmith.models.linear import Routing, Site, add_own, call_group

LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3")

# What a layer computes again for its backward pass instead of keeping it: nothing, its feed-forward part ("attention":
# only attention's part is kept), or all of it.
Checkpointing = bool | Literal["attention"]

# attend(layer index, q_THD, k_TGD, v_TGD) -> mixed_THD: the only thing training and decoding do differently.
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One decoder layer: its linear sites, the module around its feed-forward part, norm weights and epsilon."""

    q: Site
    k: Site
    v: Site
    o: Site
    gate: Site
    up: Site
    down: Site
    mlp: nn.Module
    norm_in: nn.Module
    norm_mlp: nn.Module
    q_norm: nn.Module | None
    k_norm: nn.Module | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A Llama-like decoder ready to run: embedding, blocks, final norm, rotary table, attention rules.

    answers_only: fewer operators a token instead of the rounding of training; for packed weights, which have their own.
    token: what decodes a whole token in one call, where there is such a thing (``models/native_token.py``).
    """

    embedding: nn.Embedding
    blocks: tuple[Block, ...]
    norm: nn.Module
    rotary: nn.Module
    rules: AttentionRules
    head_width: int
    num_kv_heads: int
    answers_only: bool = False
    token: Any = None


def read_blocks(model: Any) -> Decoder | str:
    """The decoder inside a transformers causal model, or the reason why it is not Llama-like."""
    config = model.config
    if config.model_type not in LLAMA_LIKE:
        return f"model type '{config.model_type}' has no fast path"
    if getattr(config, "hidden_act", "silu") != "silu":
        return f"activation '{config.hidden_act}' has no fast path"
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    # Where a config lists its layers' kinds they decide; where it does not, the window holds for all.
    layer_types = set(getattr(config, "layer_types", None) or [])
    if len(layer_types) > 1:
        return "layers of several attention types have no fast path"
    if layer_types == {"full_attention"}:
        window = None
    inner = model.model
    try:
        blocks = tuple(_read_block(layer, 7 * i) for i, layer in enumerate(inner.layers))
        first = inner.layers[0].self_attn
        rules = AttentionRules(scale=float(first.scaling), window=window)
        return Decoder(
            embedding=inner.embed_tokens,
            blocks=blocks,
            norm=inner.norm,
            rotary=inner.rotary_emb,
            rules=rules,
            head_width=int(first.head_dim),
            num_kv_heads=int(config.num_key_value_heads),
        )
    except AttributeError as error:
        return f"this release of transformers names its parts differently ({error})"


def _read_block(layer: Any, number: int) -> Block:
    attention, mlp = layer.self_attn, layer.mlp
    return Block(
        q=Site(attention.q_proj, number),
        k=Site(attention.k_proj, number + 1),
        v=Site(attention.v_proj, number + 2),
        o=Site(attention.o_proj, number + 3),
        gate=Site(mlp.gate_proj, number + 4),
        up=Site(mlp.up_proj, number + 5),
        down=Site(mlp.down_proj, number + 6),
        mlp=mlp,
        norm_in=layer.input_layernorm,
        norm_mlp=layer.post_attention_layernorm,
        q_norm=getattr(attention, "q_norm", None),
        k_norm=getattr(attention, "k_norm", None),
    )


def run_blocks(
    decoder: Decoder,
    ids_T: Tensor,
    positions_T: Tensor,
    attend: Attend,
    routing: Routing,
    *,
    dtype: torch.dtype,
    checkpointing: Checkpointing = False,
    embedded_TD: Tensor | None = None,
) -> Tensor:
    """ids (T,), positions (T,) -> final hidden states (T, D) after the last norm, in ``dtype``.

    embedded_TD stands in for the embeddings of the ids.
    """
    hidden_TD = (decoder.embedding(ids_T) if embedded_TD is None else embedded_TD).to(dtype)
    cos_1TD, sin_1TD = decoder.rotary(hidden_TD[None], positions_T[None])
    cos_TD, sin_TD = cos_1TD[0], signed_sin(sin_1TD[0]) if decoder.answers_only else sin_1TD[0]
    level = checkpointing if torch.is_grad_enabled() else False
    for index, block in enumerate(decoder.blocks):
        attention = (index, cos_TD, sin_TD, attend, routing)
        if level is True:
            hidden_TD = _again(_run_block, decoder, block, hidden_TD, attention)
            continue
        hidden_TD = _attention(decoder, block, hidden_TD, *attention)
        if level == "attention":
            hidden_TD = _again(_feed_forward, decoder, block, hidden_TD, routing)
        else:
            hidden_TD = _feed_forward(decoder, block, hidden_TD, routing)
    return _norm(decoder, hidden_TD, decoder.norm)


def _again(part: Callable[..., Tensor], decoder: Decoder, block: Block, hidden_TD: Tensor, rest: Any) -> Tensor:
    """A part of a layer that keeps its input alone, and runs again before its backward pass."""
    if not hidden_TD.requires_grad:
        # Frozen embeddings give an input without gradient; checkpoint still needs the graph to pass through.
        hidden_TD = hidden_TD.detach().requires_grad_()
    return checkpoint(  # type: ignore[no-any-return]
        part, decoder, block, hidden_TD, rest, use_reentrant=False, preserve_rng_state=False
    )


def _run_block(decoder: Decoder, block: Block, hidden_TD: Tensor, attention: tuple[Any, ...]) -> Tensor:
    return _feed_forward(decoder, block, _attention(decoder, block, hidden_TD, *attention), attention[-1])


def _attention(
    decoder: Decoder,
    block: Block,
    hidden_TD: Tensor,
    index: int,
    cos_TD: Tensor,
    sin_TD: Tensor,
    attend: Attend,
    routing: Routing,
) -> Tensor:
    width = decoder.head_width
    x_TD = _norm(decoder, hidden_TD, block.norm_in)
    q, k, v = (y.view(x_TD.shape[0], -1, width) for y in call_group((block.q, block.k, block.v), x_TD, routing))
    if block.q_norm is not None and block.k_norm is not None:
        q, k = _norm(decoder, q, block.q_norm), _norm(decoder, k, block.k_norm)
    q, k = _rotated(decoder, q, k, cos_TD, sin_TD)
    mixed = attend(index, q, k, v)
    return hidden_TD + block.o(mixed.reshape(x_TD.shape[0], -1), routing)


def _feed_forward(decoder: Decoder, block: Block, hidden_TD: Tensor, routing: Routing) -> Tensor:
    x_TD = _norm(decoder, hidden_TD, block.norm_mlp)
    gate_TF, up_TF = call_group((block.gate, block.up), x_TD, routing)
    return hidden_TD + add_own(block.mlp, x_TD, block.down(swiglu(gate_TF, up_TF), routing), routing)


def _norm(decoder: Decoder, x: Tensor, module: Any) -> Tensor:
    if decoder.answers_only:
        return nn.functional.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)
    return rms_norm(x, module.weight, module.variance_epsilon)


def _rotated(decoder: Decoder, q_THD: Tensor, k_TGD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> tuple[Tensor, Tensor]:
    if decoder.answers_only:
        both = rope_rolled(torch.cat((q_THD, k_TGD), dim=1), cos_TD, sin_TD)
        return both[:, : q_THD.shape[1]], both[:, q_THD.shape[1] :]
    return rope(q_THD, cos_TD, sin_TD), rope(k_TGD, cos_TD, sin_TD)
