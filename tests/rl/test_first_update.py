"""Before anything is learnt an update must find nothing changed: every ratio 1, and no KL where policy = reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rl_worlds import World, fresh_roles
from torch import Tensor

from tunesmith.models.roles import Base
from tunesmith.rollout.experience import packs, padded, policy_logprobs
from tunesmith.training.rl_update import UpdateConfig

Load = Callable[..., Any]


def first_mini_batch(base: Base, stir: float, micro_batch_tokens: int = 64) -> tuple[Tensor, Tensor, World]:
    """(log ratio of every token, log(policy / reference) of every token) as the first mini-batches find them."""
    config = UpdateConfig(
        algorithm="rloo", num_generations=4, max_new_tokens=6, num_mini_batches=2, micro_batch_tokens=micro_batch_tokens
    )
    world = World(base, fresh_roles(base, value=False, stir=stir), config, lambda r: float(len(r.ids)))
    seen = world.observe(world.answers(0))
    ratios, divergences = [], []
    # Other prompts share a pack than when the old log-probabilities were taken, and gradients are on.
    for prompts in ([2, 0], [3, 1]):
        for rows, packed in packs(seen.examples, 4, prompts, "policy", micro_batch_tokens):
            new_N, _ = policy_logprobs(base, packed, temperature=1.0, grad=True)
            new_bt = padded(new_N.detach(), [seen.examples[row].num_loss_tokens for row in rows])
            part = slice(0, new_bt.shape[1])
            mask_bt = seen.mask_BT[rows, part] != 0
            ratios.append((new_bt - seen.logprobs_BT[rows, part])[mask_bt])
            divergences.append((new_bt - seen.reference_BT[rows, part])[mask_bt])
    return torch.cat(ratios), torch.cat(divergences), world


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_in_the_reference_kernels_both_are_exact(load: Load, kind: str) -> None:
    ratio, kl, _ = first_mini_batch(load(kind, dtype="float32", kernels="reference"), stir=0.0)
    assert len(ratio) >= 40 and torch.equal(ratio, torch.zeros_like(ratio)) and torch.equal(kl, torch.zeros_like(kl))


def test_a_policy_apart_from_its_reference_has_ratio_1_and_some_kl(load: Load) -> None:
    ratio, kl, _ = first_mini_batch(load("llama", dtype="float32", kernels="reference"), stir=0.1)
    assert torch.equal(ratio, torch.zeros_like(ratio)) and float(kl.abs().max()) > 0.01


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 2e-5), ("float64", 1e-12), ("bfloat16", 0.1)])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_on_the_fast_path_rounding_is_all_there_is(load: Load, kind: str, dtype: str, bound: float) -> None:
    base = load(kind, dtype=dtype)
    assert base.decoder is not None
    ratio, kl, _ = first_mini_batch(base, stir=0.0, micro_batch_tokens=100)
    assert float(ratio.abs().max()) <= bound and float(kl.abs().max()) <= bound


def test_after_a_step_the_ratio_is_1_no_more(load: Load) -> None:
    """The control: what was exact is not so by construction."""
    base = load("llama", dtype="float32", kernels="reference")
    _, _, world = first_mini_batch(base, stir=0.1)
    rollouts = world.answers(0)
    seen = world.observe(rollouts)
    world.iterate(0, 1)
    again = world.observe(rollouts)
    assert float((again.logprobs_BT - seen.logprobs_BT).abs().max()) > 1e-4
