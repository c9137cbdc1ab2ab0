"""On a GPU each kernel equals its definition in fp64 on the CPU, value and gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gpu_parts import DEVICE, assert_equal, card_only, error, gradients, on_a_gpu, on_device, randn, rounded

from tunesmith.kernels import attention, nf4
from tunesmith.kernels.attention import AttentionRules, attention_reference, packed_attention, plan_attention
from tunesmith.kernels.bottleneck import ACTIVATIONS, NonLinearity, bottleneck, bottleneck_reference
from tunesmith.kernels.elementwise import (
    rms_norm,
    rms_norm_reference,
    rope,
    rope_reference,
    swiglu,
    swiglu_reference,
)
from tunesmith.kernels.frozen import DenseWeight, TransposedWeight
from tunesmith.kernels.head_loss import (
    Head,
    ce_sum,
    ce_sum_reference,
    logits_of,
    reference_logprobs,
    scored_logprobs,
    target_logprobs,
    token_logprobs,
)
from tunesmith.kernels.lora import dropout_rows, lora_group, lora_linear, lora_linear_reference
from tunesmith.kernels.nf4 import QuantizedWeight, dequantize, dequantize_reference, quantize
from tunesmith.records import Example, Where
from tunesmith.tokens.pack import ROOT, Packed, pack

pytestmark = on_a_gpu
# dtype -> the relative distance allowed: rounding of the products' operands, and of sums over some hundred of them.
BOUNDS = [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)]
RULES = AttentionRules(scale=0.35)
FORESTS = {
    "one row": ([70], [ROOT]),
    "rows": ([33, 5, 1, 64, 300, 290, 17], [ROOT] * 7),
    "pairs": ([40, 9, 12, 35, 20, 21], [ROOT, 0, 0, ROOT, 3, 3]),
    "deep": ([12, 7, 7, 300, 1, 2, 9], [ROOT, 0, 1, 2, 2, ROOT, 5]),
}


def forest(lengths: list[int], parents: list[int]) -> Packed:
    rows = [
        Example(ids=np.arange(n), loss_weight=np.zeros(n, np.float32), row_id=i, where=Where("t", i))
        for i, n in enumerate(lengths)
    ]
    return pack(rows, parents=parents)


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("name", FORESTS)
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
def test_attention(name: str, heads: tuple[int, int], dtype: torch.dtype, bound: float) -> None:
    here = forest(*FORESTS[name])
    shapes = [(here.num_tokens, count, 16) for count in (heads[0], heads[1], heads[1])]
    mine = on_device(*(randn(*shape, seed=i) for i, shape in enumerate(shapes)), dtype=dtype)
    theirs = rounded(*mine)
    ours = packed_attention(*mine, plan_attention(here.to(DEVICE), RULES), RULES)
    assert ours.device.type == DEVICE.type and ours.dtype == dtype
    assert_equal(ours, mine, attention_reference(*theirs, here, RULES), theirs, bound)


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("rules", [AttentionRules(scale=0.3, window=9), AttentionRules(scale=0.3, softcap=5.0)])
def test_attention_that_only_the_definition_has(rules: AttentionRules, dtype: torch.dtype, bound: float) -> None:
    here = forest(*FORESTS["deep"])
    mine = on_device(*(randn(here.num_tokens, n, 8, seed=n) for n in (4, 2, 2)), dtype=dtype)
    theirs = rounded(*mine)
    ours = packed_attention(*mine, plan_attention(here.to(DEVICE), rules), rules)
    assert_equal(ours, mine, attention_reference(*theirs, here, rules), theirs, bound)


@card_only
def test_rows_in_16_bits_take_one_call_of_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    assert attention.flash_fault(torch.zeros(1, device=DEVICE).device) is None
    calls = []
    flash = attention._flash_rows
    monkeypatch.setattr(attention, "_flash_rows", lambda *given: calls.append(1) or flash(*given))
    for name, wanted in (("rows", 1), ("pairs", 0)):
        calls.clear()
        here = forest(*FORESTS[name]).to(DEVICE)
        qkv = on_device(*(randn(here.num_tokens, n, 16) for n in (4, 2, 2)), dtype=torch.bfloat16)
        packed_attention(*qkv, plan_attention(here, RULES), RULES)
        assert len(calls) == wanted


def head_of(dtype: torch.dtype, softcap: float | None) -> tuple[Head, Head]:
    weight, bias = on_device(randn(97, 24, seed=1) * 0.3, randn(97, seed=2), dtype=dtype, grad=False)
    return (
        Head(weight, bias, softcap, 0.7),
        Head(weight.double().cpu(), bias.double().cpu(), softcap, 0.7),
    )


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("softcap", [None, 6.0])
@pytest.mark.parametrize("what", ["sum", "target", "token"])
def test_head(what: str, softcap: float | None, dtype: torch.dtype, bound: float) -> None:
    head, wide = head_of(dtype, softcap)
    mine = on_device(randn(300, 24), dtype=dtype)
    theirs = rounded(*mine)
    targets_N = torch.arange(300) * 7 % 97
    weights_N = randn(300, seed=5).abs().float()
    if what == "sum":
        ours = ce_sum(mine[0], targets_N.to(DEVICE), weights_N.to(DEVICE), head)
        wanted = ce_sum_reference(theirs[0], targets_N, weights_N.double(), wide)
    elif what == "target":
        ours = target_logprobs(mine[0], targets_N.to(DEVICE), head)
        wanted = torch.log_softmax(logits_of(theirs[0], wide), -1).gather(1, targets_N[:, None]).squeeze(1)
    else:
        logprobs, entropy = token_logprobs(mine[0], targets_N.to(DEVICE), head)
        ours = logprobs + 0.5 * entropy
        all_NV = torch.log_softmax(logits_of(theirs[0], wide), -1)
        wanted = all_NV.gather(1, targets_N[:, None]).squeeze(1) - 0.5 * (all_NV.exp() * all_NV).sum(-1)
    assert_equal(ours, mine, wanted, theirs, bound)


def test_head_without_gradients() -> None:
    head, wide = head_of(torch.float32, None)
    (hidden,), targets_N = on_device(randn(300, 24), dtype=torch.float32, grad=False), torch.arange(300) % 97
    logprobs, entropy = reference_logprobs(hidden, targets_N.to(DEVICE), head)
    scored, greedy = scored_logprobs(hidden, targets_N.to(DEVICE), head)
    wanted = reference_logprobs(hidden.double().cpu(), targets_N, wide)
    assert max(error(a, b) for a, b in zip((logprobs, entropy), wanted, strict=True)) < 2e-5
    assert error(scored, wanted[0]) < 2e-5
    assert greedy.cpu().equal(logits_of(hidden, head).argmax(-1).cpu() == targets_N)


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("weight_grad", ["rows", "full"])
def test_head_that_learns(weight_grad: Any, dtype: torch.dtype, bound: float) -> None:
    """The weight is an fp32 parameter, multiplied in the states' dtype."""
    (weight,) = on_device(randn(97, 24, seed=1) * 0.3, dtype=torch.float32)
    (hidden,) = on_device(randn(300, 24), dtype=dtype)
    rows = torch.tensor([3, 50], device=DEVICE) if weight_grad == "rows" else None
    targets_N, weights_N = torch.arange(300) % 97, torch.ones(300)
    given = targets_N.to(DEVICE), weights_N.to(DEVICE), Head(weight), weight_grad, rows
    found = torch.autograd.grad(ce_sum(hidden, *given), [hidden, weight])
    theirs = rounded(hidden, weight)
    wanted = torch.autograd.grad(ce_sum_reference(theirs[0], targets_N, weights_N.double(), Head(theirs[1])), theirs)
    assert error(found[0], wanted[0]) < bound
    kept = slice(None) if rows is None else rows.cpu()
    assert error(found[1].cpu()[kept], wanted[1][kept]) < bound
    if rows is not None:
        assert not found[1].cpu()[[0, 4, 96]].any()


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("storage", ["dense", "transposed", "nf4"])
def test_lora(storage: str, dtype: torch.dtype, bound: float) -> None:
    weights = [randn(n, 64, seed=n) for n in (48, 16)]
    a, b = [randn(r, 64, seed=10 + r) for r in (4, 2)], [randn(n, r, seed=20 + r) for n, r in ((48, 4), (16, 2))]
    mine = on_device(randn(33, 64), dtype=dtype) + on_device(*a, *b, dtype=torch.float32)
    theirs = rounded(*mine)
    frozen: list[Any] = []
    for weight in weights:
        (there,) = on_device(weight, dtype=dtype, grad=False)
        if storage == "nf4":
            frozen.append(QuantizedWeight(quantize(there)))
        else:
            frozen.append(DenseWeight(there) if storage == "dense" else TransposedWeight(there.T.contiguous()))
    plain = [
        DenseWeight(
            (w.dense(dtype) if storage == "nf4" else w.weight_OI if storage == "dense" else w.weight_IO.T)
            .double()
            .cpu()
        )
        for w in frozen
    ]
    wanted = torch.cat(
        [lora_linear_reference(theirs[0], plain[i], theirs[1 + i], theirs[3 + i], 0.7 + i) for i in range(2)], 1
    )
    together = torch.cat(lora_group(mine[0], frozen, mine[1:3], mine[3:], (0.7, 1.7)), 1)
    assert_equal(together, mine, wanted, theirs, bound)
    alone = torch.cat([lora_linear(mine[0], frozen[i], mine[1 + i], mine[3 + i], 0.7 + i) for i in range(2)], 1)
    assert_equal(alone, mine, wanted, theirs, bound)


def test_dropout_drops_what_a_cpu_drops() -> None:
    x = randn(9, 6).float()
    there = dropout_rows(x.to(DEVICE), 0.4, [3, 4], (5, 4), 2)
    torch.testing.assert_close(there.cpu(), dropout_rows(x, 0.4, [3, 4], (5, 4), 2))


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("non_linearity", list(ACTIVATIONS))
@pytest.mark.parametrize("beside", [False, True])
def test_bottleneck(beside: bool, non_linearity: NonLinearity, dtype: torch.dtype, bound: float) -> None:
    inputs = on_device(randn(33, 24), randn(33, 24, seed=1), dtype=dtype)[: 1 + beside]
    matrices = on_device(
        randn(6, 24, seed=2), randn(6, seed=3), randn(24, 6, seed=4), randn(24, seed=5), dtype=torch.float32
    )
    mine = inputs + matrices
    theirs = rounded(*mine)

    def run(kernel: Callable[..., Any], given: list[Any]) -> Any:
        x, y, rest = given[0], given[1] if beside else None, given[1 + beside :]
        return kernel(x, y, *rest, non_linearity, 0.8)

    # A relu's kink is on the other side for some inputs in 16 bits.
    assert_equal(run(bottleneck, mine), mine, run(bottleneck_reference, theirs), theirs, 4 * bound)


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
def test_elementwise(dtype: torch.dtype, bound: float) -> None:
    x, weight = on_device(randn(33, 24), randn(24, seed=1), dtype=dtype)
    theirs = rounded(x, weight)
    assert_equal(rms_norm(x, weight, 1e-5), [x, weight], rms_norm_reference(*theirs, 1e-5), theirs, bound)
    gate, up = on_device(randn(33, 40), randn(33, 40, seed=1), dtype=dtype)
    theirs = rounded(gate, up)
    assert_equal(swiglu(gate, up), [gate, up], swiglu_reference(*theirs), theirs, bound)
    (heads,) = on_device(randn(33, 4, 8), dtype=dtype)
    angles = torch.arange(33)[:, None].double() * torch.tensor([1.0, 0.3, 0.1, 0.01] * 2).double()
    cos, sin = on_device(angles.cos(), angles.sin(), dtype=dtype, grad=False)
    (wide,) = rounded(heads)
    wanted = rope_reference(wide, *rounded(cos, sin, grad=False))
    assert_equal(rope(heads, cos, sin), [heads], wanted, [wide], bound)


SHAPES = [(96, 128), (5, 7), (300, 1024), (1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_packing_is_that_of_a_cpu(shape: tuple[int, ...]) -> None:
    weight = (randn(*shape) * 0.02).float()
    there, here = quantize(weight.to(DEVICE), double_quant=False), quantize(weight, double_quant=False)
    assert torch.equal(there.codes_P.cpu(), here.codes_P)
    assert torch.equal(there.magnitude_B.cpu(), here.magnitude_B)
    # A mean's last bit depends on the order of its sum.
    there, here = quantize(weight.to(DEVICE)), quantize(weight)
    assert error(dequantize(there, torch.float64), dequantize(here, torch.float64)) < 1e-3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("with_bitsandbytes", [True, False])
def test_unpacking(
    shape: tuple[int, ...],
    double_quant: bool,
    dtype: torch.dtype,
    with_bitsandbytes: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if with_bitsandbytes:
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    monkeypatch.setattr(nf4, "_has_bitsandbytes", lambda: with_bitsandbytes)
    packed = quantize((randn(*shape) * 0.02).to(DEVICE, torch.float32), double_quant=double_quant)
    ours = dequantize(packed, dtype)
    assert ours.device.type == DEVICE.type and ours.dtype == dtype and ours.shape == shape
    wanted = dequantize_reference(packed, dtype)
    if dtype == torch.float64 and with_bitsandbytes:
        wanted = dequantize_reference(packed, torch.float32).double()
    assert torch.equal(ours, wanted)


@card_only
@pytest.mark.parametrize("transposed", [False, True])
def test_a_packed_weights_gradient_outlives_a_pass_without_one(transposed: bool) -> None:
    packed = QuantizedWeight(quantize((randn(64, 48) * 0.1).to(DEVICE, torch.bfloat16)), transposed=transposed)
    a, b = on_device(randn(4, 64 if transposed else 48), randn(48 if transposed else 64, 4), dtype=torch.float32)
    (x,) = on_device(randn(9, 64 if transposed else 48, seed=3), dtype=torch.bfloat16)
    before = gradients(lora_linear(x, packed, a, b, 0.5), [x, a, b])
    with torch.no_grad():
        lora_linear(x[:1], packed, a, b, 0.5)
    after = gradients(lora_linear(x, packed, a, b, 0.5), [x, a, b])
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
