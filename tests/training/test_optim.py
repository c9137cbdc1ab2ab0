"""The learning rate equals transformers', AdamW equals its paper, and the same numbers come out every time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import get_scheduler

from tunesmith.config import build_config
from tunesmith.errors import ConfigError
from tunesmith.training.optim import OptimConfig, build_optimizer, clip_gradients, learning_rate_at

NUM_STEPS = 37


def rates_of_transformers(name: str, warmup: int, num_steps: int, peak: float) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=num_steps)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [{}, {"warmup_steps": 5}, {"warmup_ratio": 0.1}, {"warmup_steps": 50}])
def test_learning_rate_equals_transformers(kind: str, warmup: dict[str, Any]) -> None:
    config = build_config(OptimConfig, {"learning_rate": 3e-4, "lr_scheduler_type": kind, **warmup}, place="test")
    warmup_steps = config.warmup_steps or math.ceil(config.warmup_ratio * NUM_STEPS)
    theirs = rates_of_transformers(
        "constant_with_warmup" if kind == "constant" else kind, warmup_steps, NUM_STEPS, config.learning_rate
    )
    ours = [learning_rate_at(step, NUM_STEPS, config) for step in range(NUM_STEPS)]
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-18)
    # Negative control: a schedule shifted by one step, or made for one step more, is noticed.
    if kind != "constant" or warmup:
        assert [learning_rate_at(step + 1, NUM_STEPS, config) for step in range(NUM_STEPS)] != pytest.approx(theirs)
    if kind != "constant" and warmup_steps < NUM_STEPS:
        assert [learning_rate_at(step, NUM_STEPS + 1, config) for step in range(NUM_STEPS)] != pytest.approx(theirs)


@settings(deadline=None, max_examples=60)
@given(
    num_steps=st.integers(1, 400),
    warmup=st.integers(0, 400),
    kind=st.sampled_from(["cosine", "linear", "constant"]),
)
def test_learning_rate_rises_to_the_peak_and_never_again(num_steps: int, warmup: int, kind: Any) -> None:
    config = OptimConfig(learning_rate=1e-3, warmup_steps=warmup, lr_scheduler_type=kind)
    rates = [learning_rate_at(step, num_steps, config) for step in range(num_steps + 3)]
    assert all(0 <= rate <= 1e-3 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    if warmup < num_steps:
        assert rates[warmup] == 1e-3
        assert rates[num_steps] == pytest.approx(1e-3 if kind == "constant" else 0, abs=1e-18)


@pytest.mark.parametrize(
    "settings_of_recipe",
    [
        {"learning_rate": 0},
        {"learning_rate": 2},
        {"learning_rate": float("nan")},
        {"weight_decay": -0.1},
        {"adam_beta1": 1.0},
        {"adam_beta2": -0.5},
        {"adam_epsilon": 0},
        {"max_grad_norm": -1},
        {"warmup_ratio": 1.0},
        {"warmup_steps": -1},
        {"lr_scheduler_type": "cosin"},
        {"learning_rat": 1e-4},
    ],
)
def test_values_out_of_range_are_refused_by_name(settings_of_recipe: dict[str, Any]) -> None:
    (key,) = settings_of_recipe
    with pytest.raises(ConfigError, match=f"recipe.yaml:{key}"):
        build_config(OptimConfig, settings_of_recipe, place="recipe.yaml")


def test_two_warmups_are_refused() -> None:
    with pytest.raises(ConfigError, match="warmup_ratio and warmup_steps are both set"):
        build_config(OptimConfig, {"warmup_ratio": 0.1, "warmup_steps": 5}, place="recipe.yaml")


def test_weight_decay_spares_vectors() -> None:
    named = dict(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).named_parameters())
    optimizer = build_optimizer(named, OptimConfig(weight_decay=0.1))
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert [id(p) for p in groups["matrices"]["params"]] == [id(named["0.weight"])]
    assert {id(p) for p in groups["vectors"]["params"]} == {id(named[n]) for n in ("0.bias", "1.weight", "1.bias")}
    assert (groups["matrices"]["weight_decay"], groups["vectors"]["weight_decay"]) == (0.1, 0.0)


def lora_pair() -> dict[str, nn.Parameter]:
    draws = torch.Generator().manual_seed(3)
    shapes = {"q.lora_A.x.weight": (2, 5), "q.lora_B.x.weight": (4, 2), "q.lora_magnitude_vector.x.weight": (4,)}
    return {name: nn.Parameter(torch.randn(shape, generator=draws).double()) for name, shape in shapes.items()}


def test_loraplus_lets_the_b_matrices_alone_learn_faster() -> None:
    """As two optimisers of plain AdamW, one at each rate; PEFT's helper makes the same groups of the matrices."""
    config = OptimConfig(learning_rate=0.01, weight_decay=0.1, loraplus_lr_ratio=16)
    ours, theirs = lora_pair(), lora_pair()
    optimizer = build_optimizer(ours, config)
    assert {group["name"]: group["lr_ratio"] for group in optimizer.param_groups} == {
        "matrices": 1.0, "lora_B": 16.0, "vectors": 1.0,
    }  # fmt: skip
    a, b, vector = theirs.values()
    plain = [
        torch.optim.AdamW([a], lr=0.01, weight_decay=0.1),
        torch.optim.AdamW([b], lr=0.16, weight_decay=0.1),
        torch.optim.AdamW([vector], lr=0.01, weight_decay=0.0),
    ]
    for step in range(4):
        for parameters in (ours, theirs):
            for number, p in enumerate(parameters.values()):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + number)).double()
        for one in (optimizer, *plain):
            one.step()
    torch.testing.assert_close(list(ours.values()), list(theirs.values()), rtol=1e-10, atol=1e-12)
    with pytest.raises(ConfigError, match="loraplus_lr_ratio"):
        build_optimizer({"weight": nn.Parameter(torch.zeros(2, 2))}, config)


def adamw_by_the_paper(start: np.ndarray, grads: list[np.ndarray], config: OptimConfig, decay: float) -> np.ndarray:
    value, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    b1, b2 = config.adam_beta1, config.adam_beta2
    for t, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        adapted = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + config.adam_epsilon)
        value = value - config.learning_rate * (adapted + decay * value)
    return value


def test_adamw_equals_the_paper() -> None:
    config = OptimConfig(learning_rate=0.01, weight_decay=0.1, adam_beta2=0.95, adam_epsilon=1e-6)
    random = np.random.default_rng(0)
    starts = {"matrix": random.normal(size=(3, 5)), "vector": random.normal(size=5)}
    grads = {name: [random.normal(size=start.shape) for _ in range(12)] for name, start in starts.items()}
    parameters = {name: nn.Parameter(torch.from_numpy(start.copy())) for name, start in starts.items()}
    optimizer = build_optimizer(parameters, config)
    for step in range(12):
        for name, p in parameters.items():
            p.grad = torch.from_numpy(grads[name][step])
        optimizer.step()
    ours = {name: p.detach().numpy() for name, p in parameters.items()}
    np.testing.assert_allclose(
        ours["matrix"], adamw_by_the_paper(starts["matrix"], grads["matrix"], config, 0.1), 1e-10
    )
    np.testing.assert_allclose(
        ours["vector"], adamw_by_the_paper(starts["vector"], grads["vector"], config, 0.0), 1e-10
    )
    # Negative control: decay left out of the matrix, or applied to the vector, is noticed.
    assert not np.allclose(ours["matrix"], adamw_by_the_paper(starts["matrix"], grads["matrix"], config, 0.0), 1e-6)
    assert not np.allclose(ours["vector"], adamw_by_the_paper(starts["vector"], grads["vector"], config, 0.1), 1e-6)


def moved(num_threads: int, offset: int) -> torch.Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        generator = torch.Generator().manual_seed(0)
        flat = torch.zeros(70_000 + offset)
        flat[offset:].normal_(generator=generator)
        p = nn.Parameter(flat[offset:].view(700, 100))
        optimizer = build_optimizer({"p": p}, OptimConfig(weight_decay=0.01))
        for _ in range(5):
            p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
        return p.detach().clone()
    finally:
        torch.set_num_threads(before)


def test_adamw_is_bit_equal_whatever_the_threads_and_the_alignment() -> None:
    first = moved(2, 0)
    for num_threads, offset in [(2, 0), (1, 0), (2, 1), (1, 3)]:
        assert torch.equal(first, moved(num_threads, offset))


def test_parameters_below_fp32_are_refused() -> None:
    parameters = {"fine": nn.Parameter(torch.zeros(2, 2)), "coarse": nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))}
    with pytest.raises(ValueError, match="coarse"):
        build_optimizer(parameters, OptimConfig())
    with pytest.raises(ValueError, match="no parameters"):
        build_optimizer({}, OptimConfig())


def with_gradients(*grads: list[float] | None) -> list[nn.Parameter]:
    out = []
    for grad in grads:
        p = nn.Parameter(torch.zeros(len(grad or [0.0])))
        p.grad = None if grad is None else torch.tensor(grad)
        out.append(p)
    return out


def test_clipping_scales_the_joint_norm_and_returns_the_one_before() -> None:
    parameters = with_gradients([3.0, 0.0], None, [0.0, 4.0])
    assert clip_gradients(parameters, 1.0) == pytest.approx(5.0)
    grads = [p.grad for p in parameters if p.grad is not None]
    assert torch.cat(grads).tolist() == pytest.approx([0.6, 0, 0, 0.8], rel=1e-5)
    assert clip_gradients(parameters, 2.0) == pytest.approx(1.0)
    assert torch.cat(grads).tolist() == pytest.approx([0.6, 0, 0, 0.8], rel=1e-5)


def test_clipping_at_zero_leaves_gradients_alone() -> None:
    parameters = with_gradients([30.0, 40.0])
    assert clip_gradients(parameters, 0.0) == 50.0
    assert parameters[0].grad is not None
    assert parameters[0].grad.tolist() == [30.0, 40.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_norm_that_is_no_number_reaches_the_caller(bad: float) -> None:
    assert not math.isfinite(clip_gradients(with_gradients([1.0, bad]), 1.0))
