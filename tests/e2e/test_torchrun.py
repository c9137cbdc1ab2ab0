"""Two processes started by torchrun train what one process with twice the batch trains, through the whole recipe."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import exit_codes_of_two_ranks
from safetensors.torch import load_file

from tunesmith.config import load_config
from tunesmith.recipes.prepare import SFTConfig
from tunesmith.recipes.sft import train

ROWS = [{"input": f"Say number {i}", "output": f"the number is {i}, and {i * 7 % 13} comes on"} for i in range(40)]


@pytest.fixture
def recipe(tmp_path: Path, model_folder: Callable[[str], Path]) -> Path:
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model_name_or_path: {model_folder('llama')}\ndata:\n  train: {tmp_path / 'rows.json'}\n"
        "  validation_share: 0.2\nadapter:\n  r: 4\nlearning_rate: 1.0e-2\nnum_train_epochs: 2\n"
        "save_steps: 3\nsave_total_limit: 9\n"
        "eval_steps: 4\nmicro_batch_tokens: 128\ndtype: float32\ndevice: cpu\nafter_training: off\n"
    )
    return path


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines]


def tune(recipe: Path, settings: list[str]) -> None:
    train(load_config(SFTConfig, recipe, settings)[0])


def tune_as_a_rank(recipe: Path, settings: list[str]) -> None:
    # As torchrun has it, where the user says nothing.
    torch.set_num_threads(1)
    tune(recipe, settings)


def in_one_process(recipe: Path, out: Path, *settings: str) -> list[dict[str, Any]]:
    tune(recipe, [f"output_dir={out}", *settings])
    return metrics_of(out)


def in_two(recipe: Path, out: Path, *settings: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["tunesmith.cli.main", "sft", str(recipe), f"output_dir={out}", *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return metrics_of(out)


@pytest.mark.slow
def test_two_ranks_equal_one_process_with_twice_the_batch_and_resume(recipe: Path, tmp_path: Path) -> None:
    alone = in_one_process(recipe, tmp_path / "one", "per_device_train_batch_size=8")
    together = in_two(recipe, tmp_path / "two", "per_device_train_batch_size=4")
    assert [line["step"] for line in together] == [line["step"] for line in alone]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    weights, expected = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("two", "one"))
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=2e-3, atol=2e-4)
    # Control: half of the rows a step is another run.
    half = in_one_process(recipe, tmp_path / "half", "per_device_train_batch_size=4", "max_steps=8")
    assert half[-1] != pytest.approx(alone[-1], rel=1e-4, abs=1e-5)
    # What two ranks leave behind when they are killed after step 3, resumed: the same run, bit for bit.
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "two", broken)
    for path in (*broken.glob("checkpoint-[!3]*"), *broken.glob("adapter_*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert [path.name for path in broken.glob("checkpoint-*")] == ["checkpoint-3"]
    # Without torchrun, whose part is only the environment: its processes would import everything once more.
    again = [f"output_dir={broken}", "per_device_train_batch_size=4", "resume_from_checkpoint=auto"]
    assert exit_codes_of_two_ranks(tune_as_a_rank, recipe, again) == [0, 0]
    assert metrics_of(broken) == together
    saved = [(folder / "adapter_model.safetensors").read_bytes() for folder in (tmp_path / "two", broken)]
    assert saved[0] == saved[1]
