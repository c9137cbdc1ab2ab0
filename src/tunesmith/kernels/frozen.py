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
    return _FrozenLinear.apply(x_TI, frozen)  # type: ignore[no-any-return, no-untyped-call]
