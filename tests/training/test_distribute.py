"""Two real processes joined by gloo sum to what one process computes alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import exit_codes_of_two_ranks
from torch import nn

from tunesmith.errors import ConfigError
from tunesmith.training import distribute
from tunesmith.training.distribute import from_environment, one_process

NUM_ROWS = 8
VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def parameters_with_gradients(rows: list[int]) -> dict[str, nn.Parameter]:
    """Gradients of a sum over some rows; 'late' only meets row 0, 'idle' none, 'narrow' is fp32 among fp64."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(NUM_ROWS, 6, generator=generator, dtype=torch.float64)
    out = {
        "first": nn.Parameter(torch.randn(6, 5, generator=generator, dtype=torch.float64)),
        "idle": nn.Parameter(torch.ones(3, dtype=torch.float64)),
        "late": nn.Parameter(torch.ones(5, dtype=torch.float64)),
        "narrow": nn.Parameter(torch.ones(5)),
        "last": nn.Parameter(torch.randn(5, 2, generator=generator, dtype=torch.float64)),
    }
    for row in rows:
        hidden = (features[row] @ out["first"]).tanh() * out["narrow"].double()
        if row == 0:
            hidden = hidden * out["late"]
        (hidden @ out["last"]).square().sum().backward()
    return out


def gradients(parameters: dict[str, nn.Parameter]) -> dict[str, Any]:
    return {name: None if p.grad is None else p.grad.flatten().tolist() for name, p in parameters.items()}


def work(out: Path) -> None:
    """What each rank runs."""
    world = from_environment("cpu")
    parameters = parameters_with_gradients(list(range(world.rank, NUM_ROWS, world.size)))
    local = gradients(parameters)
    kept = parameters["first"].grad
    distribute.BUCKET_BYTES = 300
    world.sum_gradients(list(parameters.values()))
    own = torch.tensor([world.rank, 2**60])
    result = {
        "rank": world.rank,
        "size": world.size,
        "is_main": world.is_main,
        "device": world.device,
        "local": local,
        "summed": gradients(parameters),
        "in_place": kept is parameters["first"].grad,
        "number": world.sum(0.1 + world.rank),
        "integer": world.sum(world.rank + 1),
        "tensor": world.sum(own).tolist(),
        "own": own.tolist(),
    }
    world.barrier()
    world.close()
    (out / f"{world.rank}.json").write_text(json.dumps(result))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("ranks")
    assert exit_codes_of_two_ranks(work, out) == [0, 0]
    return [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_ranks_know_their_place(two_ranks: list[dict[str, Any]]) -> None:
    assert [(r["rank"], r["size"], r["is_main"], r["device"]) for r in two_ranks] == [
        (0, 2, True, "cpu"),
        (1, 2, False, "cpu"),
    ]


def test_summed_gradients_equal_one_process(two_ranks: list[dict[str, Any]]) -> None:
    alone = parameters_with_gradients(list(range(NUM_ROWS)))
    world = one_process()
    world.sum_gradients(list(alone.values()))
    expected = gradients(alone)
    assert expected["idle"] is None
    for rank in two_ranks:
        assert rank["summed"]["idle"] is None
        assert rank["in_place"]
        for name in ("first", "late", "last"):
            assert rank["summed"][name] == pytest.approx(expected[name], rel=1e-12), name
        assert rank["summed"]["narrow"] == pytest.approx(expected["narrow"], rel=1e-5)
        # Negative control: without the exchange a rank holds only its share.
        assert rank["local"]["first"] != pytest.approx(expected["first"], rel=1e-3)
    assert two_ranks[1]["local"]["late"] is None
    assert two_ranks[0]["summed"] == two_ranks[1]["summed"]


def test_sums_of_numbers_and_tensors(two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        assert rank["number"] == pytest.approx(1.2, rel=1e-15)
        assert rank["integer"] == 3.0
        assert rank["tensor"] == [1, 2**61]
        assert rank["own"] == [rank["rank"], 2**60]


def test_one_process_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    world = from_environment("cpu")
    assert (world, world.is_main) == (one_process("cpu"), True)
    assert world.sum(3) == 3.0
    tensor = torch.tensor([1, 2])
    assert torch.equal(world.sum(tensor), tensor)
    world.barrier()
    world.close()


@pytest.mark.parametrize(
    ("environment", "device", "message"),
    [
        ({"WORLD_SIZE": "two"}, "cpu", "WORLD_SIZE: is 'two'"),
        ({"WORLD_SIZE": "2"}, "cpu", "RANK, MASTER_ADDR, MASTER_PORT is not set"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "cpu", "is 2 in a world of 2"),
        ({"WORLD_SIZE": "2"}, "cuda:0", "cannot be shared"),
        ({"WORLD_SIZE": "2"}, "mps", "cannot be shared"),
    ],
)
def test_a_world_that_cannot_be_joined_is_refused(
    environment: dict[str, str], device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        from_environment(device)


def test_a_gpu_that_is_not_there_is_not_replaced_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        from_environment("cuda")
