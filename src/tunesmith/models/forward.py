"""One forward for everything: a base, a packed forest, and what is wanted of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from tunesmith.kernels.head_loss import (
    WeightGrad,
    at_temperature,
    ce_sum,
    reference_logprobs,
    scored_logprobs,
    target_logprobs,
    token_logprobs,
)
from tunesmith.models.blocks import Checkpointing, Decoder, run_blocks
from tunesmith.models.encoder_decoder import decoder_states
from tunesmith.models.linear import Routing
from tunesmith.models.reference import run_segment
from tunesmith.models.roles import Base, LinearHead, ScalarHead
from tunesmith.models.token_rows import head_for
from tunesmith.models.virtual import Placed, place_virtual
from tunesmith.tokens.pack import Packed

Want = Literal["ce_sum", "target_logprobs", "token_logprobs", "reference_logprobs"]
DropoutSeed = Callable[[int], int]


def hidden_states(
    base: Base, packed: Packed, *, dropout_seed: DropoutSeed | None = None, checkpointing: Checkpointing = False
) -> Tensor:
    """Final hidden states (T, D) of a packed forest; the adapter of each segment is ``packed.adapter_S``.

    With a source stream they are the decoder's, which has read the encoder's states of its row. Virtual tokens of the
    adapters are put before the rows here, and no state of theirs is given back.
    dropout_seed: row id -> seed of that row's dropout in this step; None switches dropout off.
    """
    if base.is_encoder_decoder != (packed.source is not None):
        raise ValueError("an encoder-decoder model, and no other, takes a source stream")
    seeds = None if dropout_seed is None else tuple(dropout_seed(row) for row in packed.row_id_S)
    packed = packed.to(base.device)
    if packed.source is not None:
        return decoder_states(base, packed, seeds, checkpointing)
    if base.decoder is None:
        return _reference_states(base, packed, seeds, checkpointing)
    decoder = base.decoder
    placed = place_virtual(packed, base.own, base.token_rows, decoder.embedding, decoder.rules, base.dtype)
    if seeds is not None:
        seeds = (*[0] * (placed.run.num_segments - packed.num_segments), *seeds)
    states_TD = run_blocks(
        decoder,
        placed.run.ids_T,
        placed.positions_T,
        _attend_packed(decoder, placed),
        Routing(placed.site_runs, seeds, placed.run.length_S),
        dtype=base.dtype,
        checkpointing=checkpointing,
        embedded_TD=placed.embedded_TD,
    )
    return states_TD[placed.run.num_tokens - packed.num_tokens :]


def forward(
    base: Base,
    packed: Packed,
    want: Want,
    *,
    weight_grad: WeightGrad = "none",
    dropout_seed: DropoutSeed | None = None,
    checkpointing: Checkpointing = False,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Run a pack and reduce it at the head, without ever holding its logits.

    ce_sum -> (loss sum in nats, loss weight sum), both scalars: divide once, at the step.
    target_logprobs -> (logprobs_N, loss weight_N), cheaper than those with an entropy, in the same order.
    token_logprobs, reference_logprobs -> (logprobs_N, entropy_N) in the order of ``packed.loss_pairs()``.
    temperature: divides the logits, so that all of it is of the distribution that sampling at it draws from.
    """
    if want == "reference_logprobs":
        with torch.no_grad():
            hidden_TD = hidden_states(base, packed)
    else:
        hidden_TD = hidden_states(base, packed, dropout_seed=dropout_seed, checkpointing=checkpointing)
    source_N, target_N, weight_N = (x.to(base.device) for x in packed.loss_pairs())
    hidden_ND = hidden_TD.index_select(0, source_N)
    head, weight_grad, rows_R = head_for(base.token_rows, base.head, packed.adapter_S, weight_grad)
    head = at_temperature(head, temperature)
    # A product's rounding may depend on how many rows it has: on the reference path each segment has its own.
    sizes = [len(target_N)] if base.decoder is not None else packed.num_loss_tokens_S() or [0]
    parts = list(zip(*(torch.split(x, sizes) for x in (hidden_ND, target_N, weight_N)), strict=True))
    if want == "ce_sum":
        sums = [ce_sum(hidden, target, weight, head, weight_grad, rows_R) for hidden, target, weight in parts]
        return torch.stack(sums).sum(), weight_N.double().sum()
    if want == "target_logprobs" and weight_grad == "none":
        return torch.cat([target_logprobs(hidden, target, head) for hidden, target, _ in parts]), weight_N
    if want in ("token_logprobs", "target_logprobs"):
        pairs = [token_logprobs(hidden, target, head, weight_grad, rows_R) for hidden, target, _ in parts]
    else:
        pairs = [reference_logprobs(hidden, target, head) for hidden, target, _ in parts]
    logprobs, entropies = zip(*pairs, strict=True)
    return torch.cat(logprobs), weight_N if want == "target_logprobs" else torch.cat(entropies)


@torch.no_grad()
def scored_targets(base: Base, packed: Packed) -> list[tuple[list[float], list[bool]]]:
    """For each segment with tokens in the loss, in order: their log-probabilities and whether each was the likeliest.

    A segment's numbers are bit-equal on the reference path whatever else is in the pack.
    """
    hidden_TD = hidden_states(base, packed)
    source_N, target_N, _ = (x.to(base.device) for x in packed.loss_pairs())
    head, _, _ = head_for(base.token_rows, base.head, packed.adapter_S, "none")
    sizes = packed.num_loss_tokens_S()
    hidden_ND = hidden_TD.index_select(0, source_N)
    # One product for all on the fast path; on the reference path each segment has its own (see ``forward``).
    parts = sizes if base.decoder is None else [sum(sizes)]
    pieces = zip(torch.split(hidden_ND, parts), torch.split(target_N, parts), strict=True)
    logprobs, greedy = zip(*(scored_logprobs(hidden, target, head) for hidden, target in pieces), strict=True)
    values_N, greedy_N = torch.cat(logprobs).double().tolist(), torch.cat(greedy).tolist()
    ends = list(itertools.accumulate(sizes))
    return [(values_N[end - size : end], greedy_N[end - size : end]) for end, size in zip(ends, sizes, strict=True)]


def head_values(
    base: Base,
    packed: Packed,
    head: LinearHead,
    index_N: Tensor,
    *,
    dropout_seed: DropoutSeed | None = None,
    checkpointing: Checkpointing = False,
) -> Tensor:
    """A linear head's numbers at the given tokens of a pack: (N, K), of a scalar head (N,)."""
    hidden_TD = hidden_states(base, packed, dropout_seed=dropout_seed, checkpointing=checkpointing)
    hidden_ND = hidden_TD.index_select(0, index_N.to(hidden_TD.device))
    # A product's rounding may depend on how many rows it has: on the reference path each has its own.
    rows = [hidden_ND] if base.decoder is not None else list(torch.split(hidden_ND, 1))
    return torch.cat([head(row_ND) for row_ND in rows])


def scalar_values(
    base: Base,
    packed: Packed,
    head: ScalarHead,
    index_N: Tensor,
    *,
    dropout_seed: DropoutSeed | None = None,
    checkpointing: Checkpointing = False,
) -> Tensor:
    """A scalar head's numbers (N,) at the given tokens of a pack: rewards at answers' ends, values at their tokens."""
    return head_values(base, packed, head, index_N, dropout_seed=dropout_seed, checkpointing=checkpointing)


def _attend_packed(decoder: Decoder, placed: Placed) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
    def attend(layer: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        return placed.attend(q_THD, *placed.sight(layer, k_TGD, v_TGD), decoder.rules)

    return attend


def _reference_states(
    base: Base, packed: Packed, seeds: tuple[int, ...] | None, checkpointing: Checkpointing
) -> Tensor:
    """Every path from a root is run alone; a segment's own states are the tail of its path."""
    out = []
    for segment, length in enumerate(packed.length_S):
        path = [*packed.ancestors(segment), segment]
        if len({packed.adapter_S[s] for s in path}) > 1:
            raise ValueError("a path through the forest must use one adapter on the reference path")
        index = packed.path_tokens(segment)
        seed = None if seeds is None else seeds[segment]
        adapter = packed.adapter_S[segment]
        states_LD = run_segment(base, packed.ids_T[index], packed.positions_T[index], adapter, seed, checkpointing)
        out.append(states_LD[-length:])
    return torch.cat(out).to(base.dtype)
