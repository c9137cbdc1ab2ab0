"""What virtual tokens are to a forward pass: embeddings at the input, or keys and values in every layer.

Shape letters: P virtual tokens, T tokens, L layers, G key/value heads, W head width, D width, H query heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tunesmith.kernels.attention import AttentionPlan, AttentionRules, packed_attention, plan_attention
from tunesmith.models.token_rows import TokenRows, embed_runs
from tunesmith.tokens.pack import Packed
from tunesmith.tokens.virtual import with_virtual

Run = tuple[int, int, str | None]


class SoftPrompt(nn.Module):
    """Embeddings of virtual tokens (Lester et al. 2021, arXiv:2104.08691, section 2).

    rows_RD: P rows, or more where a file of PEFT brings rows for a second stack, which nothing reads.
    """

    def __init__(self, rows_RD: Tensor, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.embedding = nn.Parameter(rows_RD)

    def embeddings(self, dtype: torch.dtype) -> Tensor:
        """(P, D)"""
        return self.embedding[: self.num_tokens].to(dtype)


class Prefix(nn.Module):
    """Keys and values of virtual tokens in every layer (Li & Liang 2021, arXiv:2101.00190, section 4).

    start_PLGW: where they begin, keys and values of a layer in turn (P, 2L, G, W). Without a projection they are what
    learns. With one (section 4.3) an MLP of smaller rows is added to them, and only its sum with them is ever saved;
    a start of zeros is the paper's own form.
    """

    def __init__(self, start_PLGW: Tensor) -> None:
        super().__init__()
        self.num_tokens = int(start_PLGW.shape[0])
        self.shape = tuple(start_PLGW.shape)
        self.start = nn.Parameter(start_PLGW.flatten(1))
        self.rows: nn.Parameter | None = None
        self.transform: nn.Sequential | None = None

    def project(self, width: int, inner: int, *, from_start: bool) -> None:
        """Let an MLP of rows (P, width) learn in place of the numbers themselves; from_start: at first it adds 0."""
        like, last = self.start, nn.Linear(inner, self.start.shape[1])
        self.start.requires_grad_(False)
        self.rows = nn.Parameter(torch.randn(self.num_tokens, width).to(like))
        self.transform = nn.Sequential(nn.Linear(width, inner), nn.Tanh(), last).to(like)
        if from_start:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def learned(self) -> dict[str, nn.Parameter]:
        """Name -> what learns: the numbers themselves, or the projection's rows and matrices."""
        return {key: p for key, p in self.named_parameters() if self.transform is None or key != "start"}

    @torch.no_grad()
    def set_flat(self, flat_PN: Tensor) -> None:
        """Take what ``flat`` gave; a projection, which nothing can recover from it, is dropped."""
        self.start.copy_(flat_PN)
        self.rows, self.transform = None, None

    def flat(self) -> Tensor:
        """(P, 2L x G x W): the prefix as its file holds it."""
        if self.transform is None:
            return self.start
        return self.start + self.transform(self.rows)  # type: ignore[no-any-return]

    def keys_values(self, dtype: torch.dtype) -> Tensor:
        """(P, 2L, G, W)"""
        return self.flat().view(self.shape).to(dtype)


def num_virtual_tokens(own: nn.Module | None) -> int:
    """How many virtual tokens the module of an adapter's own parameters puts before a row."""
    return own.num_tokens if isinstance(own, SoftPrompt | Prefix) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A pack made ready for the fast path.

    run: what runs through the layers, the caller's tokens at its end. embedded_TD: its embeddings, where they are not
    those of its ids. site_runs: which adapter acts where in it. seen: what attention sees, the prefixes being before
    ``run``. prefix_PLGW: their keys and values. plan: of ``seen``.
    """

    run: Packed
    seen: Packed
    embedded_TD: Tensor | None
    site_runs: tuple[Run, ...]
    prefix_PLGW: Tensor | None
    plan: AttentionPlan

    @property
    def num_prefix(self) -> int:
        """Tokens of ``seen`` that no layer computes."""
        return self.seen.num_tokens - self.run.num_tokens

    @property
    def positions_T(self) -> Tensor:
        """Of the tokens of ``run``."""
        return self.seen.positions_T[self.num_prefix :]

    def sight(self, layer: int, k_TGW: Tensor, v_TGW: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of ``run`` in one layer -> those of ``seen``."""
        if self.prefix_PLGW is None:
            return k_TGW, v_TGW
        keys, values = self.prefix_PLGW[:, 2 * layer], self.prefix_PLGW[:, 2 * layer + 1]
        return torch.cat([keys, k_TGW]), torch.cat([values, v_TGW])

    def attend(self, q_THW: Tensor, k_TGW: Tensor, v_TGW: Tensor, rules: AttentionRules) -> Tensor:
        """Queries of ``run``, keys and values of ``seen`` -> (T, H, W) of ``run``."""
        if self.prefix_PLGW is None:
            return packed_attention(q_THW, k_TGW, v_TGW, self.plan, rules)
        # Virtual tokens ask nothing: their queries are zeros, and nobody reads what these get.
        nothing = q_THW.new_zeros(self.num_prefix, *q_THW.shape[1:])
        return packed_attention(torch.cat([nothing, q_THW]), k_TGW, v_TGW, self.plan, rules)[self.num_prefix :]


def place_virtual(
    packed: Packed,
    own: Mapping[str, nn.Module],
    rows: Mapping[str, TokenRows],
    embedding: Any,
    rules: AttentionRules,
    dtype: torch.dtype,
) -> Placed:
    """Put the virtual tokens of a pack's adapters before its rows: prompts as tokens, prefixes for attention alone.

    own, rows: adapter -> its module, its new vocabulary rows. embedding: the base's. Raises ValueError as
    ``with_virtual`` does, and for a pack that has virtual tokens already.
    """
    if any(packed.num_virtual_S):
        raise ValueError("virtual tokens are placed by the forward pass")
    runs = packed.adapter_runs()
    embedded_TD = embed_runs(rows, packed.ids_T, runs, embedding)
    held = {str(name): own[str(name)] for name in dict.fromkeys(packed.adapter_S) if str(name) in own}
    prompts = {name: module for name, module in held.items() if isinstance(module, SoftPrompt)}
    prefixes = {name: module for name, module in held.items() if isinstance(module, Prefix)}
    run = with_virtual(packed, {name: module.num_tokens for name, module in prompts.items()})
    seen = with_virtual(run, {name: module.num_tokens for name, module in prefixes.items()})
    if prompts:
        words_TD = embedding(packed.ids_T) if embedded_TD is None else embedded_TD
        embedded_TD = torch.cat([*(module.embeddings(dtype) for module in prompts.values()), words_TD.to(dtype)])
    return Placed(
        run=run,
        seen=seen,
        embedded_TD=embedded_TD,
        site_runs=at_sites(run.adapter_runs(), own),
        prefix_PLGW=torch.cat([m.keys_values(dtype) for m in prefixes.values()]) if prefixes else None,
        plan=plan_attention(seen, rules),
    )


def at_sites(runs: Sequence[Run], own: Mapping[str, nn.Module]) -> tuple[Run, ...]:
    """The runs as linear maps see them: rows that differ in nothing but virtual tokens are one stretch of the base."""
    merged: list[Run] = []
    for first, end, name in runs:
        acting = None if name is not None and num_virtual_tokens(own.get(name)) else name
        if merged and merged[-1][2] == acting:
            merged[-1] = (merged[-1][0], end, acting)
        else:
            merged.append((first, end, acting))
    return tuple(merged)


def reference_inputs(
    model: Any, ids_BL: Tensor, rows: TokenRows | None, own: nn.Module | None, dtype: torch.dtype
) -> dict[str, Any]:
    """What transformers' modules are called with for ids behind an adapter's virtual tokens.

    ids (B, L) or embeddings (B, L or P + L, D), and for one row a cache that holds the prefix. rows: the adapter's new
    tokens.
    """
    # Some ids may be an adapter's own.
    inputs: dict[str, Any] = {"input_ids": ids_BL} if rows is None else {"inputs_embeds": rows.embed(ids_BL)}
    if isinstance(own, SoftPrompt):
        words_BLD = inputs.get("inputs_embeds")
        words_BLD = model.get_input_embeddings()(ids_BL) if words_BLD is None else words_BLD
        prompt_BPD = own.embeddings(words_BLD.dtype).expand(ids_BL.shape[0], -1, -1)
        return {"inputs_embeds": torch.cat([prompt_BPD, words_BLD], dim=1)}
    if isinstance(own, Prefix):
        return {**inputs, "past_key_values": _cache_of(model, own.keys_values(dtype)), "use_cache": True}
    return inputs


def _cache_of(model: Any, prefix_PLGW: Tensor) -> Any:
    cache = DynamicCache(config=model.config)
    layers_LGPW = prefix_PLGW.permute(1, 2, 0, 3)
    for layer in range(layers_LGPW.shape[0] // 2):
        cache.update(layers_LGPW[2 * layer][None], layers_LGPW[2 * layer + 1][None], layer)
    return cache
