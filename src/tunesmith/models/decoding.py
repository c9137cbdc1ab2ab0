"""Prefill and step with a key/value cache, for the fast path and for any model.

Every row names its adapter, so that one batch answers with several of them. Rows of one prompt and one adapter share
its prefill. Shape letters: B rows still running, H query heads, G key/value heads,
L cache slots, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tunesmith.models.blocks import Decoder, run_blocks
from tunesmith.models.encoder_decoder import EncoderDecoderDecoding
from tunesmith.models.linear import Routing
from tunesmith.models.native_token import Matrices
from tunesmith.models.reference import call_routed
from tunesmith.models.roles import Base
from tunesmith.models.step_graphs import StepGraphs
from tunesmith.models.token_rows import embed_runs
from tunesmith.models.virtual import Run, at_sites, num_virtual_tokens, place_virtual, reference_inputs
from tunesmith.tokens.pack import distinct_rows, pack_prompts


class DecodeState(Protocol):
    """Rows being decoded; hidden states (B, D) are those that predict each row's next token."""

    def step(self, ids_B: Tensor) -> Tensor:
        """Append one token to every row and return the new hidden states (B, D)."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order; finished rows cost nothing."""
        ...


def start_decoding(
    base: Base,
    prompts: Sequence[NDArray[np.int64]],
    max_new_tokens: int,
    adapter_B: Sequence[str | None],
    stepping: Decoder | None = None,
    *,
    num_rows: int = 0,
    num_slots: int = 0,
) -> tuple[DecodeState, Tensor]:
    """Prefill the prompts, each under its adapter, and return the state with the hidden states (B, D) after them.

    stepping: the decoder over packed weights that makes the steps, where it is not to be the base's own. num_rows,
    num_slots: room for rows that enter later, and for the longest of them with its answer.
    """
    if base.is_encoder_decoder:
        encoding = EncoderDecoderDecoding(base, adapter_B)
        return encoding, encoding.prefill(prompts)
    if base.decoder is None:
        state = ReferenceDecoding(base, adapter_B)
        return state, state.prefill(prompts)
    rows = zip(prompts, adapter_B, strict=True)
    longest = max(base.num_virtual_of(adapter) + len(prompt) for prompt, adapter in rows) + max_new_tokens
    room = (max(num_rows, len(prompts)), max(num_slots, longest))
    fast = FastDecoding(base, base.decoder, room, stepping)
    return fast, fast.enter(prompts, adapter_B)


@torch.no_grad()
def keys_values_of(base: Base, ids_L: NDArray[np.int64]) -> Tensor:
    """(L, 2 x layers, G, W): what the bare base keeps of some tokens, keys and values of each layer in turn.

    Raises ValueError for an encoder-decoder model and one whose layers do not all keep keys and values of one shape.
    """
    if base.is_encoder_decoder:
        raise ValueError("each of its two stacks would need one, and PEFT's file holds one")
    if base.decoder is not None:
        state = FastDecoding(base, base.decoder, (1, len(ids_L)))
        state.enter([ids_L], [None])
        pairs = list(zip(state.keys, state.values, strict=True))
    else:
        if any(not isinstance(layer, DynamicLayer) for layer in DynamicCache(config=base.model.config).layers):
            raise ValueError("its layers do not all keep keys and values")
        # Without the config nothing slides out of the cache.
        cache, ids_1L = DynamicCache(), torch.from_numpy(ids_L).to(base.device)[None]
        call_routed(base.model.get_decoder(), Routing(((0, 0, None),)), input_ids=ids_1L, past_key_values=cache)
        pairs = [(layer.keys, layer.values) for layer in cache.layers]
    held = [x[0].transpose(0, 1) for pair in pairs for x in pair]
    if len({x.shape for x in held}) != 1:
        raise ValueError("its layers do not all keep keys and values of one shape")
    return torch.stack(held, dim=1)


class FastDecoding:
    """Batched decoding over our blocks; a row's cache slot is its position, so no row is ever padded on the left.

    room: rows and slots that the cache has. adapter_B: who answers each running row. place_B: where in the cache it
    stands. A row that ends leaves its place to the last one, so that ending costs the copy of one row and not of the
    whole cache; a row that enters takes the first free place.
    """

    def __init__(self, base: Base, decoder: Decoder, room: tuple[int, int], stepping: Decoder | None = None) -> None:
        # Prompts are read with the full weights: with many tokens at once it is not their bytes that take the time.
        self.stepping = stepping or decoder
        self.base, self.decoder, self.room = base, decoder, room
        self.adapter_B: list[str | None] = []
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        # Kept on the host, which would otherwise wait for the device in every step.
        self.length_B = self.place_B = torch.zeros(0, dtype=torch.int64)
        self.graphs = StepGraphs(room) if base.device.type == "cuda" else None
        # A native token is summed in fp32, and so are its keys and values kept.
        self.dtype = base.dtype if self.stepping.token is None else torch.float32
        self._matrices: dict[str | None, Matrices | None] = {}

    @torch.no_grad()
    def enter(self, prompts: Sequence[NDArray[np.int64]], adapters: Sequence[str | None]) -> Tensor:
        """Rows behind the running ones, and the hidden states (new rows, D) after their prompts.

        Each distinct prompt is read once, all in one pack; keys and values are laid into the cache row by row.
        """
        firsts, of_row = distinct_rows(prompts, adapters)
        packed = pack_prompts([prompts[row] for row in firsts], firsts, None).to(self.base.device)
        packed = replace(packed, adapter_S=tuple(adapters[row] for row in firsts))
        base, rules, running = self.base, self.decoder.rules, len(self.adapter_B)
        placed = place_virtual(packed, base.own, base.token_rows, self.decoder.embedding, rules, base.dtype)
        first = placed.seen.num_segments - len(firsts)
        path_tokens = [placed.seen.path_tokens(first + number) for number in range(len(firsts))]
        tokens_N, place_N, slot_N = (x.to(base.device) for x in _laid_out(path_tokens, of_row, running))
        shape = (self.room[0], self.decoder.num_kv_heads, self.room[1], self.decoder.head_width)

        def attend(layer: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
            k_TGD, v_TGD = placed.sight(layer, k_TGD, v_TGD)
            if layer == len(self.keys):
                # Zeros: slots not yet written are masked, and a mask lets NaN through.
                self.keys.append(k_TGD.new_zeros(shape, dtype=self.dtype))
                self.values.append(v_TGD.new_zeros(shape, dtype=self.dtype))
            else:
                # So is what an ended row left in its place: it may be no number at all.
                for cache in (self.keys[layer], self.values[layer]):
                    cache[running : running + len(of_row)].zero_()
            self.keys[layer][place_N, :, slot_N] = k_TGD[tokens_N].to(self.dtype)
            self.values[layer][place_N, :, slot_N] = v_TGD[tokens_N].to(self.dtype)
            return placed.attend(q_THD, k_TGD, v_TGD, rules)

        routing = Routing(placed.site_runs)
        run, dtype = placed.run, self.base.dtype
        hidden_TD = run_blocks(
            self.decoder, run.ids_T, placed.positions_T, attend, routing, dtype=dtype, embedded_TD=placed.embedded_TD
        )
        device = self.base.device
        length_B = torch.tensor([len(path_tokens[number]) for number in of_row])
        self.length_B = torch.cat([self.length_B, length_B])
        self.place_B = torch.cat([self.place_B, torch.arange(running, running + len(prompts))])
        self.adapter_B += adapters
        last_B = torch.tensor([packed.start_S[number] + packed.length_S[number] - 1 for number in of_row])
        # The prompts are the run's last tokens.
        return hidden_TD[last_B.to(device) + run.num_tokens - packed.num_tokens].to(self.dtype)

    @torch.no_grad()
    def step(self, ids_B: Tensor) -> Tensor:
        """One token a row: its key and value go to the row's next slot, and it sees the slots up to there."""
        if (native_BD := self._native(ids_B)) is not None:
            return native_BD
        device = self.base.device
        # Attention works in the order of the cache, the layers in that of the adapters; the caller has its own.
        cached_B = torch.argsort(self.place_B)
        runs, by_adapter_B = _grouped([self.adapter_B[row] for row in cached_B.tolist()])
        slot_B = self.length_B[cached_B]
        end, ids_B, slot_B = int(slot_B.max()) + 1, ids_B[cached_B.to(device)], slot_B.to(device)
        if self.graphs is not None and by_adapter_B is None:
            hidden_BD = self.graphs(self._token_of, ids_B, slot_B, end, runs[0][2])
        else:
            hidden_BD = self._token(ids_B, slot_B, end, runs, None if by_adapter_B is None else by_adapter_B.to(device))
        self.length_B = self.length_B + 1
        return hidden_BD[self.place_B.to(device)]

    def _native(self, ids_B: Tensor) -> Tensor | None:
        """The same in one call; None where there is none for these adapters."""
        token = self.stepping.token
        if token is None:
            return None
        for adapter in set(self.adapter_B) - self._matrices.keys():
            # Nothing learns while rows are decoded.
            acting = None if num_virtual_tokens(self.base.own.get(adapter or "")) else adapter
            self._matrices[adapter] = token.matrices(self.decoder, acting)
        if any(self._matrices[adapter] is None for adapter in self.adapter_B):
            return None
        runs, order_B = _grouped(self.adapter_B)
        ids_B, slot_B, place_B = (_ordered(x, order_B) for x in (ids_B, self.length_B, self.place_B))
        x_BD = embed_runs(self.base.token_rows, ids_B, runs, self.decoder.embedding)
        x_BD = self.decoder.embedding(ids_B) if x_BD is None else x_BD
        cos_1BW, sin_1BW = self.decoder.rotary(x_BD.float()[None], slot_B[None])
        where, caches = (place_B, slot_B), (self.keys, self.values)
        hidden_BD: Tensor = token(x_BD, (cos_1BW[0], sin_1BW[0]), where, caches, runs, self._matrices)
        self.length_B = self.length_B + 1
        return _unordered(hidden_BD, order_B)

    def _token_of(self, ids_B: Tensor, slot_B: Tensor, end: int, adapter: str | None) -> Tensor:
        return self._token(ids_B, slot_B, end, [(0, len(ids_B), adapter)], None)

    def _token(
        self, ids_B: Tensor, slot_B: Tensor, end: int, runs: Sequence[Run], by_adapter_B: Tensor | None
    ) -> Tensor:
        """Hidden states (B, D) of rows in the order of the cache; ``end`` slots are seen. Nothing here asks the device.

        by_adapter_B: the order in which the runs are those of the adapters.
        """
        rules = self.decoder.rules
        rows_B = torch.arange(len(ids_B), device=ids_B.device)
        slots_L = torch.arange(end, device=ids_B.device)
        seen_BL = slots_L[None] <= slot_B[:, None]
        if rules.window is not None:
            seen_BL &= slots_L[None] > slot_B[:, None] - rules.window
        # What attention makes of a mask of truth values, made once and not in every layer.
        mask = torch.zeros(seen_BL.shape, dtype=self.dtype, device=seen_BL.device)
        mask = mask.masked_fill_(~seen_BL, float("-inf"))[:, None, None]

        def attend(layer: int, *qkv: Tensor) -> Tensor:
            q_BHD, k_BGD, v_BGD = (_unordered(x, by_adapter_B).to(self.dtype) for x in qkv)
            keys, values = self.keys[layer][: len(rows_B)], self.values[layer][: len(rows_B)]
            keys[rows_B, :, slot_B], values[rows_B, :, slot_B] = k_BGD, v_BGD
            # Heads of one group become query rows of one key head: the keys are read once, not once a head.
            batch, heads, width = q_BHD.shape
            q = q_BHD.reshape(batch, self.decoder.num_kv_heads, -1, width)
            mixed = scaled_dot_product_attention(
                q, keys[:, :, :end], values[:, :, :end], attn_mask=mask, scale=rules.scale
            )
            return _ordered(mixed.reshape(batch, heads, width), by_adapter_B).to(self.base.dtype)

        ids_B, position_B = _ordered(ids_B, by_adapter_B), _ordered(slot_B, by_adapter_B)
        return _unordered(self._run(ids_B, position_B, attend, runs), by_adapter_B).to(self.dtype)

    @torch.no_grad()
    def keep(self, rows: Sequence[int]) -> None:
        """Rows behind the new end of the cache move into the places of rows that ended; no other row is copied."""
        places = [int(self.place_B[row]) for row in rows]
        free = sorted(set(range(len(rows))) - set(places))
        moves = {place: free.pop() for place in places if place >= len(rows)}
        for cache in (self.keys, self.values):
            for tensor in cache:
                for source, target in moves.items():
                    tensor[target] = tensor[source]
        self.place_B = torch.tensor([moves.get(place, place) for place in places], dtype=torch.int64)
        self.length_B = self.length_B[torch.tensor(list(rows), dtype=torch.int64)]
        self.adapter_B = [self.adapter_B[row] for row in rows]

    def _run(self, ids_B: Tensor, positions_B: Tensor, attend: Any, runs: Sequence[Run]) -> Tensor:
        embedded = embed_runs(self.base.token_rows, ids_B, runs, self.decoder.embedding)
        routing = Routing(at_sites(runs, self.base.own))
        dtype = self.base.dtype
        return run_blocks(self.stepping, ids_B, positions_B, attend, routing, dtype=dtype, embedded_TD=embedded)


class ReferenceDecoding:
    """Row by row through transformers' own cache: any causal model, no batching."""

    def __init__(self, base: Base, adapter_B: Sequence[str | None]) -> None:
        self.base, self.adapter_B = base, list(adapter_B)
        self.caches: list[Any] = []

    @torch.no_grad()
    def prefill(self, prompts: Sequence[NDArray[np.int64]]) -> Tensor:
        """Each distinct prompt alone, behind its adapter's virtual tokens; its rows take copies of its cache."""
        firsts, of_row = distinct_rows(prompts, self.adapter_B)
        caches, states = [], []
        for row in firsts:
            adapter = self.adapter_B[row]
            own, ids_L = self.base.own.get(adapter or ""), torch.from_numpy(prompts[row]).to(self.base.device)
            inputs = self._inputs(ids_L, adapter, own)
            caches.append(inputs.pop("past_key_values", None) or DynamicCache(config=self.base.model.config))
            states.append(self._append(caches[-1], inputs, adapter))
        self.caches = [deepcopy(caches[number]) for number in of_row]
        return torch.stack([states[number] for number in of_row])

    @torch.no_grad()
    def step(self, ids_B: Tensor) -> Tensor:
        rows = zip(self.caches, torch.split(ids_B, 1), self.adapter_B, strict=True)
        return torch.stack([self._append(cache, self._inputs(ids, name, None), name) for cache, ids, name in rows])

    def keep(self, rows: Sequence[int]) -> None:
        self.caches, self.adapter_B = [self.caches[row] for row in rows], [self.adapter_B[row] for row in rows]

    def _inputs(self, ids_L: Tensor, adapter: str | None, own: nn.Module | None) -> dict[str, Any]:
        rows = self.base.token_rows.get(adapter or "")
        return reference_inputs(self.base.model, ids_L[None], rows, own, self.base.dtype)

    def _append(self, cache: Any, inputs: Mapping[str, Any], adapter: str | None) -> Tensor:
        # A layer is told by what it is given how many tokens there are.
        routing = Routing(((0, 0, adapter),))
        decoder = self.base.model.get_decoder()
        out = call_routed(decoder, routing, **{**inputs, "past_key_values": cache, "use_cache": True})
        return out.last_hidden_state[0, -1].to(self.base.dtype)  # type: ignore[no-any-return]


def _laid_out(path_tokens: Sequence[Tensor], of_row: Sequence[int], running: int) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, places, slots) of all that the cache takes from a pack: every row's path, the first from slot 0 on."""
    paths = [path_tokens[number] for number in of_row]
    lengths = torch.tensor([len(path) for path in paths])
    place_N = torch.arange(running, running + len(paths)).repeat_interleave(lengths)
    return torch.cat(paths), place_N, torch.cat([torch.arange(len(path)) for path in paths])


def _grouped(adapter_B: Sequence[str | None]) -> tuple[list[Run], Tensor | None]:
    """Runs over rows put in the order of their adapters, and that order (B,); None where one adapter answers all."""
    order = sorted(range(len(adapter_B)), key=lambda row: (adapter_B.index(adapter_B[row]), row))
    runs: list[Run] = []
    for adapter, rows in itertools.groupby(adapter_B[row] for row in order):
        begin = runs[-1][1] if runs else 0
        runs.append((begin, begin + len(list(rows)), adapter))
    return runs, torch.tensor(order) if len(runs) > 1 else None


def _ordered(rows: Tensor, order_B: Tensor | None) -> Tensor:
    return rows if order_B is None else rows[order_B]


def _unordered(rows: Tensor, order_B: Tensor | None) -> Tensor:
    """What ``_ordered`` was made of."""
    return rows if order_B is None else torch.empty_like(rows).index_copy_(0, order_B, rows)
