"""The paged optimisers are refused where they cannot be had; what a checkpoint keeps of bitsandbytes' state comes back.

No GPU here: that the paged classes page, and train, is not tested.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tunesmith.config import build_config
from tunesmith.errors import ConfigError, MissingExtraError
from tunesmith.training.checkpoint import ResumeState, load_checkpoint, save_checkpoint
from tunesmith.training.optim import OptimConfig, _paged, build_optimizer

PAGED = ["paged_adamw_8bit", "paged_adamw_32bit"]


@pytest.mark.parametrize("name", PAGED)
def test_paged_moments_need_a_gpu(name: str) -> None:
    config = build_config(OptimConfig, {"optim": name}, place="test")
    with pytest.raises(ConfigError, match=rf"^optim: {name} .* trains on cpu\. Fix: Set optim: adamw\.$"):
        build_optimizer({"a": nn.Parameter(torch.zeros(2, 2))}, config)
    with pytest.raises(ConfigError, match="paged_adamw_8bit"):
        build_config(OptimConfig, {"optim": "paged_adamw"}, place="test")


def test_a_missing_bitsandbytes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tunesmith\[cuda\]'"):
        _paged(PAGED[0], {"cuda"})


def test_its_state_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    """By its 8-bit AdamW without paging, which runs on a CPU and keeps the same state."""
    optim = pytest.importorskip("bitsandbytes.optim", reason="bitsandbytes is not installed")

    def start() -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
        generator = torch.Generator().manual_seed(0)
        # The smaller one is below the size from which it packs moments.
        parameters = {name: nn.Parameter(torch.randn(n, 64, generator=generator)) for name, n in (("a", 80), ("b", 2))}
        return parameters, optim.AdamW8bit(list(parameters.values()), lr=0.01)

    def move(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, first: int, end: int) -> None:
        for step in range(first, end):
            for i, parameter in enumerate(parameters.values()):
                generator = torch.Generator().manual_seed(10 * step + i)
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()

    through, optimizer = start()
    move(through, optimizer, 0, 6)
    parameters, optimizer = start()
    move(parameters, optimizer, 0, 3)
    state = ResumeState(seed=0, plan={}, recipe={}, step=3)
    checkpoint = save_checkpoint(tmp_path, state, optimizer, parameters, lambda folder: None)
    parameters, optimizer = start()
    load_checkpoint(checkpoint, optimizer, parameters, recipe={})
    move(parameters, optimizer, 3, 6)
    for name, parameter in parameters.items():
        assert torch.equal(parameter, through[name])
