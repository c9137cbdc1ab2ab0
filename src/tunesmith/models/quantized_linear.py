"""Linear maps that hold their weight in 4 bits, in the place of transformers' own modules.

They are an ``nn.Linear`` and a ``Conv1D`` to everybody who asks, so that PEFT places its parameters on them and
transformers calls them; only their values are nowhere to be had but through ``frozen``.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.config import Config
from tunesmith.kernels.frozen import frozen_linear
from tunesmith.kernels.nf4 import BLOCK, MAGNITUDE_BLOCK, Nf4, QuantizedWeight, quantize

# The buffers of a packed weight, by the names of ``Nf4``.
PARTS = ("codes_P", "magnitude_B", "magnitude_scale_C", "magnitude_mean")


class QuantizationConfig(Config):
    """How the base's linear maps are stored; what they are multiplied with keeps its precision."""

    bits: Literal[4] = 4
    """Bits a weight takes."""
    type: Literal["nf4"] = "nf4"
    """nf4: the 4-bit levels of QLoRA (arXiv:2305.14314), for weights that are distributed normally."""
    double_quant: bool = True
    """Store the blocks' magnitudes in 8 bits too: 4.127 bits a weight instead of 4.5."""


@functools.cache
def _nan(dtype: torch.dtype, device: torch.device) -> Tensor:
    # Asked for with every product: on a GPU each new one would be a launch.
    return torch.full((1,), torch.nan, dtype=dtype, device=device)


class _Nf4Storage(nn.Module):
    """What both kinds share: the packed weight as buffers, the bias, and the product."""

    TRANSPOSED = False
    codes_P: Tensor
    magnitude_B: Tensor
    magnitude_scale_C: Tensor
    magnitude_mean: Tensor
    bias: nn.Parameter | None

    def _hold(self, packed: Nf4, bias: nn.Parameter | None, dtype: torch.dtype) -> None:
        self.shape, self.compute_dtype = packed.shape, dtype
        for name in PARTS:
            self.register_buffer(name, getattr(packed, name))
        self.register_parameter("bias", bias)

    @property
    def packed(self) -> Nf4:
        return Nf4(**{name: getattr(self, name) for name in PARTS}, shape=self.shape)

    @property
    def frozen(self) -> QuantizedWeight:
        """The weight as kernels multiply with it."""
        return QuantizedWeight(self.packed, transposed=self.TRANSPOSED)

    @property
    def weight(self) -> Tensor:
        """A stand-in of the right shape, dtype and device that takes no memory: every value is NaN.

        PEFT and transformers ask a weight for these three. Who reads a value of it gets NaN instead of a wrong number,
        and who writes to it an error; the values are in ``frozen``.
        """
        return _nan(self.compute_dtype, self.codes_P.device).expand(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        y = frozen_linear(x, self.frozen)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class QuantizedLinear(_Nf4Storage, nn.Linear):  # type: ignore[misc, override]  # ``weight`` is no parameter here
    """An ``nn.Linear`` whose weight (out, in) is packed."""

    in_features: int
    out_features: int

    def __init__(self, packed: Nf4, bias: nn.Parameter | None, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = packed.shape
        self._hold(packed, bias, dtype)


class QuantizedConv1D(_Nf4Storage, Conv1D):  # type: ignore[misc]
    """GPT-2's ``Conv1D``, whose weight (in, out) is packed."""

    TRANSPOSED = True

    def __init__(self, packed: Nf4, bias: nn.Parameter | None, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.nx, self.nf = packed.shape
        self._hold(packed, bias, dtype)


def quantized(
    layer: nn.Module, config: QuantizationConfig, device: torch.device, dtype: torch.dtype
) -> QuantizedLinear | QuantizedConv1D:
    """The layer with its weight packed, on a device; products are made in ``dtype`` where nobody says otherwise."""
    assert isinstance(layer, nn.Linear | Conv1D)
    kind = QuantizedConv1D if isinstance(layer, Conv1D) else QuantizedLinear
    packed = quantize(layer.weight.to(device), double_quant=config.double_quant)
    return kind(packed, _bias_of(layer, device, dtype), dtype)


def unfilled(
    layer: nn.Module, config: QuantizationConfig, device: torch.device, dtype: torch.dtype
) -> QuantizedLinear | QuantizedConv1D:
    """The same with room for a weight that was packed before; the layer's own values are not looked at."""
    assert isinstance(layer, nn.Linear | Conv1D)
    num_bytes, num_blocks = -(-layer.weight.numel() // 2), -(-layer.weight.numel() // BLOCK)
    num_scales = -(-num_blocks // MAGNITUDE_BLOCK) if config.double_quant else 0
    packed = Nf4(
        codes_P=torch.empty(num_bytes, dtype=torch.uint8, device=device),
        magnitude_B=torch.empty(num_blocks, dtype=torch.uint8 if config.double_quant else torch.float32, device=device),
        magnitude_scale_C=torch.empty(num_scales, device=device),
        magnitude_mean=torch.empty(() if config.double_quant else (0,), device=device),
        shape=tuple(layer.weight.shape),
    )
    kind = QuantizedConv1D if isinstance(layer, Conv1D) else QuantizedLinear
    return kind(packed, _bias_of(layer, device, dtype), dtype)


def _bias_of(layer: Any, device: torch.device, dtype: torch.dtype) -> nn.Parameter | None:
    if layer.bias is None:
        return None
    if layer.bias.is_meta:
        return nn.Parameter(torch.empty(layer.bias.shape, dtype=dtype, device=device), requires_grad=False)
    return nn.Parameter(layer.bias.detach().to(device, dtype), requires_grad=False)


def dense_weight(layer: nn.Module, dtype: torch.dtype | None = None) -> Tensor:
    """A linear map's weight as numbers, unpacked where it is packed: (out, in), (in, out) for a ``Conv1D``."""
    if isinstance(layer, _Nf4Storage):
        return layer.frozen.dense(dtype or layer.compute_dtype)
    weight: Tensor = layer.weight.detach()  # type: ignore[operator]
    return weight if dtype is None else weight.to(dtype)


def num_quantized(model: nn.Module) -> int:
    """How many weights of a model are packed; they are none of its parameters."""
    return sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, _Nf4Storage))
