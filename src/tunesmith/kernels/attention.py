"""Causal attention inside the segments of a packed forest, with exact isolation on every device.

Shape letters: T tokens, H query heads, G key/value heads (H a multiple of G), D head width, B segments of a
bucket, L padded length of a bucket.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tunesmith.tokens.pack import Packed

# Below this length batched matrix products beat torch's flash kernel on CPUs (bench/LOG.md), and the saved
# probabilities stay small; above it flash keeps memory linear in the length.
MATMUL_MAX_TOKENS = 256
# Rows of one bucket may differ in length by this share: the padding it costs against the calls it saves.
BUCKET_SLACK = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRules:
    """scale of the scores, sliding ``window`` in tokens (None: all), ``softcap`` (tanh) of the scores."""

    scale: float
    window: int | None = None
    softcap: float | None = None


def attention_reference(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, packed: Packed, rules: AttentionRules) -> Tensor:
    """The definition, segment by segment with an explicit mask: (T, H, D).

    A token sees its ancestors and the tokens before it in its own segment, at most ``window`` positions back
    (Vaswani et al. 2017, arXiv:1706.03762, equation 1). Any forest, any rule; slow.
    """
    groups = q_THD.shape[1] // k_TGD.shape[1]
    out = []
    for segment, (start, length) in enumerate(zip(packed.start_S, packed.length_S, strict=True)):
        path = [*packed.ancestors(segment), segment]
        keys = torch.cat([torch.arange(packed.start_S[s], packed.start_S[s] + packed.length_S[s]) for s in path])
        keys = keys.to(q_THD.device)
        own = slice(start, start + length)
        k_HKD = k_TGD[keys].repeat_interleave(groups, dim=1).transpose(0, 1)
        v_HKD = v_TGD[keys].repeat_interleave(groups, dim=1).transpose(0, 1)
        scores_HLK = (q_THD[own].transpose(0, 1) @ k_HKD.transpose(1, 2)) * rules.scale
        if rules.softcap is not None:
            scores_HLK = rules.softcap * torch.tanh(scores_HLK / rules.softcap)
        distance_LK = packed.positions_T[own, None] - packed.positions_T[keys][None]
        hidden_LK = distance_LK < 0 if rules.window is None else (distance_LK < 0) | (distance_LK >= rules.window)
        scores_HLK = scores_HLK.masked_fill(hidden_LK, -math.inf)
        wide = scores_HLK if scores_HLK.dtype == torch.float64 else scores_HLK.float()
        out.append((torch.softmax(wide, dim=-1).to(v_HKD.dtype) @ v_HKD).transpose(0, 1))
    return torch.cat(out)


class _BucketAttention(torch.autograd.Function):
    """Causal attention over (B, L) rows by batched products; padded rows end a segment, so causality hides them."""

    @staticmethod
    def forward(ctx: Any, q_BHLD: Tensor, k_BGLD: Tensor, v_BGLD: Tensor, scale: float) -> Tensor:
        batch, heads, length, width = q_BHLD.shape
        kv_heads = k_BGLD.shape[1]
        # The query heads of one key head are laid end to end, so keys are never repeated in memory.
        q = q_BHLD.reshape(batch * kv_heads, (heads // kv_heads) * length, width)
        k, v = k_BGLD.reshape(batch * kv_heads, length, width), v_BGLD.reshape(batch * kv_heads, length, width)
        scores = torch.bmm(q, k.transpose(1, 2)).view(batch * kv_heads, heads // kv_heads, length, length)
        wide = scores if scores.dtype == torch.float64 else scores.float()
        future_LL = torch.ones(length, length, dtype=torch.bool, device=q.device).triu_(1)
        wide = wide.mul_(scale).masked_fill_(future_LL, -math.inf)
        probs = torch.softmax(wide, dim=-1).to(q.dtype).view(batch * kv_heads, -1, length)
        out = torch.bmm(probs, v)
        ctx.save_for_backward(q, k, v, probs, out)
        ctx.scale = scale
        return out.view(batch, heads, length, width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, probs, out = ctx.saved_tensors
        batch, heads, length, width = grads[0].shape
        kv_heads = q.shape[0] // batch
        grad = grads[0].reshape(q.shape)
        grad_v = torch.bmm(probs.transpose(1, 2), grad)
        grad_probs = torch.bmm(grad, v.transpose(1, 2))
        # softmax backward: p * (dp - sum(p dp)), and sum(p dp) = sum(dout * out)
        row = (grad * out).sum(-1, keepdim=True)
        grad_scores = grad_probs.sub_(row).mul_(probs).mul_(ctx.scale)
        grad_q = torch.bmm(grad_scores, k).view(batch, heads, length, width)
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q).view(batch, kv_heads, length, width)
        return grad_q, grad_k, grad_v.view(batch, kv_heads, length, width), None


@dataclass(frozen=True, slots=True)
class Bucket:
    """Segments of similar length: gather_BL are token indices (padding repeats a real token), length of each."""

    gather_BL: Tensor
    length_B: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """How one pack is attended to: made once a pack, used by every layer."""

    packed: Packed
    buckets: tuple[Bucket, ...] | None
    scatter_T: Tensor | None


def plan_attention(packed: Packed, rules: AttentionRules) -> AttentionPlan:
    """Sort a roots-only pack into buckets; forests, windows and caps take the reference path."""
    longest = max(packed.length_S)
    windowed = rules.window is not None and rules.window < longest
    if not packed.only_roots or windowed or rules.softcap is not None:
        return AttentionPlan(packed, None, None)
    device = packed.ids_T.device
    order = sorted(range(packed.num_segments), key=lambda s: -packed.length_S[s])
    buckets: list[Bucket] = []
    scatter_T = torch.empty(packed.num_tokens, dtype=torch.int64)
    offset = 0
    while order:
        top = packed.length_S[order[0]]
        members = [s for s in order if packed.length_S[s] >= top * (1 - BUCKET_SLACK)]
        order = order[len(members) :]
        rows = []
        for row, s in enumerate(members):
            start, length = packed.start_S[s], packed.length_S[s]
            rows.append(torch.arange(start, start + top).clamp_(max=start + length - 1))
            scatter_T[start : start + length] = offset + row * top + torch.arange(length)
        offset += len(members) * top
        buckets.append(Bucket(torch.stack(rows).to(device), tuple(packed.length_S[s] for s in members)))
    return AttentionPlan(packed, tuple(buckets), scatter_T.to(device))


def packed_attention(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, plan: AttentionPlan, rules: AttentionRules) -> Tensor:
    """(T, H, D): attention within each segment of the plan's pack; equals ``attention_reference``."""
    if plan.buckets is None or plan.scatter_T is None:
        return attention_reference(q_THD, k_TGD, v_TGD, plan.packed, rules)
    heads, width = q_THD.shape[1:]
    out = []
    for bucket in plan.buckets:
        batch, length = bucket.gather_BL.shape
        index = bucket.gather_BL.reshape(-1)

        def rows(x_THD: Tensor, index: Tensor = index, batch: int = batch, length: int = length) -> Tensor:
            return x_THD.index_select(0, index).view(batch, length, -1, width).transpose(1, 2)

        q, k, v = rows(q_THD), rows(k_TGD), rows(v_TGD)
        if length <= MATMUL_MAX_TOKENS and q.device.type == "cpu":
            mixed = _BucketAttention.apply(q, k, v, rules.scale)  # type: ignore[no-untyped-call]
        else:
            mixed = scaled_dot_product_attention(q, k, v, is_causal=True, scale=rules.scale, enable_gqa=True)
        out.append(mixed.transpose(1, 2).reshape(batch * length, heads, width))
    return torch.cat(out).index_select(0, plan.scatter_T)
