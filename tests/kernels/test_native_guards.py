"""What the compiled kernels do not take goes by operators or ends with a reason; nothing is read past its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from tests.kernels.test_forest import forest
from tunesmith.kernels import elementwise, native, native_attention, native_elementwise
from tunesmith.kernels.attention import AttentionRules, attention_reference, packed_attention, plan_attention
from tunesmith.kernels.head_loss import Head, ce_sum, target_logprobs
from tunesmith.kernels.native import NativeHalf, NativeInt8, library
from tunesmith.kernels.native_attention import plan_trees, tree_attention
from tunesmith.tokens.pack import ROOT

pytestmark = pytest.mark.skipif(isinstance(library(), str), reason=f"no compiled kernels: {library()}")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu")


def every_kernel() -> list[Tensor]:
    """Results and gradients of each of them, on the same numbers at every call."""
    packed, found = forest([5, 4, 3], [ROOT, 0, ROOT]), []
    q, k, v = (drawn(12, h, 8, seed=h).requires_grad_() for h in (4, 2, 2))
    out = tree_attention(q, k, v, plan_trees(packed), 0.3, None)
    found += [out, *torch.autograd.grad(out, (q, k, v), drawn(12, 4, 8))]
    x, w = drawn(4, 8).requires_grad_(), drawn(8, seed=1)
    angles = drawn(4, 4).repeat(1, 2)
    for one in (
        elementwise.rms_norm(x, w, 1e-5),
        elementwise.rope(x.view(4, 1, 8), angles.cos(), angles.sin()),
        elementwise.swiglu(x, x.flip(0)),
        ce_sum(x, torch.tensor([0, 3, 2, 1], device="cpu"), drawn(4).abs(), Head(drawn(6, 8, seed=2))),
        target_logprobs(x, torch.tensor([0, 3, 2, 1], device="cpu"), Head(drawn(6, 8, seed=2))),
    ):
        found += [one, *torch.autograd.grad(one.sum(), x)]
    return [one.detach() for one in found]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torchs_default_dtype_is_not_theirs(dtype: torch.dtype) -> None:
    wanted, before = every_kernel(), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        found = every_kernel()
    finally:
        torch.set_default_dtype(before)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_torchs_default_device_is_not_theirs() -> None:
    wanted = tree_attention(drawn(3, 1, 4), drawn(3, 1, 4), drawn(3, 1, 4), plan_trees(forest([3], [ROOT])), 0.5, None)
    packed = forest([3], [ROOT])
    with torch.device("meta"):
        trees = plan_trees(packed)
        found = tree_attention(drawn(3, 1, 4), drawn(3, 1, 4), drawn(3, 1, 4), trees, 0.5, None)
        normed = native_elementwise.norm(drawn(3, 4), drawn(4, seed=1), 1e-5)[0]
    assert torch.equal(found, wanted) and normed.device.type == "cpu"


def test_other_shapes_go_by_operators() -> None:
    gate, up = drawn(6, 8), drawn(1, 8, seed=1)
    assert torch.equal(elementwise.swiglu(gate, up), torch.nn.functional.silu(gate) * up)
    torch.testing.assert_close(
        elementwise.rms_norm(gate, drawn(1), 1e-5), elementwise.rms_norm_reference(gate, drawn(1), 1e-5)
    )
    with pytest.raises(RuntimeError, match="size"):
        elementwise.rms_norm(gate, drawn(4), 1e-5)
    x, angles = drawn(6, 2, 8), drawn(1, 4).repeat(1, 2)
    torch.testing.assert_close(
        elementwise.rope(x, angles.cos(), angles.sin()), elementwise.rope_reference(x, angles.cos(), angles.sin())
    )
    assert elementwise.swiglu(drawn(0, 8), drawn(0, 8)).shape == (0, 8)
    assert elementwise.rms_norm(drawn(0, 8), drawn(8), 1e-5).shape == (0, 8)


def test_heads_widths_and_counts_that_do_not_fit_are_not_taken() -> None:
    fits = (drawn(7, 4, 8), drawn(7, 2, 8), drawn(7, 2, 8))
    assert native_attention.takes(*fits)
    for q, k, v in (
        (drawn(7, 5, 8), *fits[1:]),
        (fits[0], fits[1], drawn(7, 2, 4)),
        (fits[0], drawn(6, 2, 8), drawn(6, 2, 8)),
        (fits[0].double(), *fits[1:]),
        (fits[0].bfloat16(), *fits[1:]),
    ):
        assert not native_attention.takes(q, k, v)
    with pytest.raises(ValueError, match="7 tokens for trees of 5"):
        tree_attention(*fits, plan_trees(forest([5], [ROOT])), 0.5, None)
    with pytest.raises(ValueError, match="a window of 0 tokens"):
        tree_attention(*fits, plan_trees(forest([7], [ROOT])), 0.5, 0)


@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_any_scale_is_the_definitions(scale: float) -> None:
    packed, rules = forest([70], [ROOT]), AttentionRules(scale=scale)
    q, k, v = (drawn(70, 2, 8, seed=s) for s in range(3))
    found = packed_attention(q, k, v, plan_attention(packed, rules), rules)
    torch.testing.assert_close(found, attention_reference(q, k, v, packed, rules), rtol=1e-5, atol=1e-5)


def test_targets_and_weights_are_one_a_row() -> None:
    hidden, head = drawn(5, 8), Head(drawn(9, 8, seed=1))
    with pytest.raises(ValueError, match="one target"):
        target_logprobs(hidden, torch.arange(5, dtype=torch.int32), head)
    with pytest.raises(ValueError, match="one weight"):
        ce_sum(hidden, torch.arange(5), torch.ones(1), head)


def test_large_logits_lose_nothing_to_their_size() -> None:
    logits = torch.tensor([[1e4, 1e4 + 1, 1e4 - 2]])
    wide = logits.double().requires_grad_()
    wanted = torch.log_softmax(wide, -1)[0, 0]
    (gradient,) = torch.autograd.grad(-wanted, wide)
    found = native_elementwise.target_logprobs_(logits, torch.tensor([0]), torch.ones(1), 1.0, True)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-6)
    torch.testing.assert_close(logits.double(), gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [NativeHalf, NativeInt8])
def test_no_rows_have_no_products(kind: Callable[[Tensor], NativeHalf]) -> None:
    assert kind(drawn(20, 8)).matmul(drawn(0, 8)).shape == (0, 20)


@pytest.mark.parametrize("name", ["attention", "norm", "rope", "swiglu", "ce_sum", "target_logprobs"])
def test_a_second_derivative_is_refused(name: str) -> None:
    x, head = drawn(3, 1, 8).requires_grad_(), Head(drawn(6, 8, seed=2))
    angles, targets = drawn(3, 4).repeat(1, 2), torch.arange(3)
    out = {
        "attention": lambda: tree_attention(x, x, x, plan_trees(forest([3], [ROOT])), 0.5, None),
        "norm": lambda: elementwise.rms_norm(x, drawn(8), 1e-5),
        "rope": lambda: elementwise.rope(x, angles.cos(), angles.sin()),
        "swiglu": lambda: elementwise.swiglu(x, x),
        "ce_sum": lambda: ce_sum(x[:, 0], targets, torch.ones(3), head),
        "target_logprobs": lambda: target_logprobs(x[:, 0], targets, head),
    }[name]()
    (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (first.sum() + x.sum()).backward()


def test_what_only_stands_for_numbers_goes_by_operators() -> None:
    with FakeTensorMode():
        assert elementwise.swiglu(torch.empty(4, 8), torch.empty(4, 8)).shape == (4, 8)
    with torch.no_grad(), forward_ad.dual_level():
        gate = forward_ad.make_dual(drawn(4, 8), drawn(4, 8, seed=1))
        tangent = forward_ad.unpack_dual(elementwise.swiglu(gate, drawn(4, 8, seed=2))).tangent
    assert tangent is not None and bool(tangent.any())


@pytest.mark.slow
@pytest.mark.skipif("avx512f" not in native._flags_of_processor(), reason="this processor has the narrow vectors alone")
@pytest.mark.parametrize("without", ["-mno-avx512f", "-mno-avx512bf16"])
def test_kernels_for_narrower_processors_pass_the_same_tests(without: str, tmp_path: Path) -> None:
    compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
    here = Path(__file__).parent
    files = [here / f"test_native{name}.py" for name in ("", "_attention", "_elementwise", "_head")]
    chosen = ["-k", "same_bits or any_forest or equal or are_those_of or many_blocks"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, files), *chosen],
        env={**os.environ, "CC": f"{compiler} {without}", "TUNESMITH_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=here.parents[1],
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert len(list((tmp_path / "native").glob("kernels-*.so"))) == 1 and " passed" in done.stdout
