"""Attention of a packed forest by ``c/attention.c``: forward and backward, in fp32 or bf16, on a processor.

Shape letters: T tokens, H query heads, G key/value heads, D head width, S segments.
"""

from __future__ import annotations

import ctypes as c
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels.native import BLOCK, MOST_LANES, MOST_WIDTH, Attention, address, floats, kernels, serves
from tunesmith.tokens.pack import ROOT, Packed

# With fewer pieces of work than this the query heads of a key head are pieces of their own.
FEW_PIECES = 8


@dataclass(frozen=True, slots=True)
class Trees:
    """A pack's segments by the root they hang from, the most work first.

    first_member (trees + 1) cuts member (S), which lists each tree's segments, parents first; block_S: the number of a
    segment's first block of keys in its tree. All int64.
    """

    num_trees: int
    most_blocks: int
    positions_T: Tensor
    first_member: Tensor
    member: Tensor
    start_S: Tensor
    length_S: Tensor
    parent_S: Tensor
    block_S: Tensor


def plan_trees(packed: Packed) -> Trees:
    """Sort the segments of a pack into trees."""
    members: dict[int, list[int]] = {}
    root_S: list[int] = []
    work: dict[int, int] = {}
    seen_S: list[int] = []
    block_S: list[int] = []
    blocks: dict[int, int] = {}
    for s, (parent, length) in enumerate(zip(packed.parent_S, packed.length_S, strict=True)):
        root = s if parent == ROOT else root_S[parent]
        root_S.append(root)
        seen_S.append(length + (0 if parent == ROOT else seen_S[parent]))
        members.setdefault(root, []).append(s)
        work[root] = work.get(root, 0) + length * seen_S[s]
        block_S.append(blocks.get(root, 0))
        blocks[root] = block_S[s] + -(-length // BLOCK)
    order = sorted(members, key=lambda root: -work[root])
    ends = [0]
    for root in order:
        ends.append(ends[-1] + len(members[root]))
    lists = (
        ends,
        [s for root in order for s in members[root]],
        packed.start_S,
        packed.length_S,
        packed.parent_S,
        block_S,
    )
    return Trees(
        len(order),
        max(blocks.values(), default=0),
        packed.positions_T.contiguous(),
        *(torch.tensor(numbers, dtype=torch.int64, device="cpu") for numbers in lists),
    )


def takes(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> bool:
    """Whether these tensors can go to the compiled kernel here."""
    if not serves(q_THD, k_TGD, v_TGD) or q_THD.dim() != 3 or k_TGD.shape != v_TGD.shape:
        return False
    (tokens, heads, width), (num_keys, kv_heads, key_width) = q_THD.shape, k_TGD.shape
    return tokens == num_keys and width == key_width <= MOST_WIDTH and heads % kv_heads == 0


def tree_attention(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, trees: Trees, scale: float, window: int | None
) -> Tensor:
    """(T, H, D): attention along the paths of the trees, for tensors that ``takes`` says yes to.

    Its bits do not depend on threads, nor a tree's result on other trees; gradients of keys that several query heads
    share are summed in another order where there are few trees. Raises ValueError for another number of tokens than
    the trees have and for a window that shows nothing.
    """
    if len(trees.positions_T) != len(q_THD):
        raise ValueError(f"{len(q_THD)} tokens for trees of {len(trees.positions_T)}")
    if window is not None and window < 1:
        raise ValueError(f"a window of {window} tokens shows nothing")
    return _TreeAttention.apply(q_THD, k_TGD, v_TGD, trees, scale, window)  # type: ignore[no-any-return, no-untyped-call]


class _TreeAttention(torch.autograd.Function):
    """Keeps q, k, v, the result and one fp32 number a token and head."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, trees: Trees, scale: float, window: int | None) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out, log_sum_HT = torch.empty_like(q), floats(q.shape[1], q.shape[0])
        call, held = _call(q, k, v, trees, scale, window)
        call.out, call.log_sum = address(out), address(log_sum_HT)
        kernels().attention_forward(c.byref(call))
        del held
        ctx.save_for_backward(q, k, v, out, log_sum_HT)
        ctx.trees, ctx.scale, ctx.window = trees, scale, window
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, log_sum_HT = ctx.saved_tensors
        out_grad, found = grads[0].contiguous(), [torch.empty_like(x) for x in (q, k, v)]
        call, held = _call(q, k, v, ctx.trees, ctx.scale, ctx.window)
        width = -(-k.shape[2] // MOST_LANES) * MOST_LANES
        sums = floats(2, call.parts * k.shape[1], k.shape[0], width)
        call.out, call.log_sum, call.out_grad, call.sums = (address(x) for x in (out, log_sum_HT, out_grad, sums))
        call.q_grad, call.k_grad, call.v_grad = (address(x) for x in found)
        kernels().attention_backward(c.byref(call))
        del held
        return *found, None, None, None


def _call(q: Tensor, k: Tensor, v: Tensor, trees: Trees, scale: float, window: int | None) -> tuple[Attention, Tensor]:
    """What forward and backward pass share, and the space that must live as long as the call."""
    groups = q.shape[1] // k.shape[1]
    few = trees.num_trees * k.shape[1] < FEW_PIECES
    call = Attention(
        *(q.shape[0], q.shape[1], k.shape[1], q.shape[2], trees.num_trees, groups if few else 1),
        *(torch.get_num_threads(), window or 0, q.dtype == torch.bfloat16, trees.most_blocks),
        *(address(x) for x in (trees.first_member, trees.member, trees.start_S, trees.length_S, trees.parent_S)),
        *(address(x) for x in (trees.block_S, trees.positions_T, q, k, v)),
    )
    call.scale = scale
    space = floats(kernels().attention_space(c.byref(call)))
    call.space = address(space)
    return call, space
