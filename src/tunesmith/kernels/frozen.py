"""Frozen weights as a protocol: a constant that can be multiplied from both sides and never learns.

Adapter kernels are written once against it; dense, transposed (GPT-2) and later 4-bit storage implement it.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear


class FrozenWeight(Protocol):
    """A constant linear map from ``in`` to ``out`` features; no gradient ever reaches its storage."""

    def matmul(self, x_TI: Tensor) -> Tensor:
        """x (T, in) -> (T, out): the map itself, without bias."""
        ...

    def matmul_t(self, grad_TO: Tensor) -> Tensor:
        """grad (T, out) -> (T, in): the transposed map, which is the gradient with respect to the input."""
        ...

    def add_matmul_t_(self, total_TI: Tensor, grad_TO: Tensor) -> None:
        """Add ``matmul_t(grad)`` to ``total`` in place: maps that share an input share its gradient."""
        ...


class DenseWeight:
    """A weight stored (out, in), as in ``torch.nn.Linear``."""

    def __init__(self, weight_OI: Tensor) -> None:
        self.weight_OI = weight_OI

    def matmul(self, x_TI: Tensor) -> Tensor:
        return linear(x_TI, self.weight_OI)

    def matmul_t(self, grad_TO: Tensor) -> Tensor:
        return grad_TO @ self.weight_OI

    def add_matmul_t_(self, total_TI: Tensor, grad_TO: Tensor) -> None:
        total_TI.addmm_(grad_TO, self.weight_OI)


class TransposedWeight:
    """A weight stored (in, out), as in GPT-2's ``Conv1D``."""

    def __init__(self, weight_IO: Tensor) -> None:
        self.weight_IO = weight_IO

    def matmul(self, x_TI: Tensor) -> Tensor:
        return x_TI @ self.weight_IO

    def matmul_t(self, grad_TO: Tensor) -> Tensor:
        return linear(grad_TO, self.weight_IO)

    def add_matmul_t_(self, total_TI: Tensor, grad_TO: Tensor) -> None:
        total_TI.addmm_(grad_TO, self.weight_IO.T)


class LessLowRank:
    """Another frozen weight less s B A, both kept as they are: what stays frozen of a base whose principal part learns.

    Its storage is untouched, so whoever else uses it is not concerned.
    """

    def __init__(self, whole: FrozenWeight, a_RI: Tensor, b_OR: Tensor, scaling: float) -> None:
        self.whole, self.a_RI, self.b_OR, self.scaling = whole, a_RI, b_OR, scaling

    def matmul(self, x_TI: Tensor) -> Tensor:
        a_RI, b_OR = self.a_RI.to(x_TI.dtype), self.b_OR.to(x_TI.dtype)
        return self.whole.matmul(x_TI).addmm_(x_TI @ a_RI.T, b_OR.T, alpha=-self.scaling)

    def matmul_t(self, grad_TO: Tensor) -> Tensor:
        a_RI, b_OR = self.a_RI.to(grad_TO.dtype), self.b_OR.to(grad_TO.dtype)
        return self.whole.matmul_t(grad_TO).addmm_(grad_TO @ b_OR, a_RI, alpha=-self.scaling)

    def add_matmul_t_(self, total_TI: Tensor, grad_TO: Tensor) -> None:
        a_RI, b_OR = self.a_RI.to(grad_TO.dtype), self.b_OR.to(grad_TO.dtype)
        self.whole.add_matmul_t_(total_TI, grad_TO)
        total_TI.addmm_(grad_TO @ b_OR, a_RI, alpha=-self.scaling)


@torch.no_grad()
def columns(frozen: FrozenWeight, num_in: int, like: Tensor, first: int = 0, end: int | None = None) -> Tensor:
    """Columns first..end of a weight, as rows (C, out), whatever its storage: its products with unit vectors."""
    end = num_in if end is None else min(end, num_in)
    units_CI = torch.zeros(end - first, num_in, dtype=like.dtype, device=like.device)
    units_CI[torch.arange(end - first), torch.arange(first, end)] = 1
    return frozen.matmul(units_CI)


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x_TI: Tensor, frozen: FrozenWeight) -> Tensor:
        ctx.frozen = frozen  # type: ignore[attr-defined]
        return frozen.matmul(x_TI)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.frozen.matmul_t(grads[0]), None  # type: ignore[attr-defined]


def frozen_linear(x_TI: Tensor, frozen: FrozenWeight) -> Tensor:
    """y = x W^T with W constant: (T, in) -> (T, out); saves nothing for the backward pass."""
    if not torch.is_grad_enabled():
        return frozen.matmul(x_TI)
    return _FrozenLinear.apply(x_TI, frozen)  # type: ignore[no-any-return, no-untyped-call]
