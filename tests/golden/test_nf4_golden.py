"""The code book is the paper's, and what 4 bits leave of a weight is what the reference leaves."""

from __future__ import annotations

import nf4_reference as reference
import numpy as np
import pytest
import torch

from tunesmith.kernels.nf4 import NF4_LEVELS, dequantize, magnitude_levels, quantize

CPU = torch.device("cpu")


def weights(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.02


def test_levels_are_the_quantiles_of_the_paper() -> None:
    # The paper prints values of an fp32 computation.
    assert np.allclose(NF4_LEVELS, reference.levels(), rtol=0, atol=2e-7)
    uneven = np.sort(np.concatenate([-reference.levels()[8:], reference.levels()[7:]]))[:16]
    assert not np.allclose(NF4_LEVELS, uneven, rtol=0, atol=1e-3)


def test_magnitude_levels_are_the_dynamic_tree() -> None:
    level = magnitude_levels(CPU).numpy()
    assert len(set(level.tolist())) == 256
    assert level[0] == pytest.approx(-0.99296875)
    assert (level.max(), level[127]) == (1.0, 0.0)
    # Every decade but the lowest is cut twice as finely as the one below.
    counts = [int(((level > 10.0**-k / 10) & (level < 10.0**-k)).sum()) for k in range(7)]
    assert counts == [64, 32, 16, 8, 4, 2, 1]


@pytest.mark.parametrize("shape", [(48, 64), (5, 7), (3, 64 * 257)])
def test_round_trip_equals_the_reference(shape: tuple[int, ...]) -> None:
    weight = weights(*shape)
    weight[0, :3] = 0.0
    ours = dequantize(quantize(weight), torch.float64).numpy()
    theirs = reference.round_trip(weight.numpy(), np.array(NF4_LEVELS), magnitude_levels(CPU).double().numpy())
    # fp32 against fp64; a value between two levels would differ by a whole step.
    assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-8)


def test_normal_weights_lose_less_than_on_even_levels() -> None:
    """The claim NF4 stands on, and the control that the reference's levels decide on the error at all."""
    weight = weights(64, 64).numpy()
    small = magnitude_levels(CPU).double().numpy()
    even = np.linspace(-1, 1, 16)
    errors = [
        np.square(reference.round_trip(weight, np.array(level), small) - weight).mean() for level in (NF4_LEVELS, even)
    ]
    ours = dequantize(quantize(torch.from_numpy(weight)), torch.float64).numpy()
    assert np.square(ours - weight).mean() == pytest.approx(errors[0], rel=1e-4)
    assert errors[0] < 0.9 * errors[1]
