"""Weights packed for answering alone: half the bytes or a quarter, laid out for products with few rows.

A decoded token reads every weight once, so its time is that of reading them. Both kinds stand on fbgemm's kernels,
which torch brings on x86 processors; they have no transposed product, since nothing is trained through them.
Shape letters: T tokens, I in features, O out features.
"""

from __future__ import annotations

import warnings
from typing import Protocol

import torch
from torch import Tensor

# A digit of a number in base 127: fbgemm adds two products of an unsigned and a signed byte in 16 bits, and two of
# 127 * 127 are what fits.
LEVELS = 63
ZERO_POINT = 64
TINY = 1e-30
INF = float("inf")
HALF_STEP = 2.0**-24
HALF_MAX = 65504.0
TOLERANCE = 2.0**-20


class Product(Protocol):
    """A constant linear map that only multiplies."""

    def matmul(self, x_TI: Tensor) -> Tensor:
        """x (T, in) -> (T, out), in x's dtype."""
        ...


def packs_here() -> bool:
    """Whether this build of torch has the kernels (x86 processors with AVX2)."""
    return "fbgemm" in torch.backends.quantized.supported_engines


def fits_half(weight: Tensor) -> bool:
    """Whether ``HalfWeight`` multiplies with a weight's own numbers, but for what fp32 would lose of a sum as well.

    Numbers from 7.6e-6 on that were stored in bf16 are fp16's, exactly; smaller ones may be off by half of its smallest
    step, 6e-8. All together they must be off by less than 2^-20 of the weight, in 2-norms.
    """
    off = weight.half().to(weight.dtype) - weight
    if not bool((off.abs() <= HALF_STEP / 2).all()):
        return False
    return float(off.norm()) <= TOLERANCE * float(weight.norm())


def check_half(weight: Tensor) -> None:
    """Raise OverflowError for a weight beyond fp16's range."""
    if not bool((weight.abs() <= HALF_MAX).all()):
        raise OverflowError(f"a weight is beyond {HALF_MAX:,.0f}, the largest number of fp16")


class HalfWeight:
    """A weight (out, in) in fp16, multiplied and summed in fp32. Raises OverflowError for one beyond fp16's range."""

    def __init__(self, weight_OI: Tensor) -> None:
        # fbgemm would cut it at the range's end, in the tensor it is given.
        check_half(weight_OI)
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight_OI.detach().float().contiguous(), None)

    def matmul(self, x_TI: Tensor) -> Tensor:
        """x (T, in) -> (T, out), in x's dtype."""
        wide_TI = x_TI if x_TI.dtype == torch.float32 else x_TI.float()
        y_TO: Tensor = torch.ops.quantized.linear_dynamic_fp16.default(wide_TI, self._packed)
        return y_TO if x_TI.dtype == torch.float32 else y_TO.to(x_TI.dtype)


def quantize_rows(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """(codes_OI int8 in -127..127, scale_O fp32): each row's largest magnitude is 127 of its steps."""
    weight_OI = weight_OI.detach().float()
    scale_O = (weight_OI.abs().amax(1) / 127.0).clamp_min_(TINY)
    return (weight_OI / scale_O[:, None]).round_().clamp_(-127, 127).to(torch.int8), scale_O


def int8_matmul_reference(x_TI: Tensor, codes_OI: Tensor, scale_O: Tensor) -> Tensor:
    """x W^T with W = scale * codes, as it stands; ``Int8Weight`` equals it up to the digits it keeps of x."""
    return x_TI @ (codes_OI.to(x_TI.dtype) * scale_O[:, None].to(x_TI.dtype)).T


class Int8Weight:
    """A weight (out, in) in 8 bits with one scale an output; x keeps some 13 bits of each row's largest magnitude.

    The kernel multiplies bytes, and one byte is too little for x, whose outliers are a hundred times its ordinary
    values. So each row of x is written as two digits, x = s (h + l / 126) with h and l in -63..63, which go through
    one product as two rows. Sums of integers have no order: a row's result does not depend on the rows beside it.
    """

    def __init__(self, weight_OI: Tensor) -> None:
        codes_OI, scale_O = quantize_rows(weight_OI)
        zeros_O = torch.zeros(len(scale_O), dtype=torch.int64)
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"
        try:
            with warnings.catch_warnings():
                # torch 2.13 means to remove quantised tensors; this operator takes nothing else.
                warnings.filterwarnings("ignore", message=".*quantized tensor creation functions", category=UserWarning)
                whole = torch._make_per_channel_quantized_tensor(codes_OI, scale_O.double(), zeros_O, 0)
                self._packed = torch.ops.quantized.linear_prepack(whole, None)
        finally:
            torch.backends.quantized.engine = engine

    def matmul(self, x_TI: Tensor) -> Tensor:
        """x (T, in) -> (T, out), in x's dtype; as ``int8_matmul_reference`` of the digits kept of x."""
        wide_TI, num_rows = x_TI.float(), len(x_TI)
        largest_T1 = torch.linalg.vector_norm(wide_TI, ord=INF, dim=1, keepdim=True).clamp_min_(TINY)
        digits = torch.empty(2 * num_rows, wide_TI.shape[1])
        high_TI, low_TI = digits[:num_rows], digits[num_rows:]
        torch.mul(wide_TI, LEVELS / largest_T1, out=low_TI)
        torch.round(low_TI, out=high_TI)
        low_TI.sub_(high_TI).mul_(2 * LEVELS)
        multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
        both: Tensor = multiply(digits, 1.0, ZERO_POINT, self._packed)
        y_TO = both[:num_rows].add_(both[num_rows:], alpha=1 / (2 * LEVELS)).mul_(largest_T1 / LEVELS)
        return y_TO.to(x_TI.dtype)


class RowsOf:
    """Some rows of a weight that is packed together with others, as a weight of its own."""

    def __init__(self, whole: Product, first: int, end: int) -> None:
        self.whole, self.first, self.end = whole, first, end

    def matmul(self, x_TI: Tensor) -> Tensor:
        """x (T, in) -> (T, out), in x's dtype."""
        return self.whole.matmul(x_TI)[:, self.first : self.end]
