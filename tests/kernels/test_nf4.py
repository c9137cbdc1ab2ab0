"""NF4 storage: its size, its layout, and products and gradients as those of the dense weight it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from tunesmith.kernels import nf4
from tunesmith.kernels.frozen import DenseWeight, FrozenWeight, TransposedWeight, frozen_linear
from tunesmith.kernels.lora import lora_group, lora_linear
from tunesmith.kernels.nf4 import QuantizedWeight, dequantize, dequantize_reference, quantize

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def test_bits_of_a_weight_are_those_of_the_paper() -> None:
    """Section 3: 32 / 64 = 0.5 bits for magnitudes, 8 / 64 + 32 / (64 * 256) = 0.127 bits where they are packed too."""
    weight = random(512, 1024).float()
    once, twice = quantize(weight, double_quant=False), quantize(weight)
    assert 8 * once.num_bytes / weight.numel() == 4 + 32 / 64
    # The mean is one number for the whole tensor.
    assert 8 * twice.num_bytes / weight.numel() == 4 + 8 / 64 + 32 / (64 * 256) + 32 / weight.numel()
    assert round(8 * twice.num_bytes / weight.numel(), 3) == 4.127


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 64), (96, 128), (2, 63, 3), (300, 65)])
@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_fast_unpacking_equals_the_plain_one(
    shape: tuple[int, ...], double_quant: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(nf4, "team", lambda dtype, device: 0)
    packed = quantize(random(*shape), double_quant=double_quant)
    # Small enough that the larger shapes are several chunks, the last of them a part of one.
    monkeypatch.setattr(nf4, "CHUNK", 1024)
    for dtype in DTYPES:
        assert torch.equal(dequantize(packed, dtype), dequantize_reference(packed, dtype))
    repacked = quantize(random(*shape), double_quant=double_quant)
    assert torch.equal(repacked.codes_P, packed.codes_P)
    assert torch.equal(repacked.magnitude_B, packed.magnitude_B)


def test_zeros_stay_zero() -> None:
    weight = random(4, 64)
    weight[1] = 0.0
    assert not dequantize(quantize(weight, double_quant=False), torch.float64)[1].any()
    assert not dequantize(quantize(torch.zeros(4, 64)), torch.float64).any()


@pytest.mark.parametrize("shape", [(96, 128), (5, 7)])
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_layout_is_that_of_bitsandbytes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    weight = random(*shape, scale=0.02).to(dtype)
    codes, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=False)
    ours = quantize(weight, double_quant=False)
    assert torch.equal(codes.view(-1), ours.codes_P)
    assert torch.equal(state.absmax, ours.magnitude_B)
    assert torch.equal(state.code, nf4.levels(weight.device))
    if shape[-1] % 2 == 0:
        # Its kernel for odd rows computes in another way.
        assert torch.equal(functional.dequantize_4bit(codes, state), dequantize(ours, dtype))


def test_second_quantisation_is_that_of_bitsandbytes() -> None:
    """Its kernel for the CPU takes a neighbouring level now and then; ours is never the farther one."""
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    weight = random(300, 1024, scale=0.02).float()
    codes, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    ours, level = quantize(weight), nf4.magnitude_levels(weight.device)
    assert torch.equal(codes.view(-1), ours.codes_P)
    assert torch.equal(state.state2.code, level)
    assert torch.equal(state.state2.absmax, ours.magnitude_scale_C)
    assert torch.equal(state.offset, ours.magnitude_mean)
    assert float((state.absmax != ours.magnitude_B).float().mean()) < 0.01
    scales = ours.magnitude_scale_C.repeat_interleave(nf4.MAGNITUDE_BLOCK)[: ours.magnitude_B.numel()].double()
    wanted = (quantize(weight, double_quant=False).magnitude_B - ours.magnitude_mean).double() / scales
    far, near = ((level[number.int()].double() - wanted).abs() for number in (state.absmax, ours.magnitude_B))
    assert bool((near <= far + 1e-6).all())
    # What either packed, the other unpacks.
    state.absmax = ours.magnitude_B
    assert torch.equal(functional.dequantize_4bit(ours.codes_P[:, None], state), dequantize(ours, torch.float32))


def both(seed: int, out: int, transposed: bool) -> tuple[QuantizedWeight, FrozenWeight]:
    """A packed weight of 24 features in, and the dense one it stands for."""
    packed = quantize(random(24, out, seed=seed) if transposed else random(out, 24, seed=seed))
    dense = dequantize_reference(packed, torch.float64)
    return QuantizedWeight(packed, transposed=transposed), TransposedWeight(dense) if transposed else DenseWeight(dense)


@pytest.mark.parametrize("transposed", [False, True])
def test_products_are_those_of_the_dense_weight(transposed: bool) -> None:
    packed, dense = both(0, 16, transposed)
    x, grad = random(6, 24, seed=1), random(6, 16, seed=2)
    assert torch.equal(packed.matmul(x), dense.matmul(x))
    assert torch.equal(packed.matmul_t(grad), dense.matmul_t(grad))
    ours, theirs = torch.ones(6, 24).double(), torch.ones(6, 24).double()
    packed.add_matmul_t_(ours, grad)
    dense.add_matmul_t_(theirs, grad)
    assert torch.equal(ours, theirs)
    assert not torch.allclose(packed.matmul_t(grad), both(7, 16, transposed)[1].matmul_t(grad))


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_are_those_of_autograd_over_the_dense_weight(transposed: bool) -> None:
    frozen = [both(seed, out, transposed)[0] for seed, out in ((0, 16), (1, 8))]
    matrices = [w.dense(torch.float64).T if transposed else w.dense(torch.float64) for w in frozen]
    a = [random(3, 24, seed=2).requires_grad_(), random(3, 24, seed=3).requires_grad_()]
    b = [random(16, 3, seed=4).requires_grad_(), random(8, 3, seed=5).requires_grad_()]
    x = random(6, 24, seed=6).requires_grad_()

    def gradients(outputs: list[Tensor]) -> list[Tensor]:
        total = sum((y.sin().sum() for y in outputs), torch.zeros(()).double())
        return list(torch.autograd.grad(total, [x, *a, *b]))

    plain = [linear(x, w) + 0.5 * (x @ a_RI.T) @ b_OR.T for w, a_RI, b_OR in zip(matrices, a, b, strict=True)]
    wanted = gradients(plain)
    grouped = gradients(list(lora_group(x, frozen, a, b, [0.5, 0.5])))
    single = gradients([lora_linear(x, w, a_RI, b_OR, 0.5) for w, a_RI, b_OR in zip(frozen, a, b, strict=True)])
    for one, two, three in zip(wanted, grouped, single, strict=True):
        assert torch.allclose(two, one, rtol=1e-10, atol=1e-12)
        assert torch.allclose(three, one, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda t: frozen_linear(t, frozen[0]), (random(2, 24).requires_grad_(),))
