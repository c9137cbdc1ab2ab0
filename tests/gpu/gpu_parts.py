"""Where the GPU tests run, and what they measured."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

# TUNESMITH_GPU_TESTS=cpu runs what does not need the card itself where there is none: to write the tests by.
DEVICE = torch.device(os.environ.get("TUNESMITH_GPU_TESTS", "cuda"))
on_a_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="no NVIDIA GPU here"),
]
card_only = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")


def note(name: str, value: Any) -> None:
    """Append a measurement to the file named in TUNESMITH_GPU_NOTES, if one is."""
    line = json.dumps({name: value})
    print(line)
    if path := os.environ.get("TUNESMITH_GPU_NOTES"):
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Numbers in fp64 on the CPU, the same for every device and dtype."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def on_device(*tensors: Tensor, dtype: torch.dtype, grad: bool = True) -> list[Tensor]:
    """Leaves on the card."""
    return [x.to(DEVICE, dtype).requires_grad_(grad) for x in tensors]


def rounded(*tensors: Tensor, grad: bool = True) -> list[Tensor]:
    """The same numbers as leaves in fp64 on the CPU: what a definition is computed on."""
    return [x.detach().double().cpu().requires_grad_(grad) for x in tensors]


def error(ours: Tensor, wanted: Tensor) -> float:
    """|ours - wanted| / |wanted|; NaN never passes a comparison."""
    wanted = wanted.detach().double().cpu()
    return float((ours.detach().double().cpu() - wanted).norm() / wanted.norm().clamp_min(1e-30))


def gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Of a fixed linear functional of ``out``, whatever its device and dtype."""
    weights = torch.arange(out.numel(), dtype=torch.float64).view(out.shape).sin()
    return list(torch.autograd.grad((out * weights.to(out)).sum(), inputs, retain_graph=True))


def assert_equal(ours: Tensor, mine: list[Tensor], wanted: Tensor, theirs: list[Tensor], bound: float) -> None:
    """Values and gradients within a relative distance."""
    found = [error(ours, wanted)]
    found += [error(a, b) for a, b in zip(gradients(ours, mine), gradients(wanted, theirs), strict=True)]
    assert all(gap < bound for gap in found), found
