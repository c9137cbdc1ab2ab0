"""Causal attention inside the segments of a packed forest, with exact isolation on every device.

Shape letters: T tokens, H query heads, G key/value heads (H a multiple of G), D head width, B segments of a
bucket, L padded length of a bucket, A tokens of its ancestors, M = A + L keys.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tunesmith.kernels.native_attention import Trees, plan_trees, takes, tree_attention
from tunesmith.tokens.pack import Packed

# Below this length batched matrix products beat torch's flash kernel on CPUs (bench/LOG.md), and the saved
# probabilities stay small; above it flash keeps memory linear in the length.
MATMUL_MAX_TOKENS = 256
# Rows with ancestors cannot use flash's causal half, so products stay ahead for longer; this bounds what they save.
MATMUL_MAX_SCORES = 256 * 1024
# A multiple of 8 up to this is what torch's flash kernels take on every card: beyond it consumer cards (Ampere, Ada)
# refuse some widths in the backward pass, and torch's own attention knows which.
FLASH_MAX_WIDTH = 192
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
    """Attention of (B, L) rows to M - L keys before each row and causally to its own, by batched products.

    Padded rows end a segment, so causality hides them.
    """

    @staticmethod
    def forward(ctx: Any, q_BHLD: Tensor, k_BGMD: Tensor, v_BGMD: Tensor, scale: float) -> Tensor:
        batch, heads, length, width = q_BHLD.shape
        kv_heads, num_keys = k_BGMD.shape[1:3]
        # The query heads of one key head are laid end to end, so keys are never repeated in memory.
        groups = heads // kv_heads
        # The scale goes onto the queries, which are fewer numbers than the scores.
        q = (q_BHLD * scale).reshape(batch * kv_heads, groups * length, width)
        k, v = (x.reshape(batch * kv_heads, num_keys, width) for x in (k_BGMD, v_BGMD))
        hidden_LM = _hidden(length, num_keys, q.device)
        future_LM = torch.zeros(length, num_keys, dtype=q.dtype, device=q.device).masked_fill_(hidden_LM, -math.inf)
        # The mask is what the product is added to: no pass of its own over the scores.
        scores = torch.baddbmm(future_LM.repeat(groups, 1)[None], q, k.transpose(1, 2))
        wide = scores if scores.dtype == torch.float64 else scores.float()
        probs = torch.softmax(wide, dim=-1).to(q.dtype)
        out = torch.bmm(probs, v)
        ctx.save_for_backward(q, k, v, probs, out)
        ctx.scale = scale
        return out.view(batch, heads, length, width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, probs, out = ctx.saved_tensors
        batch, heads, length, width = grads[0].shape
        kv_heads, num_keys = q.shape[0] // batch, k.shape[1]
        grad = grads[0].reshape(q.shape)
        grad_v = torch.bmm(probs.transpose(1, 2), grad)
        grad_probs = torch.bmm(grad, v.transpose(1, 2))
        # softmax backward: p * (dp - sum(p dp)), and sum(p dp) = sum(dout * out)
        row = (grad * out).sum(-1, keepdim=True)
        grad_scores = grad_probs.sub_(row).mul_(probs)
        grad_q = torch.bmm(grad_scores, k).mul_(ctx.scale).view(batch, heads, length, width)
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q).view(batch, kv_heads, num_keys, width)
        return grad_q, grad_k, grad_v.view(batch, kv_heads, num_keys, width), None


def _hidden(length: int, num_keys: int, device: torch.device) -> Tensor:
    """(L, M) bool: the keys that the last L of M tokens must not see, those behind each."""
    return torch.ones(length, num_keys, dtype=torch.bool, device=device).triu_(num_keys - length + 1)


class _ToRows(torch.autograd.Function):
    """Copy tokens to their places in the buckets; places of padding repeat a real token."""

    @staticmethod
    def forward(ctx: Any, x_THD: Tensor, gather_P: Tensor, place_T: Tensor) -> Tensor:
        ctx.place_T = place_T
        return x_THD.index_select(0, gather_P)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Nothing reads what a padded query gives, and only padded queries see padded keys: their gradients are zero,
        # so the copies need not be summed up, which would cost an eighth of a training step.
        return grads[0].index_select(0, ctx.place_T), None, None


class _FromRows(torch.autograd.Function):
    """Copy the buckets' places back to their tokens, leaving padding out."""

    @staticmethod
    def forward(ctx: Any, x_PHD: Tensor, gather_P: Tensor, place_T: Tensor, padding_N: Tensor) -> Tensor:
        ctx.gather_P, ctx.padding_N = gather_P, padding_N
        return x_PHD.index_select(0, place_T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0].index_select(0, ctx.gather_P).index_fill_(0, ctx.padding_N, 0), None, None, None


@dataclass(frozen=True, slots=True)
class Bucket:
    """Children of one parent (or roots) of like length: num_rows rows of ``length`` places, below the path ``above``.

    above: the ancestors they share, root first, as indices of segments.
    """

    num_rows: int
    length: int
    above: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Buckets:
    """Segments sorted into rows of like length under one parent, laid end to end as P places.

    gather_P: the token of each place. place_T: the place of each token. padding_N: the places that only repeat a
    token. in_order: every token already stands at its place.
    """

    buckets: tuple[Bucket, ...]
    gather_P: Tensor
    place_T: Tensor
    padding_N: Tensor
    in_order: bool


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """How one pack is attended to: made once a pack, used by every layer; without buckets by the reference.

    edges_S: int32, where each root begins and the last one ends, for a kernel that takes rows of any lengths as they
    lie; only on a GPU, and only where no segment has a parent. trees: the segments for the compiled kernel; only on a
    processor.
    """

    packed: Packed
    buckets: Buckets | None
    edges_S: Tensor | None = None
    trees: Trees | None = None


def plan_attention(packed: Packed, rules: AttentionRules) -> AttentionPlan:
    """Sort a pack's segments; caps take the reference path, and windows where no kernel takes the tensors."""
    longest = int(packed.positions_T.max()) + 1
    windowed = rules.window is not None and rules.window < longest
    device = packed.ids_T.device
    trees = plan_trees(packed) if device.type == "cpu" and rules.softcap is None else None
    if windowed or rules.softcap is not None:
        return AttentionPlan(packed, None, None, trees)
    buckets: list[Bucket] = []
    rows: list[Tensor] = []
    place_T = torch.empty(packed.num_tokens, dtype=torch.int64)
    offset = 0
    for members in _like_siblings(packed):
        length = packed.length_S[members[0]]
        for s in members:
            start, end = packed.start_S[s], packed.start_S[s] + packed.length_S[s]
            rows.append(torch.arange(start, start + length).clamp_(max=end - 1))
            place_T[start:end] = offset + torch.arange(end - start)
            offset += length
        buckets.append(Bucket(len(members), length, tuple(packed.ancestors(members[0]))))
    gather_P = torch.cat(rows)
    padding_N = torch.nonzero(place_T[gather_P] != torch.arange(offset)).squeeze(1)
    in_order = torch.equal(gather_P, torch.arange(packed.num_tokens))
    edges_S = None
    if device.type == "cuda" and packed.only_roots:
        edges_S = torch.tensor([*packed.start_S, packed.num_tokens], dtype=torch.int32).to(device)
    return AttentionPlan(
        packed,
        Buckets(tuple(buckets), gather_P.to(device), place_T.to(device), padding_N.to(device), in_order),
        edges_S,
        trees,
    )


def _like_siblings(packed: Packed) -> list[list[int]]:
    """Segments of one parent, the roots being siblings too, cut into lists of like length, longest first."""
    children: dict[int, list[int]] = {}
    for s, parent in enumerate(packed.parent_S):
        children.setdefault(parent, []).append(s)
    out: list[list[int]] = []
    for siblings in children.values():
        order = sorted(siblings, key=lambda s: -packed.length_S[s])
        while order:
            shortest = packed.length_S[order[0]] * (1 - BUCKET_SLACK)
            out.append([s for s in order if packed.length_S[s] >= shortest])
            order = order[len(out[-1]) :]
    return out


def packed_attention(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, plan: AttentionPlan, rules: AttentionRules) -> Tensor:
    """(T, H, D): attention along the paths of the plan's pack; equals ``attention_reference``."""
    if plan.trees is not None and takes(q_THD, k_TGD, v_TGD):
        return tree_attention(q_THD, k_TGD, v_TGD, plan.trees, rules.scale, rules.window)
    planned = plan.buckets
    if planned is None:
        return attention_reference(q_THD, k_TGD, v_TGD, plan.packed, rules)
    if plan.edges_S is not None and _flash_takes(q_THD) and flash_fault(q_THD.device) is None:
        return _flash_rows(q_THD, k_TGD, v_TGD, plan.edges_S, max(plan.packed.length_S), rules.scale)
    sizes = [bucket.num_rows * bucket.length for bucket in planned.buckets]

    def rows(x_THD: Tensor) -> tuple[Tensor, ...]:
        if not planned.in_order:
            x_THD = _ToRows.apply(x_THD, planned.gather_P, planned.place_T)  # type: ignore[no-untyped-call]
        return torch.split(x_THD, sizes) if len(sizes) > 1 else (x_THD,)

    parts = zip(
        rows(q_THD),
        _under(rows(k_TGD), k_TGD, plan.packed, planned.buckets),
        _under(rows(v_TGD), v_TGD, plan.packed, planned.buckets),
        planned.buckets,
        strict=True,
    )
    out = [_attend_bucket(q, k_BGMD, v_BGMD, bucket, rules) for q, k_BGMD, v_BGMD, bucket in parts]
    mixed_PHD = torch.cat(out) if len(out) > 1 else out[0]
    if planned.in_order:
        return mixed_PHD
    return _FromRows.apply(  # type: ignore[no-any-return, no-untyped-call]
        mixed_PHD, planned.gather_P, planned.place_T, planned.padding_N
    )


def _under(own: Sequence[Tensor], x_TGD: Tensor, packed: Packed, buckets: Sequence[Bucket]) -> list[Tensor]:
    """Keys or values (B, G, M, D) of each bucket: those of the shared ancestors before each row's own.

    The copies' gradients are summed over the rows of a bucket, then over the buckets in a fixed order.
    """
    # One split for all buckets: its backward pass lays the gradients of all ancestors into one tensor.
    segments: Sequence[Tensor] = () if packed.only_roots else torch.split(x_TGD, list(packed.length_S))
    out = []
    for x, bucket in zip(own, buckets, strict=True):
        x_BGLD = x.view(bucket.num_rows, bucket.length, *x.shape[1:]).transpose(1, 2)
        if bucket.above:
            above_GAD = torch.cat([segments[s] for s in bucket.above]).transpose(0, 1)
            x_BGLD = torch.cat([above_GAD.expand(bucket.num_rows, -1, -1, -1), x_BGLD], dim=2)
        out.append(x_BGLD)
    return out


def _flash_takes(q_THD: Tensor) -> bool:
    width = q_THD.shape[-1]
    return q_THD.dtype in (torch.bfloat16, torch.float16) and width % 8 == 0 and width <= FLASH_MAX_WIDTH


def _flash_rows(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, edges_S: Tensor, longest: int, scale: float) -> Tensor:
    """Causal attention inside each row by one call of the flash kernel torch carries (arXiv:2307.08691): (T, H, D)."""
    return torch.ops.aten._flash_attention_forward(  # type: ignore[no-any-return]
        q_THD, k_TGD, v_TGD, edges_S, edges_S, longest, longest, 0.0, True, False, scale=scale
    )[0]


@functools.cache
def flash_fault(device: torch.device) -> str | None:
    """Why this device's rows are not given to that kernel, which is no public part of torch; None: they are.

    It is run once, forward and backward, on rows of two lengths and grouped heads, and held against the definition.
    """
    if device.type != "cuda":
        return "it runs on NVIDIA GPUs"
    lengths, rules = (5, 3), AttentionRules(scale=0.25)
    draws = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(8, heads, 16, generator=draws).to(device) for heads in (4, 2, 2))
    edges_S = torch.tensor([0, 5, 8], dtype=torch.int32, device=device)
    positions_T = torch.tensor([*range(5), *range(3)], device=device)
    rows = Packed(
        ids_T=positions_T,
        positions_T=positions_T,
        loss_weight_T=positions_T.float(),
        start_S=(0, 5),
        length_S=lengths,
        parent_S=(-1, -1),
        adapter_S=(None, None),
        num_virtual_S=(0, 0),
        row_id_S=(0, 1),
    )
    try:
        with torch.enable_grad():
            halves = [x.to(torch.float16).requires_grad_() for x in (q, k, v)]
            wide = [x.detach().float().requires_grad_() for x in halves]
            ours = _flash_rows(halves[0], halves[1], halves[2], edges_S, 5, rules.scale)
            theirs = attention_reference(wide[0], wide[1], wide[2], rows, rules)
            found = torch.autograd.grad(ours.float().square().sum(), halves)
            wanted = torch.autograd.grad(theirs.square().sum(), wide)
    except (RuntimeError, NotImplementedError, TypeError, AttributeError) as error:
        return str(error).splitlines()[0]
    pairs = zip((ours.detach(), *found), (theirs.detach(), *wanted), strict=True)
    gaps = [float((a.float() - b).abs().max()) for a, b in pairs]
    return None if max(gaps) < 0.02 else f"it differs from the definition by {max(gaps):.2g}"


def _attend_bucket(q: Tensor, k_BGMD: Tensor, v_BGMD: Tensor, bucket: Bucket, rules: AttentionRules) -> Tensor:
    """(rows x places, H, D) of one bucket -> the same shape."""
    q_BHLD = q.view(bucket.num_rows, bucket.length, *q.shape[1:]).transpose(1, 2)
    length, num_keys = bucket.length, k_BGMD.shape[2]
    short = length <= MATMUL_MAX_TOKENS and length * num_keys <= MATMUL_MAX_SCORES
    if short and q.device.type == "cpu":
        mixed = _BucketAttention.apply(q_BHLD, k_BGMD, v_BGMD, rules.scale)  # type: ignore[no-untyped-call]
    else:
        # torch's own causal mask begins at the first key; rows with ancestors bring theirs.
        seen_LM = ~_hidden(length, num_keys, q.device) if bucket.above else None
        groups = q_BHLD.shape[1] // k_BGMD.shape[1]
        if q.device.type == "cuda" and groups > 1 and (seen_LM is not None or q.dtype == torch.float32):
            # Flash takes neither a mask nor fp32, and the kernel that does, in linear memory too, no grouped heads.
            k_BGMD, v_BGMD = (x.repeat_interleave(groups, dim=1) for x in (k_BGMD, v_BGMD))
        mixed = scaled_dot_product_attention(
            q_BHLD, k_BGMD, v_BGMD, attn_mask=seen_LM, is_causal=seen_LM is None, scale=rules.scale, enable_gqa=True
        )
    return mixed.transpose(1, 2).reshape(q.shape)  # type: ignore[no-any-return]
