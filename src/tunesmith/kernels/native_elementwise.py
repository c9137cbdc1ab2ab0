"""RMSNorm, rotary positions, SwiGLU and the softmax of logits by ``c/``: one pass over memory each, on a processor."""

from __future__ import annotations

import torch
from torch import Tensor

from tunesmith.kernels.native import floats, kernels, serves


def takes_norm(x: Tensor, weight_D: Tensor) -> bool:
    """Whether the norm of these can be compiled code's: one dtype of fp32 and bf16, laid end to end, on a processor."""
    return _ready(x, weight_D) and weight_D.shape == x.shape[-1:]


def takes_rotation(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> bool:
    """The same of a rotation."""
    fits = x_THD.dim() == 3 and cos_TD.shape == sin_TD.shape == x_THD.shape[::2] and x_THD.shape[-1] % 2 == 0
    return fits and _ready(x_THD, cos_TD, sin_TD)


def takes_alike(*tensors: Tensor) -> bool:
    """The same of what works on tensors of one shape."""
    return all(x.shape == tensors[0].shape for x in tensors) and _ready(*tensors)


def _ready(*tensors: Tensor) -> bool:
    return serves(*tensors) and all(x.is_contiguous() for x in tensors)


def norm(x: Tensor, weight_D: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """(the norm of x, what each row of x was multiplied with before the weight)."""
    y, inverse = torch.empty_like(x), floats(*x.shape[:-1])
    _call("norm_forward", *_rows(x), x, weight_D, y, inverse, epsilon)
    return y, inverse


def norm_backward(x: Tensor, weight_D: Tensor, inverse: Tensor, grad: Tensor) -> Tensor:
    """The gradient of x."""
    found = torch.empty_like(x)
    _call("norm_backward", *_rows(x), x, weight_D, inverse, grad.contiguous(), found)
    return found


def rotate(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, *, back: bool = False) -> Tensor:
    """The halves of each head turned by their token's angles, or turned back."""
    y_THD = torch.empty_like(x_THD)
    _call("rotate", _half(x_THD), *x_THD.shape, x_THD, cos_TD, sin_TD, y_THD, int(back))
    return y_THD


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up"""
    y = torch.empty_like(gate)
    _call("swiglu_forward", _half(gate), gate.numel(), gate, up, y)
    return y


def swiglu_backward(gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of gate and up."""
    gate_grad, up_grad = torch.empty_like(gate), torch.empty_like(up)
    _call("swiglu_backward", _half(gate), gate.numel(), gate, up, grad.contiguous(), gate_grad, up_grad)
    return gate_grad, up_grad


def target_logprobs_(logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor, scale: float, needs_grad: bool) -> Tensor:
    """fp32 log-probabilities (N,) of the targets in softmax(logits * scale), scale > 0.

    With ``needs_grad`` the logits become d(-weights * log-probabilities) / d logits. Raises IndexError for a target
    outside the vocabulary, ValueError where targets are not int64 or not one a row, as weights must be.
    """
    if targets_N.dtype != torch.int64 or not targets_N.shape == weights_N.shape == logits_NV.shape[:1]:
        raise ValueError("a row of logits takes one target (int64) and one weight")
    if len(targets_N) and not 0 <= int(targets_N.min()) <= int(targets_N.max()) < logits_NV.shape[1]:
        raise IndexError(f"a target outside the vocabulary of {logits_NV.shape[1]}")
    logprobs_N, weights_N = floats(len(targets_N)), weights_N.float().contiguous()
    _call(
        "softmax_rows",
        *_rows(logits_NV),
        *(logits_NV, targets_N.contiguous(), weights_N, logprobs_N, scale, int(needs_grad)),
    )
    return logprobs_N


def unpack(codes_P: Tensor, magnitude_B: Tensor, levels: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The values of a weight in NF4, in fp32 or bf16: each block's magnitude times the level of each half byte."""
    out = torch.empty(shape, dtype=dtype, device="cpu")
    _call("unpack_nf4", _half(out), out.numel(), *(x.contiguous() for x in (codes_P, magnitude_B, levels)), out)
    return out


def _half(x: Tensor) -> int:
    return int(x.dtype == torch.bfloat16)


def _rows(x: Tensor) -> tuple[int, int, int]:
    return _half(x), x.numel() // x.shape[-1], x.shape[-1]


def _call(name: str, *arguments: int | float | Tensor) -> None:
    plain = (x.data_ptr() if isinstance(x, Tensor) else x for x in arguments)
    getattr(kernels(), name)(*plain, torch.get_num_threads())
