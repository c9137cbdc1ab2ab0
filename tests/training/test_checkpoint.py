"""A checkpoint is whole or not there, and what comes out of it is what went in, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import nn

from tunesmith.errors import CheckpointError
from tunesmith.training.checkpoint import (
    ResumeState,
    load_checkpoint,
    prune,
    save_checkpoint,
)
from tunesmith.training.optim import OptimConfig, build_optimizer

CONFIG = OptimConfig(learning_rate=0.05, weight_decay=0.1)
Trainee = tuple[dict[str, nn.Parameter], torch.optim.AdamW]


def new_trainee(seed: int = 0) -> Trainee:
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        name: nn.Parameter(torch.randn(shape, generator=generator))
        for name, shape in {"down": (3, 7), "up": (7, 2), "bias": (2,)}.items()
    }
    return parameters, build_optimizer(parameters, CONFIG)


def train(trainee: Trainee, first: int, last: int) -> None:
    parameters, optimizer = trainee
    for step in range(first, last):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(100 + step))
        ((x @ parameters["down"]).tanh() @ parameters["up"] + parameters["bias"]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def bits(trainee: Trainee) -> dict[str, bytes]:
    parameters, optimizer = trainee
    out = {name: p.detach().numpy().tobytes() for name, p in parameters.items()}
    for name, p in parameters.items():
        out |= {f"{name}|{key}": value.numpy().tobytes() for key, value in optimizer.state[p].items()}
    return out


def new_state(step: int = 0, **more: Any) -> ResumeState:
    return ResumeState(seed=7, plan={"checkpointing": False}, recipe={"seed": 7}, step=step, **more)


def write_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    (folder / "inner").mkdir()
    (folder / "inner" / "weights.bin").write_bytes(b"w" * 1000)


def save(folder: Path, step: int, trainee: Trainee | None = None) -> Path:
    parameters, optimizer = trainee or new_trainee()
    return save_checkpoint(folder, new_state(step), optimizer, parameters, write_adapter)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_five_steps_and_five_more_are_ten_bit_for_bit(tmp_path: Path) -> None:
    whole = new_trainee()
    train(whole, 0, 10)
    half = new_trainee()
    train(half, 0, 5)
    saved = save(tmp_path, 5, half)
    resumed = new_trainee(seed=1)
    assert load_checkpoint(saved, resumed[1], resumed[0]).step == 5
    assert bits(resumed) == bits(half)
    train(resumed, 5, 10)
    assert bits(resumed) == bits(whole)


@pytest.mark.parametrize("lost", ["step", "exp_avg", "exp_avg_sq"])
def test_losing_any_part_of_the_optimizer_is_noticed(lost: str, tmp_path: Path) -> None:
    whole = new_trainee()
    train(whole, 0, 10)
    half = new_trainee()
    train(half, 0, 5)
    resumed = new_trainee(seed=1)
    load_checkpoint(save(tmp_path, 5, half), resumed[1], resumed[0])
    for p in resumed[0].values():
        resumed[1].state[p][lost].zero_()
    train(resumed, 5, 10)
    assert bits(resumed) != bits(whole)


def test_only_parameters_are_restored_without_an_optimizer(tmp_path: Path) -> None:
    half = new_trainee()
    train(half, 0, 3)
    saved = save(tmp_path, 3, half)
    other = new_trainee(seed=1)
    load_checkpoint(saved, None, other[0])
    assert all(torch.equal(p, half[0][name]) for name, p in other[0].items())
    assert not other[1].state


def test_the_state_comes_back_as_it_was(tmp_path: Path) -> None:
    parameters, optimizer = new_trainee()
    state = ResumeState(
        seed=7,
        plan=MappingProxyType({"checkpointing": True, "micro_batch_tokens": 512}),
        recipe={"data": MappingProxyType({"train": "a.jsonl"})},
        extras={"kl_coefficient": 0.1 + 0.2, "nested": {"list": [1, None, "ü"]}},
    )
    state.advance(num_tokens=11, epoch=0)
    assert state.judge(2.5)
    state.advance(num_tokens=13, epoch=1)
    assert not state.judge(2.75)
    loaded = load_checkpoint(
        save_checkpoint(tmp_path, state, optimizer, parameters, write_adapter), optimizer, parameters
    )
    assert loaded == ResumeState(
        seed=7,
        plan={"checkpointing": True, "micro_batch_tokens": 512},
        recipe={"data": {"train": "a.jsonl"}},
        step=2,
        epoch=1,
        num_tokens=24,
        last_metric=2.75,
        best_metric=2.5,
        best_step=1,
        evaluations_without_improvement=1,
        saved_step=2,
        extras={"kl_coefficient": 0.1 + 0.2, "nested": {"list": [1, None, "ü"]}},
    )
    assert state.saved_step == 2


def test_a_metric_that_is_no_number_is_never_the_best() -> None:
    state = new_state()
    assert not state.judge(float("nan"))
    assert state.judge(3.0)
    assert not state.judge(float("-inf"))
    assert (state.best_metric, state.evaluations_without_improvement) == (3.0, 1)


def test_a_tensor_has_no_place_in_the_state(tmp_path: Path) -> None:
    parameters, optimizer = new_trainee()
    with pytest.raises(TypeError, match="JSON values, not Tensor"):
        save_checkpoint(
            tmp_path, new_state(1, extras={"x": torch.zeros(1)}), optimizer, parameters, lambda folder: None
        )
    assert names(tmp_path) == []


def test_tied_parameters_and_views_are_kept(tmp_path: Path) -> None:
    shared, buffer = nn.Parameter(torch.randn(3, 3)), torch.randn(10)
    parameters = {"in": shared, "left": nn.Parameter(buffer[:5]), "right": nn.Parameter(buffer[5:]), "out": shared}
    optimizer = build_optimizer({name: p for name, p in parameters.items() if name != "out"}, CONFIG)
    for p in parameters.values():
        p.grad = torch.ones_like(p)
    optimizer.step()
    expected = {name: p.detach().clone() for name, p in parameters.items()}
    saved = save_checkpoint(tmp_path, new_state(1), optimizer, parameters, lambda folder: None)
    with torch.no_grad():
        for p in parameters.values():
            p.zero_()
    load_checkpoint(saved, optimizer, parameters)
    assert all(torch.equal(p, expected[name]) for name, p in parameters.items())
    assert len(optimizer.state) == 3


def test_files_are_json_safetensors_and_what_the_adapter_wrote(tmp_path: Path) -> None:
    saved = save(tmp_path, 4)
    files = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    expected = {"trainer_state.json", "parameters.safetensors", "optimizer.safetensors", "adapter_config.json"}
    assert files == {*expected, "inner/weights.bin", "manifest.json"}
    assert set(json.loads((saved / "manifest.json").read_text())["files"]) == files - {"manifest.json"}
    assert names(tmp_path) == ["checkpoint-4"]


def test_another_recipe_is_refused_with_the_changed_keys(tmp_path: Path) -> None:
    parameters, optimizer = new_trainee()
    recipe = {"seed": 7, "data": {"train": "a", "shape": "auto"}, "targets": ["q", "v"]}
    state = ResumeState(seed=7, plan={}, recipe=recipe, step=1)
    saved = save_checkpoint(tmp_path, state, optimizer, parameters, write_adapter)
    other = new_trainee(seed=1)
    before = bits(other)
    changed = {"seed": 7, "data": {"train": "b", "shape": "auto"}, "targets": ["q", "v"], "dtype": None}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved, other[1], other[0], recipe=changed)
    assert "data.train ('a' -> 'b'), dtype ('unset' -> None)." in caught.value.cause
    assert "shape" not in caught.value.cause
    assert bits(other) == before
    # The same recipe passes, a tuple being JSON's list.
    load_checkpoint(saved, other[1], other[0], recipe={**recipe, "targets": ("q", "v")})


@pytest.mark.parametrize(
    ("name", "replacement", "message"),
    [
        ("bias", torch.zeros(1), r"bias is \(2,\) torch.float32 there, \(1,\) torch.float32 here"),
        ("bias", torch.zeros(2, dtype=torch.float64), r"torch.float32 there, \(2,\) torch.float64 here"),
        ("more", torch.zeros(1), r"more is absent there"),
    ],
)
def test_other_parameters_are_refused(name: str, replacement: torch.Tensor, message: str, tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    parameters, optimizer = new_trainee(seed=1)
    before = parameters["down"].detach().clone()
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved, optimizer, {**parameters, name: nn.Parameter(replacement)})
    assert torch.equal(parameters["down"], before)


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (2, 9, 10, 100):
        save(tmp_path, step)
    prune(tmp_path, 2, keep={2})
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-100", "checkpoint-2"]
    prune(tmp_path, 1, keep={0})
    assert names(tmp_path) == ["checkpoint-100"]
