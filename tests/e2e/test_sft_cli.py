"""The verbs as a user runs them, on a tiny model and real files; what is killed is a process of its own."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tunesmith.cli.main import app

ROWS = [
    {"instruction": f"Say number {i}", "input": "", "output": f"the number is {i}, and {i * 7 % 13} comes on"}
    for i in range(40)
]


@pytest.fixture
def recipe(tmp_path: Path, model_folder: Callable[[str], Path]) -> Path:
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(ROWS))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model_name_or_path: {model_folder('llama')}\ndata:\n  train: {rows}\n  validation_share: 0.2\n"
        "adapter:\n  r: 4\n  lora_dropout: 0.1\nlearning_rate: 1.0e-2\nper_device_train_batch_size: 4\n"
        "num_train_epochs: 3\nsave_steps: 3\neval_steps: 6\nmicro_batch_tokens: 128\ndtype: float32\n"
        "after_training: off\n"
    )
    return path


def tunesmith(*arguments: str, check: bool = True, **how: Any) -> Result:
    # In this process: the imports of a new one take longer than most of what is tested.
    done = CliRunner().invoke(app, arguments, **how)
    assert not check or done.exit_code == 0, done.output
    return done


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tunesmith.cli.main", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(recipe: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    tunesmith("sft", str(recipe), f"output_dir={whole}")
    draws = random.Random(5)
    for attempt in range(12):
        command = ["sft", str(recipe), f"output_dir={broken}", "resume_from_checkpoint=auto"]
        if attempt == 0:
            command.pop()
        process = start(*command)
        # Killed at a random moment after the next checkpoint, or let run to its end.
        steps = {p.name for p in broken.glob("checkpoint-*")}
        until = time.time() + 120
        while process.poll() is None and time.time() < until:
            if attempt < 2 and {p.name for p in broken.glob("checkpoint-*")} - steps:
                time.sleep(draws.random() * 0.3)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        # The run's folder is still locked by a process that is gone: the next one takes over, saying so.
    else:
        pytest.fail("the run never came to its end")
    assert attempt >= 1, "it was killed"
    name = "adapter_model.safetensors"
    assert (broken / name).read_bytes() == (whole / name).read_bytes()
    assert metrics(broken) == metrics(whole)
    # Control: another seed gives other weights.
    tunesmith("sft", str(recipe), f"output_dir={tmp_path / 'other'}", "seed=1", "max_steps=3")
    assert (tmp_path / "other" / name).read_bytes() != (whole / name).read_bytes()


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start("sft", str(recipe), f"output_dir={out}", "max_steps=100000")
    while not list(out.glob("checkpoint-*")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "resume_from_checkpoint=auto" in said
    last = max(int(p.name.rpartition("-")[2]) for p in out.glob("checkpoint-*"))
    assert metrics(out)[-1]["step"] == last
    assert not (out / ".lock").exists()


def test_plan_then_sft_then_generate(recipe: Path, tmp_path: Path) -> None:
    plan = json.loads(tunesmith("plan", str(recipe), "--json").stdout)
    assert plan["rows"]["rows_read"] == 40
    assert plan["rows"]["rows_train"] + plan["rows"]["rows_validation"] == 40
    assert plan["training"]["end_of_turn_share"] == 1.0
    assert plan["steps"] == 24
    done = json.loads(tunesmith("sft", str(recipe), f"output_dir={tmp_path / 'run'}", "--json").stdout)
    assert done["num_steps"] == 24
    assert done["num_tokens"] == plan["training_tokens"]
    assert done["final_eval_loss"] < done["initial_eval_loss"] - 0.5
    for name in ("adapter_config.json", "adapter_model.safetensors", "loss.png", "recipe.yaml", "run.json"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    model = plan["base_folder"]
    run = str(tmp_path / "run")
    said = tunesmith("generate", "Say number 3", "--model", model, "--adapter", run, "--max-new-tokens", "8").stdout
    bare = tunesmith("generate", "Say number 3", "--model", model, "--max-new-tokens", "8").stdout
    assert said != bare
    again = tunesmith("sft", str(recipe), f"output_dir={tmp_path / 'run'}", check=False)
    assert again.exit_code == 2
    assert "already holds a run" in again.stderr
    assert "Traceback" not in again.stderr


def test_full_tuning_writes_a_model_that_loads(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "full"
    done = json.loads(
        tunesmith("sft", str(recipe), f"output_dir={out}", "adapter={method: full}", "max_steps=6", "--json").stdout
    )
    assert done["final_eval_loss"] < done["initial_eval_loss"]
    assert tunesmith("generate", "Say number 3", "--model", str(out), "--max-new-tokens", "4").stdout


BAD = [
    ("learning_rat=1", "learning_rate"),
    ("learning_rate=7", "less than or equal to 1"),
    ("data.train=nothing.jsonl", "no such file"),
    ("model_name_or_path=./nowhere", "nowhere"),
    ("max_length=8", "tokens"),
    ("resume_from_checkpoint=nowhere", "no such checkpoint"),
    ("device=tpu", "device"),
]


@pytest.mark.parametrize(("override", "says"), BAD)
def test_bad_settings_are_one_clear_paragraph(recipe: Path, tmp_path: Path, override: str, says: str) -> None:
    done = tunesmith("sft", str(recipe), f"output_dir={tmp_path / 'out'}", override, check=False)
    assert done.exit_code == 2
    assert says in done.stderr
    assert "Fix:" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_needs_no_torch() -> None:
    heavy = ("torch", "transformers", "matplotlib")
    code = f"import sys, tunesmith.cli.main; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert "sft" in tunesmith("--help", env={"COLUMNS": "100"}).stdout
