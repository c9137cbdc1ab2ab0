"""RMSNorm, rotary positions and SwiGLU with hand-written backward passes: they save less and read memory once.

Each stands beside its plain reference. Shape letters: T tokens, D width, H heads, F feed-forward width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels import native_elementwise as native


def rms_norm_reference(x_TD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * w, the mean in fp32 (Zhang and Sennrich 2019, arXiv:1910.07467, equation 4)."""
    wide = x_TD if x_TD.dtype == torch.float64 else x_TD.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return normed.to(x_TD.dtype) * weight_D.to(x_TD.dtype)


def _normed(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """(the norm of x, what x was multiplied with before the weight)."""
    if native.takes_norm(x, weight):
        return native.norm(x, weight, epsilon)
    wide = x if x.dtype == torch.float64 else x.float()
    # linalg.vector_norm reduces in one pass, without a squared copy of x.
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    inverse = torch.rsqrt(norm.square_().div_(x.shape[-1]).add_(epsilon))
    return (wide * inverse).to(x.dtype).mul_(weight.to(x.dtype)), inverse


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        normed, inverse = _normed(x, weight, epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        if native.takes_norm(x, weight) and native.takes_alike(x, grads[0]) and not ctx.needs_input_grad[1]:
            return native.norm_backward(x, weight, inverse, grads[0]), None, None
        inverse = inverse.view(*x.shape[:-1], 1)
        grad = grads[0].to(inverse.dtype)
        normed = x.to(inverse.dtype) * inverse
        grad_weight = None
        if ctx.needs_input_grad[1]:
            axes = tuple(range(x.dim() - 1))
            grad_weight = (grad * normed).sum(axes).to(weight.dtype)
        grad = grad * weight.to(grad.dtype)
        # dx = inverse * (g - normed * mean(g * normed))
        mean = (grad * normed).mean(-1, keepdim=True)
        return grad.addcmul_(normed, mean, value=-1).mul_(inverse).to(x.dtype), grad_weight, None


def rms_norm(x_TD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    """RMSNorm over the last dimension; equals ``rms_norm_reference``."""
    if x_TD.is_cuda and x_TD.dtype == weight_D.dtype:
        # One kernel instead of six (torch 2.9); it rounds once, after the weight.
        return torch.nn.functional.rms_norm(x_TD, weight_D.shape, weight_D, epsilon)
    # Here and below: without gradients autograd's wrapping costs a decoded token as much as the arithmetic.
    if not torch.is_grad_enabled():
        return _normed(x_TD, weight_D, epsilon)[0]
    return _RmsNorm.apply(x_TD, weight_D, epsilon)  # type: ignore[no-any-return, no-untyped-call]


def rope_reference(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Rotate the two halves of each head by its position (Su et al. 2021, arXiv:2104.09864, equation 34)."""
    first, second = x_THD.chunk(2, dim=-1)
    return x_THD * cos_TD[:, None] + torch.cat((-second, first), dim=-1) * sin_TD[:, None]


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grads[0], cos, sin, back=True), None, None


def _rotate(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, *, back: bool = False) -> Tensor:
    if native.takes_rotation(x_THD, cos_TD, sin_TD):
        return native.rotate(x_THD, cos_TD, sin_TD, back=back)
    sin_TD = -sin_TD if back else sin_TD
    half = x_THD.shape[-1] // 2
    # cos and sin repeat themselves in the two halves of the width.
    cos, sin = cos_TD[:, None, :half], sin_TD[:, None, :half]
    first, second = x_THD[..., :half], x_THD[..., half:]
    out = torch.empty_like(x_THD)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
    return out


def rope(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Rotary positions for (T, H, D) with cos and sin (T, D); equals ``rope_reference``."""
    if not torch.is_grad_enabled():
        return _rotate(x_THD, cos_TD, sin_TD)
    return _Rope.apply(x_THD, cos_TD, sin_TD)  # type: ignore[no-any-return, no-untyped-call]


def signed_sin(sin_TD: Tensor) -> Tensor:
    """The sines that ``rope_rolled`` takes: those of the first half of the width negative."""
    half = sin_TD.shape[-1] // 2
    return torch.cat((-sin_TD[:, :half], sin_TD[:, half:]), dim=1)


def rope_rolled(x_THD: Tensor, cos_TD: Tensor, signed_sin_TD: Tensor) -> Tensor:
    """``rope`` by three operators and no gradients: for few tokens, where calls cost more than passes over x."""
    rolled = x_THD.roll(x_THD.shape[-1] // 2, dims=-1)
    return torch.addcmul(x_THD * cos_TD[:, None], rolled, signed_sin_TD[:, None])


def swiglu_reference(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer 2020, arXiv:2002.05202, equation 6)."""
    return torch.nn.functional.silu(gate_TF) * up_TF


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    if native.takes_alike(gate, up):
        return native.swiglu(gate, up)
    return torch.nn.functional.silu(gate).mul_(up)


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _gated(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        if native.takes_alike(gate, up, grads[0]):
            return native.swiglu_backward(gate, up, grads[0])
        silu = torch.nn.functional.silu(gate)
        grad_gate = torch.ops.aten.silu_backward(grads[0] * up, gate)
        return grad_gate, silu.mul_(grads[0])


def swiglu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """silu(gate) * up; equals ``swiglu_reference``."""
    if not torch.is_grad_enabled():
        return _gated(gate_TF, up_TF)
    return _SwiGlu.apply(gate_TF, up_TF)  # type: ignore[no-any-return, no-untyped-call]
