"""Weights in 4 bits: the NF4 code book, packing, absmax in 8 bits, and a frozen weight that unpacks as it multiplies.

Dettmers et al. 2023, arXiv:2305.14314 (QLoRA), section 3. A tensor is cut, as it lies in memory, into blocks of 64;
a block is divided by its largest magnitude and each value becomes the number of the nearest of 16 levels. Two numbers
share a byte, the first in the high half. The blocks' magnitudes, less their mean, are stored in 8 bits themselves, in
blocks of 256. This is bitsandbytes' layout, bit for bit, so that its kernels can read it; packed once, never again.
Shape letters: N values, P bytes, H halves of a byte, B blocks of 64, V values of a block, C blocks of 256 magnitudes,
O out features, I in features, T tokens.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from tunesmith.kernels import native_elementwise as native
from tunesmith.kernels.native import team

# Appendix E of the paper: quantiles of the normal distribution, scaled to [-1, 1], with a zero of its own.
NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
BLOCK = 64
MAGNITUDE_BLOCK = 256
# Values handled at a time: what is made on the way stays small, and in the processor's cache.
CHUNK = 1 << 19


@dataclass(frozen=True, slots=True, kw_only=True)
class Nf4:
    """A packed tensor.

    codes_P: uint8, two values a byte. magnitude_B: fp32, or uint8 where they are stored in 8 bits; then
    magnitude_scale_C (fp32) are the largest magnitudes of their blocks and magnitude_mean (fp32, a scalar) is what was
    taken off first; both are empty otherwise.
    """

    codes_P: Tensor
    magnitude_B: Tensor
    magnitude_scale_C: Tensor
    magnitude_mean: Tensor
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """What the packed tensor takes in memory, code books not counted."""
        held = (self.codes_P, self.magnitude_B, self.magnitude_scale_C, self.magnitude_mean)
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


@functools.cache
def levels(device: torch.device) -> Tensor:
    """The 16 levels in fp32."""
    return torch.tensor(NF4_LEVELS, device=device)


@functools.cache
def _pairs(device: torch.device) -> Tensor:
    """Byte -> the two fp32 values it stands for, laid into one 64-bit number: one look-up unpacks two values."""
    level = levels(device)
    both = torch.stack([level.repeat_interleave(16), level.repeat(16)], dim=1)
    return both.contiguous().view(torch.int64).view(-1)


@functools.cache
def magnitude_levels(device: torch.device) -> Tensor:
    """The 256 levels magnitudes are stored in: dynamic tree quantisation (arXiv:2110.02861, section 1.3), in fp32.

    Seven decades, 10^-6 up to 1; of each, the middles of equal steps between a tenth and one: 1 in the lowest decade,
    then twice as many in each; both signs, zero, and one itself.
    """
    found = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1.0, 2**decade + 1)
        middles = ((edges[:-1] + edges[1:]) / 2.0 * 10.0 ** (decade - 6)).tolist()
        found += [*middles, *(-middle for middle in middles)]
    return torch.tensor(sorted(found), device=device)


def quantize(weight: Tensor, *, double_quant: bool = True) -> Nf4:
    """Pack a tensor of any float dtype on its own device; what depends on nothing but its values."""
    flat_N = weight.detach().reshape(-1)
    codes, magnitudes = [], []
    for first in range(0, flat_N.numel(), CHUNK):
        numbers, magnitude_B = _nearest(flat_N[first : first + CHUNK], levels(weight.device), BLOCK)
        if numbers.numel() % 2:
            # The half byte that is left over stands for zero.
            numbers = pad(numbers, (0, 1), value=NF4_LEVELS.index(0.0))
        codes.append(numbers[::2] << 4 | numbers[1::2])
        magnitudes.append(magnitude_B)
    codes_P, magnitude_B = torch.cat(codes), torch.cat(magnitudes)
    empty = torch.empty(0, device=weight.device)
    if not double_quant:
        return Nf4(
            codes_P=codes_P,
            magnitude_B=magnitude_B,
            magnitude_scale_C=empty,
            magnitude_mean=empty,
            shape=tuple(weight.shape),
        )
    mean = magnitude_B.mean()
    small_B, scale_C = _nearest(magnitude_B - mean, magnitude_levels(weight.device), MAGNITUDE_BLOCK)
    return Nf4(
        codes_P=codes_P,
        magnitude_B=small_B,
        magnitude_scale_C=scale_C,
        magnitude_mean=mean,
        shape=tuple(weight.shape),
    )


def _nearest(values_N: Tensor, level: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """(numbers of the nearest levels as uint8 (N,), the blocks' largest magnitudes in fp32)."""
    values = pad(values_N.float(), (0, -values_N.numel() % block)).view(-1, block)
    magnitude = values.abs().amax(dim=1)
    # A block of zeros has no magnitude to divide by.
    scaled = (values * (1.0 / magnitude.clamp(min=1e-38))[:, None]).clamp_(-1, 1)
    middles = (level[:-1] + level[1:]) / 2
    numbers = torch.bucketize(scaled, middles, out_int32=True).to(torch.uint8)
    return numbers.view(-1)[: values_N.numel()], magnitude


def magnitudes(packed: Nf4) -> Tensor:
    """The blocks' magnitudes (B,) in fp32, as the packed tensor remembers them."""
    if packed.magnitude_B.dtype != torch.uint8:
        return packed.magnitude_B
    count = packed.magnitude_B.numel()
    level_B = magnitude_levels(packed.magnitude_B.device).index_select(0, packed.magnitude_B.int())
    scaled = pad(level_B, (0, -count % MAGNITUDE_BLOCK)).view(-1, MAGNITUDE_BLOCK) * packed.magnitude_scale_C[:, None]
    return scaled.view(-1)[:count].add_(packed.magnitude_mean)


def dequantize_reference(packed: Nf4, dtype: torch.dtype) -> Tensor:
    """The values, one by one as the paper writes them (equation 6); ``dequantize`` must equal it bit for bit."""
    halves_PH = torch.stack([packed.codes_P >> 4, packed.codes_P & 15], dim=1)
    count = math.prod(packed.shape)
    level_N = levels(packed.codes_P.device)[halves_PH.view(-1).long()][:count]
    magnitude_N = magnitudes(packed).repeat_interleave(BLOCK)[:count]
    return (level_N * magnitude_N).to(dtype).view(packed.shape)


def dequantize(packed: Nf4, dtype: torch.dtype) -> Tensor:
    """The values in their own shape, multiplied in fp32 and rounded to ``dtype`` once."""
    if packed.codes_P.device.type == "cuda" and _has_bitsandbytes():
        return _dequantize_bitsandbytes(packed, dtype)
    if team(dtype, packed.codes_P.device):
        return native.unpack(packed.codes_P, magnitudes(packed), levels(packed.codes_P.device), packed.shape, dtype)
    pairs, magnitude_B = _pairs(packed.codes_P.device), magnitudes(packed)
    values_N = torch.empty(magnitude_B.numel() * BLOCK, dtype=dtype, device=pairs.device)
    for first, codes in enumerate(torch.split(packed.codes_P, CHUNK // 2)):
        both = pairs.index_select(0, codes.int())
        if missing := -len(both) % (BLOCK // 2):
            both = pad(both, (0, missing))
        level_BV = both.view(torch.float32).view(-1, BLOCK)
        start = first * CHUNK // BLOCK
        out_BV = values_N.view(-1, BLOCK)[start : start + len(level_BV)]
        torch.mul(level_BV, magnitude_B[start : start + len(level_BV), None], out=out_BV)
    return values_N[: math.prod(packed.shape)].view(packed.shape)


@functools.cache
def _has_bitsandbytes() -> bool:
    return find_spec("bitsandbytes") is not None


def _dequantize_bitsandbytes(packed: Nf4, dtype: torch.dtype) -> Tensor:
    """The same by bitsandbytes' kernel: on a GPU one pass over the memory instead of three."""
    import bitsandbytes  # noqa: F401  (registers the operator)

    operator = torch.ops.bitsandbytes.dequantize_4bit.default
    shape = list(packed.shape)
    # It knows 16-bit floats and fp32; another dtype is rounded from fp32 by us.
    known = dtype if dtype in (torch.float32, torch.bfloat16, torch.float16) else torch.float32
    values: Tensor = operator(packed.codes_P[:, None], magnitudes(packed), BLOCK, "nf4", shape, known)
    return values.to(dtype)


class QuantizedWeight:
    """A frozen weight in NF4, stored (out, in), or (in, out) where ``transposed``; unpacked anew for every product.

    Nothing is ever written to the storage, so that a pass in between, of whatever kind, cannot change a gradient.
    """

    def __init__(self, packed: Nf4, *, transposed: bool = False) -> None:
        self.packed, self.transposed = packed, transposed

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weight as it is stored, unpacked: (out, in), or (in, out) where transposed."""
        return dequantize(self.packed, dtype)

    def matmul(self, x_TI: Tensor) -> Tensor:
        weight = self.dense(x_TI.dtype)
        return x_TI @ weight if self.transposed else linear(x_TI, weight)

    def matmul_t(self, grad_TO: Tensor) -> Tensor:
        weight = self.dense(grad_TO.dtype)
        return linear(grad_TO, weight) if self.transposed else grad_TO @ weight

    def add_matmul_t_(self, total_TI: Tensor, grad_TO: Tensor) -> None:
        weight = self.dense(grad_TO.dtype)
        total_TI.addmm_(grad_TO, weight.T if self.transposed else weight)
