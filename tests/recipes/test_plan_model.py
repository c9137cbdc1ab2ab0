"""``tunesmith plan --model``: from a config alone to the cheapest settings that fit, and the page that shows it."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.errors import ConfigError, ModelError
from tunesmith.models.adapter_config import AdapterConfig
from tunesmith.models.adapter_cost import adapter_cost
from tunesmith.models.machines import GIB, GPUS, find_machine
from tunesmith.models.shape import open_shape
from tunesmith.recipes.plan_model import PlanConfig, generation_bytes, plan_model

ROOT = Path(__file__).parents[2]


def plan(model: str = "llama-7b-like", gpu: str = "16GB", **settings: Any) -> Any:
    return plan_model(PlanConfig(model=model, gpu=gpu, **settings))


def test_options_go_from_cheap_to_dear_and_the_first_that_fits_is_taken() -> None:
    made = plan(micro_batch_tokens=2048, max_length=512)
    order = [(o.quantized, o.micro_batch_tokens, o.checkpointing, o.paged_optimizer) for o in made.options]
    levels = (False, "attention", True)
    every = [(q, size, level, False) for q in (False, True) for size in (2048, 512) for level in levels]
    assert order == [*every, (True, 512, True, True)]
    assert made.choice is next(o for o in made.options if o.memory.total <= made.machine.free_bytes)
    assert not made.choice.quantized and made.choice.checkpointing
    for option in made.options:
        assert option.memory.total == sum(asdict(option.memory).values())
        assert option.over_bytes == max(0, option.memory.total - made.machine.free_bytes)


@pytest.mark.parametrize(
    ("gpu", "quantized", "checkpointing"), [("80GB", False, False), ("16GB", False, True), ("12GB", True, False)]
)
def test_a_smaller_machine_asks_for_more(gpu: str, quantized: bool, checkpointing: bool) -> None:
    choice = plan(gpu=gpu).choice
    assert (choice.quantized, choice.checkpointing) == (quantized, checkpointing)


def test_what_does_not_fit_says_by_how_much() -> None:
    made = plan(model="llama-70b-like", adapter={"method": "full"})
    assert made.choice is None and made.cost.full and made.trainable_share == 1
    assert min(o.over_bytes for o in made.options) > 500e9
    done = CliRunner().invoke(app, ["plan", "--model", "llama-70b-like", "--gpu", "16GB", "--method", "full"])
    assert done.exit_code == 0 and "NOTHING FITS" in done.output and "GB too large" in done.output


def test_what_cannot_be_planned_is_an_error() -> None:
    with pytest.raises(ConfigError, match="cannot learn"):
        plan(adapter={"method": "full"}, quantization="4bit")
    with pytest.raises(ConfigError, match="At most 2048"):
        plan(max_length=4096)
    with pytest.raises(ConfigError, match="knows no sublayers"):
        adapter_cost(replace(open_shape("gpt2-like"), family="mamba"), AdapterConfig(method="bottleneck"))


@pytest.mark.parametrize(
    ("kind", "more", "why"),
    [
        ("mixtral", {"num_local_experts": 4}, "has experts"),
        ("mamba", {}, "without attention"),
        ("deepseek_v3", {}, "compressed"),
        ("gemma3", {}, "sees or hears"),
    ],
)
def test_models_that_are_not_counted_are_refused(kind: str, more: dict[str, Any], why: str, tmp_path: Path) -> None:
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **size, **more}))
    with pytest.raises(ModelError, match=f"its memory is not counted.*{why}"):
        open_shape(str(tmp_path))


def test_a_config_with_a_word_for_a_number_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": "big"}))
    with pytest.raises(ModelError, match="its config cannot be read"):
        open_shape(str(tmp_path))


def test_falcons_one_head_of_keys_is_counted_once(tmp_path: Path) -> None:
    size = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 64}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "falcon", **size}))
    assert open_shape(str(tmp_path)).kv_heads == 1


def test_an_option_that_a_recipe_would_not_heed_is_refused() -> None:
    done = CliRunner().invoke(app, ["plan", str(ROOT / "recipes" / "chat.yaml"), "--gpu", "t4"])
    assert done.exit_code == 2 and "--gpu: goes with --model" in done.stderr


def test_machines_have_names_sizes_and_neighbours() -> None:
    assert find_machine("T4").dtype.itemsize == 2 and find_machine("RTX 3090").memory_bytes == 24 * GIB
    assert find_machine("a100").name == "a100-80gb" and find_machine("NVIDIA A100-40GB").name == "a100-40gb"
    assert find_machine("24 GB").memory_bytes == find_machine("24gib").memory_bytes == 24 * GIB
    assert not find_machine("laptop").is_gpu
    here = find_machine("this")
    assert 0 < here.process_bytes < here.free_bytes < here.memory_bytes
    assert {str(find_machine(name).dtype) for name, (_, bf16) in GPUS.items() if not bf16} == {"torch.float16"}
    with pytest.raises(ConfigError, match="rtx4090"):
        find_machine("rtx4900")


def test_answering_takes_weights_and_keys_of_every_row() -> None:
    made = plan(max_length=1024)
    held = generation_bytes(made, quantized=False)
    # 32 layers x 4096 x 2 (keys, values) x 2 bytes x 1024 tokens: half a GiB, as LLaMA-7B is known for.
    assert held["kv_cache_per_row"] == GIB // 2
    assert held["weights"] == 2 * 6_738_415_616


def test_the_command_takes_a_config_file_any_key_and_draws(
    model_folder: Callable[[str], Path], tmp_path: Path, undrawn: None
) -> None:
    config = model_folder("qwen3") / "config.json"
    alone = tmp_path / "config.json"
    alone.write_bytes(config.read_bytes())
    called = ["plan", "--model", str(alone), "--gpu", "laptop", "--max-length", "64", "--batch-tokens", "64"]
    picture = tmp_path / "plan.png"
    done = CliRunner().invoke(app, [*called, "--method", "qlora", "--r", "3", "--output", str(picture), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["choice"]["quantized"] and report["adapter"]["r"] == 3 and picture.is_file()
    assert report["machine"]["dtype_bytes"] == 4
    more = CliRunner().invoke(
        app, [*called, "--method", "bottleneck", "adapter.reduction_factor=4", "quantization=none", "--json"]
    )
    assert json.loads(more.stdout)["adapter"] == {"method": "bottleneck", "reduction_factor": 4}
    wrong = CliRunner().invoke(app, [*called, "--method", "bottleneck", "--r", "3"])
    assert wrong.exit_code == 2 and "adapter.r is a setting of lora" in wrong.output
    assert CliRunner().invoke(app, ["plan"]).exit_code == 2


def test_the_example_of_the_page_runs_and_its_tables_are_computed() -> None:
    spec = importlib.util.spec_from_file_location("write_plan_docs", ROOT / "scripts" / "write_plan_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.PAGE.read_text(encoding="utf-8")
    assert page == module.with_tables(page), "run scripts/write_plan_docs.py"
    ((body,),) = [re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]
    command, _, expected = body.removeprefix("$ ").partition("\n")
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output
    assert done.stdout == expected
