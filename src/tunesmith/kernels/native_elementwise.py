"""RMSNorm, rotary positions, SwiGLU and the softmax of logits by ``c/``: one pass over memory each, on a processor."""

from __future__ import annotations

import ctypes as c

import torch
from torch import Tensor

from tunesmith.kernels.native import available, library

_whole, _pointer = c.c_int64, c.c_void_p


def takes(*tensors: Tensor) -> bool:
    """Whether these go to the compiled functions: one dtype of fp32 and bf16, laid end to end, on a processor."""
    kind = tensors[0].dtype
    if kind not in (torch.float32, torch.bfloat16) or not available():
        return False
    return all(x.dtype == kind and x.device.type == "cpu" and x.is_contiguous() for x in tensors)


def norm(x: Tensor, weight_D: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """(the norm of x, what each row of x was multiplied with before the weight)."""
    y, inverse = torch.empty_like(x), torch.empty(x.shape[:-1])
    _call("norm_forward", *_rows(x), x, weight_D, y, inverse, c.c_float(epsilon))
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
    outside the vocabulary.
    """
    if len(targets_N) and not 0 <= int(targets_N.min()) <= int(targets_N.max()) < logits_NV.shape[1]:
        raise IndexError(f"a target outside the vocabulary of {logits_NV.shape[1]}")
    logprobs_N, weights_N = torch.empty(len(targets_N)), weights_N.float().contiguous()
    _call(
        "softmax_rows",
        *_rows(logits_NV),
        *(logits_NV, targets_N.contiguous(), weights_N, logprobs_N, c.c_float(scale), int(needs_grad)),
    )
    return logprobs_N


def _half(x: Tensor) -> int:
    return int(x.dtype == torch.bfloat16)


def _rows(x: Tensor) -> tuple[int, int, int]:
    return _half(x), x.numel() // x.shape[-1], x.shape[-1]


def _call(name: str, *arguments: int | Tensor | c.c_float) -> None:
    found = library()
    if isinstance(found, str):
        raise RuntimeError(found)
    plain = (
        _pointer(x.data_ptr()) if isinstance(x, Tensor) else _whole(x) if isinstance(x, int) else x for x in arguments
    )
    getattr(found, name)(*plain, _whole(torch.get_num_threads()))
