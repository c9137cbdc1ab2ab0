"""The bottleneck kernel equals its plain reference in fp64 and passes gradcheck, and a broken one is noticed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tunesmith.kernels.bottleneck import ACTIVATIONS, NonLinearity, bottleneck, bottleneck_reference


def inputs(beside: bool, dtype: torch.dtype = torch.float64) -> list[Tensor | None]:
    """x, y or None, down, its bias, up, its bias; where y stands beside x, x has another width."""
    width = 5 if beside else 7
    shapes = [(4, width), (4, 7), (3, width), (3,), (7, 3), (7,)]
    made: list[Tensor | None] = [
        torch.randn(shape, generator=torch.Generator().manual_seed(i), dtype=dtype).requires_grad_()
        for i, shape in enumerate(shapes)
    ]
    return made if beside else [made[0], None, *made[2:]]


def gradients(out: Tensor, given: list[Tensor | None]) -> list[Tensor]:
    weighted = (out * torch.arange(out.numel()).view(out.shape).sin()).sum()
    return list(torch.autograd.grad(weighted, [x for x in given if x is not None]))


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("non_linearity", list(ACTIVATIONS))
def test_bottleneck_equals_reference_and_passes_gradcheck(non_linearity: NonLinearity, beside: bool) -> None:
    given = inputs(beside)
    ours, theirs = (f(*given, non_linearity, 0.7) for f in (bottleneck, bottleneck_reference))  # type: ignore[arg-type]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    expected = gradients(theirs, given)
    got = gradients(ours, given)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *t: bottleneck(*t, non_linearity, 0.7), tuple(given))
    # Controls: another function and another scale give other values, and a flipped gradient is no equal.
    other: NonLinearity = "silu" if non_linearity == "gelu" else "gelu"
    for change in ((other, 0.7), (non_linearity, 1.0)):
        assert not torch.allclose(ours, bottleneck(*given, *change))  # type: ignore[arg-type]
    for i in range(len(expected)):
        with pytest.raises(AssertionError):
            torch.testing.assert_close(-got[i], expected[i], rtol=1e-3, atol=1e-3)


def test_only_the_input_and_the_small_product_are_kept() -> None:
    x, _, *own = inputs(beside=False)
    kept: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        bottleneck(x, None, *own, "gelu", 1.0)  # type: ignore[arg-type]
    assert sorted(kept) == [(3, 7), (4, 3), (4, 7), (7, 3)]
    # Control: autograd keeps the product after the non-linearity too.
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        bottleneck_reference(x, None, *own, "gelu", 1.0)  # type: ignore[arg-type]
    assert kept.count((4, 3)) > 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_give_fp32_gradients_of_fp32_parameters(dtype: torch.dtype) -> None:
    found = {}
    for kind in (torch.float32, dtype):
        given = inputs(beside=True, dtype=torch.float32)
        x, y = (given[i].detach().to(kind).requires_grad_() for i in (0, 1))  # type: ignore[union-attr]
        given = [x, y, *given[2:]]
        out = bottleneck(*given, "silu", 2.0)  # type: ignore[arg-type]
        assert out.dtype == kind
        found[kind] = gradients(out.float(), given)
        assert [g.dtype for g in found[kind]] == [kind, kind, *[torch.float32] * 4]
    torch.testing.assert_close(found[dtype], found[torch.float32], rtol=0.1, atol=0.05, check_dtype=False)
