"""A bottleneck adapter, y + s up(f(down(x))), with its backward pass written by hand.

Houlsby et al. 2019, arXiv:1902.00751, section 2.1 (x = y, s = 1); He et al. 2022, arXiv:2110.04366, table 1 (parallel).
Shape letters: T tokens, I in features, O out features, R bottleneck size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

NonLinearity = Literal["relu", "gelu", "silu", "tanh"]
ACTIVATIONS: dict[NonLinearity, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def bottleneck_reference(
    x_TI: Tensor,
    y_TO: Tensor | None,
    down_RI: Tensor,
    down_bias_R: Tensor,
    up_OR: Tensor,
    up_bias_O: Tensor,
    non_linearity: NonLinearity,
    scaling: float,
) -> Tensor:
    """The formula as it stands, left to autograd; the kernel below must equal it."""
    down_TR = F.linear(x_TI, down_RI.to(x_TI.dtype), down_bias_R.to(x_TI.dtype))
    added_TO = F.linear(ACTIVATIONS[non_linearity](down_TR), up_OR.to(x_TI.dtype), up_bias_O.to(x_TI.dtype))
    return (x_TI if y_TO is None else y_TO) + scaling * added_TO


def _back_through(non_linearity: NonLinearity, grad_TR: Tensor, down_TR: Tensor) -> Tensor:
    """The gradient before the non-linearity, from the one after it and what went in."""
    if non_linearity == "relu":
        return grad_TR.masked_fill(down_TR <= 0, 0.0)
    if non_linearity == "tanh":
        return grad_TR * (1 - torch.tanh(down_TR).square())
    backward = torch.ops.aten.gelu_backward if non_linearity == "gelu" else torch.ops.aten.silu_backward
    return backward(grad_TR, down_TR)  # type: ignore[no-any-return]


class _Bottleneck(torch.autograd.Function):
    """Saves x and the (T, R) product only; the non-linearity is computed anew."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor | None,
        down: Tensor,
        down_bias: Tensor,
        up: Tensor,
        up_bias: Tensor,
        non_linearity: NonLinearity,
        s: float,
    ) -> Tensor:
        dtype = x.dtype
        down_TR = torch.addmm(down_bias.to(dtype), x, down.to(dtype).T)
        ctx.save_for_backward(x, down_TR, down, up)
        ctx.non_linearity, ctx.s, ctx.beside = non_linearity, s, y is not None
        out = torch.addmm(x if y is None else y, ACTIVATIONS[non_linearity](down_TR), up.to(dtype).T, alpha=s)
        return out.add_(up_bias.to(dtype), alpha=s)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        x, down_TR, down, up = ctx.saved_tensors
        active_TR = ACTIVATIONS[ctx.non_linearity](down_TR)
        grad_up = (grad.T @ active_TR).mul_(ctx.s).to(up.dtype)
        grad_up_bias = grad.sum(0, dtype=up.dtype).mul_(ctx.s)
        grad_TR = _back_through(ctx.non_linearity, (grad @ up.to(grad.dtype)).mul_(ctx.s), down_TR)
        grad_down = (grad_TR.T @ x).to(down.dtype)
        grad_down_bias = grad_TR.sum(0, dtype=down.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_TR @ down.to(grad.dtype) if ctx.beside else torch.addmm(grad, grad_TR, down.to(grad.dtype))
        grad_y = grad if ctx.beside else None
        return grad_x, grad_y, grad_down, grad_down_bias, grad_up, grad_up_bias, None, None


def bottleneck(
    x_TI: Tensor,
    y_TO: Tensor | None,
    down_RI: Tensor,
    down_bias_R: Tensor,
    up_OR: Tensor,
    up_bias_O: Tensor,
    non_linearity: NonLinearity,
    scaling: float,
) -> Tensor:
    """y (T, out) plus the scaled bottleneck of x (T, in), computed in x's dtype; y None: of x itself, added to x."""
    return _Bottleneck.apply(x_TI, y_TO, down_RI, down_bias_R, up_OR, up_bias_O, non_linearity, scaling)  # type: ignore[no-any-return, no-untyped-call]
