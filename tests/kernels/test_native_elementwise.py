"""elementwise.c against the plain formulas in fp64, forward and backward, and who it serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tunesmith.kernels import elementwise, native_elementwise
from tunesmith.kernels.native import library

pytestmark = pytest.mark.skipif(isinstance(library(), str), reason=f"no compiled kernels: {library()}")
# Of the largest number of each result; in bf16 the formulas round up to three times, 2^-9 each.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
WIDTHS = [2, 6, 16, 22, 64, 130]


def numbers(*shape: int, seed: int = 0, times: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * times


def cases(width: int) -> dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor], int]]:
    """Name -> ours, the formula, what they are given, how many of it get a gradient."""
    angles = numbers(5, width // 2, seed=3).repeat(1, 2)
    return {
        "norm": (
            lambda x, w: elementwise.rms_norm(x, w, 1e-5),
            lambda x, w: elementwise.rms_norm_reference(x, w, 1e-5),
            [numbers(5, 3, width), numbers(width, seed=1)],
            1,
        ),
        "rope": (
            elementwise.rope,
            elementwise.rope_reference,
            [numbers(5, 3, width), angles.cos(), angles.sin()],
            1,
        ),
        "swiglu": (
            elementwise.swiglu,
            elementwise.swiglu_reference,
            [numbers(5, width, times=8.0), numbers(5, width, seed=1)],
            2,
        ),
    }


def results(function: Callable[..., Tensor], given: list[Tensor], learn: int, dtype: torch.dtype) -> list[Tensor]:
    given = [x.to(dtype).requires_grad_(i < learn) for i, x in enumerate(given)]
    out = function(*given)
    grad = numbers(*out.shape, seed=9).to(torch.bfloat16).to(dtype)
    return [out.detach(), *torch.autograd.grad(out, given[:learn], grad)]


def far(ours: list[Tensor], wanted: list[Tensor]) -> float:
    return max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(ours, wanted, strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["norm", "rope", "swiglu"])
def test_each_equals_its_formula(name: str, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, formula, given, learn = cases(width)[name]
    # Neither side may have more digits to begin with.
    given = [x.to(dtype).float() for x in given]
    called: list[str] = []
    call = native_elementwise._call
    monkeypatch.setattr(native_elementwise, "_call", lambda name, *rest: called.append(name) or call(name, *rest))
    found = results(ours, given, learn, dtype)
    assert len(called) == 2
    wanted = results(formula, given, learn, torch.float64)
    assert far(found, wanted) < TOLERANCE[dtype]
    # The controls: other numbers in one place, and a gradient that was forgotten.
    moved = [given[0].clone(), *given[1:]]
    moved[0].view(-1)[-1] = 6.0
    assert far(results(ours, moved, learn, dtype), wanted) > TOLERANCE[dtype]
    assert far([found[0], *(torch.zeros_like(x) for x in found[1:])], wanted) > TOLERANCE[dtype]
    with torch.no_grad():
        assert torch.equal(ours(*(x.to(dtype) for x in given)), found[0])


@pytest.mark.parametrize("name", ["norm", "rope", "swiglu"])
def test_bits_do_not_depend_on_threads_or_other_rows(name: str) -> None:
    ours, _, given, learn = cases(22)[name]
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            found.append(results(ours, given, learn, torch.bfloat16))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for one in found[1:] for a, b in zip(one, found[0], strict=True))
    fewer = [x if x.dim() == 1 else x[:2] for x in given]
    with torch.no_grad():
        assert torch.equal(ours(*(x.bfloat16() for x in fewer)), found[0][0][:2])


@pytest.mark.parametrize("name", ["norm", "rope", "swiglu"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(name: str, wrong: float) -> None:
    ours, _, given, learn = cases(22)[name]
    given[0][1, ..., 3] = wrong
    found = results(ours, given, learn, torch.float32)
    assert not bool(found[0][1].isfinite().all())
    assert all(bool(x[[0, 2, 3, 4]].isfinite().all()) for x in found)


def test_silu_at_its_ends() -> None:
    gate = torch.tensor([-200.0, -100.0, -88.0, -87.0, -20.0, 0.0, 20.0, 88.0, 200.0, 3e38])
    found = results(elementwise.swiglu, [gate, torch.ones(10)], 2, torch.float32)
    wanted = results(elementwise.swiglu_reference, [gate, torch.ones(10)], 2, torch.float64)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-35)


def test_a_weight_that_learns_or_another_dtype_goes_by_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(native_elementwise, "_call", lambda name, *rest: called.append(name))
    given: dict[str, Any] = {"x": numbers(4, 8).double(), "w": numbers(8).double()}
    elementwise.rms_norm(given["x"], given["w"], 1e-5)
    elementwise.rms_norm(given["x"].float(), given["w"].bfloat16(), 1e-5)
    elementwise.swiglu(numbers(8, 4).T, numbers(4, 8))
    assert called == []
    monkeypatch.undo()
    x, w = numbers(4, 8).requires_grad_(), numbers(8, seed=1).requires_grad_()
    ours = torch.autograd.grad(elementwise.rms_norm(x, w, 1e-5).square().sum(), (x, w))
    theirs = torch.autograd.grad(elementwise.rms_norm_reference(x, w, 1e-5).square().sum(), (x, w))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
