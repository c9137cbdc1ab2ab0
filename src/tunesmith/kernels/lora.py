"""LoRA beside a frozen weight, with its backward pass written by hand.

y = x W^T + s (x A^T) B^T  (Hu et al. 2021, arXiv:2106.09685, section 4.1; s = alpha / r).
Shape letters: T tokens, I in features, O out features, R rank,
C the ranks of a group together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tunesmith.kernels.frozen import FrozenWeight, columns

# Columns of a weight that are looked at together when its rows are measured.
COLUMNS_AT_ONCE = 256


def lora_linear_reference(x_TI: Tensor, frozen: FrozenWeight, a_RI: Tensor, b_OR: Tensor, scaling: float) -> Tensor:
    """The formula as it stands, left to autograd; the kernel below must equal it."""
    a_RI, b_OR = a_RI.to(x_TI.dtype), b_OR.to(x_TI.dtype)
    return frozen.matmul(x_TI) + scaling * (x_TI @ a_RI.T) @ b_OR.T


class _LoraLinear(torch.autograd.Function):
    """Saves x (shared with its other users) and the (T, R) product only; W gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, dropped_TI: Tensor | None, frozen: FrozenWeight, a_RI: Tensor, b_OR: Tensor, s: float
    ) -> Tensor:
        lora_in_TI = x_TI if dropped_TI is None else dropped_TI
        a, b = a_RI.to(x_TI.dtype), b_OR.to(x_TI.dtype)
        down_TR = lora_in_TI @ a.T
        y_TO = frozen.matmul(x_TI)
        y_TO.addmm_(down_TR, b.T, alpha=s)
        ctx.save_for_backward(lora_in_TI, down_TR, a_RI, b_OR)
        ctx.frozen, ctx.s, ctx.separate = frozen, s, dropped_TI is not None
        return y_TO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_TO = grads[0]
        lora_in_TI, down_TR, a_RI, b_OR = ctx.saved_tensors
        a, b = a_RI.to(grad_TO.dtype), b_OR.to(grad_TO.dtype)
        grad_down_TR = (grad_TO @ b).mul_(ctx.s)
        grad_a = (grad_down_TR.T @ lora_in_TI).to(a_RI.dtype) if ctx.needs_input_grad[3] else None
        grad_b = (grad_TO.T @ down_TR).mul_(ctx.s).to(b_OR.dtype) if ctx.needs_input_grad[4] else None
        grad_x = grad_dropped = None
        if ctx.needs_input_grad[0]:
            grad_x = ctx.frozen.matmul_t(grad_TO)
            if not ctx.separate:
                grad_x.addmm_(grad_down_TR, a)
        if ctx.separate and ctx.needs_input_grad[1]:
            grad_dropped = grad_down_TR @ a
        return grad_x, grad_dropped, None, grad_a, grad_b, None


def lora_linear(
    x_TI: Tensor,
    frozen: FrozenWeight,
    a_RI: Tensor,
    b_OR: Tensor,
    scaling: float,
    dropped_TI: Tensor | None = None,
) -> Tensor:
    """(T, in) -> (T, out): frozen product plus the scaled low-rank product, computed in x's dtype.

    dropped_TI: x after dropout, seen by the low-rank branch only; None without dropout.
    """
    return _LoraLinear.apply(x_TI, dropped_TI, frozen, a_RI, b_OR, scaling)  # type: ignore[no-any-return, no-untyped-call]


class _LoraGroup(torch.autograd.Function):
    """Several LoRA maps of one input: their A matrices act as one, and the input's gradient is summed in place."""

    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, frozen: Sequence[FrozenWeight], scalings: Sequence[float], *ab: Tensor
    ) -> tuple[Tensor, ...]:
        count = len(frozen)
        a_CI = torch.cat([a.to(x_TI.dtype) for a in ab[:count]])
        ranks = [a.shape[0] for a in ab[:count]]
        down_TC = x_TI @ a_CI.T
        out = []
        for weight, down_TR, b_OR, s in zip(frozen, torch.split(down_TC, ranks, 1), ab[count:], scalings, strict=True):
            y_TO = weight.matmul(x_TI)
            out.append(y_TO.addmm_(down_TR, b_OR.to(x_TI.dtype).T, alpha=s))
        ctx.save_for_backward(x_TI, down_TC, *ab)
        ctx.frozen, ctx.scalings, ctx.ranks = frozen, scalings, ranks
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, down_TC, *ab = ctx.saved_tensors
        count = len(ctx.frozen)
        a_list, b_list = ab[:count], ab[count:]
        grad_down_TC = torch.cat(
            [(g @ b.to(g.dtype)).mul_(s) for g, b, s in zip(grads, b_list, ctx.scalings, strict=True)], dim=1
        )
        grad_a = torch.split(grad_down_TC.T @ x_TI, ctx.ranks)
        grad_b = [
            (g.T @ down).mul_(s).to(b.dtype)
            for g, down, s, b in zip(grads, torch.split(down_TC, ctx.ranks, 1), ctx.scalings, b_list, strict=True)
        ]
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = ctx.frozen[0].matmul_t(grads[0])
            for weight, g in zip(ctx.frozen[1:], grads[1:], strict=True):
                weight.add_matmul_t_(grad_x, g)
            grad_x.addmm_(grad_down_TC, torch.cat([a.to(x_TI.dtype) for a in a_list]))
        return grad_x, None, None, *(g.to(a.dtype) for g, a in zip(grad_a, a_list, strict=True)), *grad_b


def lora_group(
    x_TI: Tensor,
    frozen: Sequence[FrozenWeight],
    a_list: Sequence[Tensor],
    b_list: Sequence[Tensor],
    scalings: Sequence[float],
) -> tuple[Tensor, ...]:
    """Several LoRA maps of one input (query, key and value; gate and up) -> their outputs; each as ``lora_linear``."""
    return _LoraGroup.apply(x_TI, tuple(frozen), tuple(scalings), *a_list, *b_list)  # type: ignore[no-any-return, no-untyped-call]


@torch.no_grad()
def row_squares(frozen: FrozenWeight, num_in: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Squared length (O,) of each row of W, in fp32 at least; a constant of the weight. dtype: of its products."""
    like, total_O = torch.empty(0, dtype=dtype, device=device), None
    for first in range(0, num_in, COLUMNS_AT_ONCE):
        columns_CO = columns(frozen, num_in, like, first, first + COLUMNS_AT_ONCE).to(_wide(dtype))
        squares_O = columns_CO.square_().sum(0)
        total_O = squares_O if total_O is None else total_O.add_(squares_O)
    assert total_O is not None
    return total_O


@torch.no_grad()
def adapted_row_norms(
    squares_O: Tensor, frozen: FrozenWeight, a_RI: Tensor, b_OR: Tensor, scaling: float, dtype: torch.dtype
) -> Tensor:
    """Length (O,) of each row of W + s B A: |w|^2 + 2 s w.(BA) + s^2 |BA|^2, which multiplies W with R rows only.

    squares_O: by ``row_squares``. dtype: that of the products the norm is of.
    """
    a, b = a_RI.to(dtype).to(squares_O.dtype), b_OR.to(dtype).to(squares_O.dtype)
    cross_OR = frozen.matmul(a_RI.to(dtype)).T.to(squares_O.dtype)
    moved_O = (b * (2 * cross_OR + scaling * (b @ (a @ a.T)))).sum(1)
    return squares_O.add(moved_O, alpha=scaling).clamp_min_(0).sqrt_()


def scale_rows(z_TO: Tensor, magnitude_O: Tensor, norms_O: Tensor) -> Tensor:
    """DoRA (arXiv:2402.09353, equation 5): each output of (W + s B A) x times m / |W + s B A|, the norm of its row.

    The norm is a constant of the backward pass (section 4.3). The factor is fp32 where z is not: it differs from 1 by
    less than bf16 can tell.
    """
    # A row of zeros gives 0 whatever its magnitude.
    factor_O = magnitude_O.to(norms_O.dtype) / norms_O.clamp_min(1e-12)
    return (z_TO * factor_O).to(z_TO.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def dropout_rows(x_TI: Tensor, p: float, seed_S: list[int], length_S: tuple[int, ...], site: int) -> Tensor:
    """Inverted dropout whose mask depends on the segment's seed and the site only, so packing cannot shift it.

    seed_S: one 63-bit seed a segment. site: number of the layer's linear map. Returns (T, I).
    """
    masks = []
    for seed, length in zip(seed_S, length_S, strict=True):
        # A generator on the CPU for every device keeps a run's masks the same wherever it is resumed.
        generator = torch.Generator().manual_seed((seed + 0x9E3779B97F4A7C15 * (site + 1)) % 2**63)
        masks.append(torch.rand(length, x_TI.shape[1], generator=generator) >= p)
    return x_TI * torch.cat(masks).to(x_TI.device) / (1.0 - p)
