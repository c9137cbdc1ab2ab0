"""docs/lora.md: its recipe runs as it stands there but for the model, and its keys are there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tunesmith.config import load_config
from tunesmith.models.adapters import AdapterConfig
from tunesmith.models.forward import hidden_states
from tunesmith.recipes.prepare import SFTConfig
from tunesmith.recipes.sft import train
from tunesmith.runs import read_metrics
from tunesmith.tokens.pack import pack_prompts
from tunesmith.training.optim import OptimConfig

PAGE = (Path(__file__).parents[2] / "docs" / "lora.md").read_text(encoding="utf-8")


def test_the_pages_recipe_trains_and_stock_peft_reads_what_it_left(
    undrawn: None,
    tmp_path: Path,
    model_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    Path("recipe.yaml").write_text(block[1])
    rows = [{"prompt": f"say {word}", "completion": word * 2} for word in ("one", "two", "three", "four", "five")]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = model_folder("llama")
    here = [f"model_name_or_path={folder}", "device=cpu", "dtype=float32", "max_steps=2", "after_training=off"]
    config, _ = load_config(SFTConfig, Path("recipe.yaml"), here)
    trained = train(config)
    # What learns is said before the first step, and is what the page says of its shape.
    said = re.search(r"^trained    (\d+) parameters, [\d.]+ % of all$", capsys.readouterr().err, re.MULTILINE)
    assert said is not None and int(said[1]) == trained.role.num_parameters
    assert re.search(r"^trained    \d+ parameters, [\d.]+ % of all$", PAGE, re.MULTILINE)
    assert len(read_metrics(Path("runs/dora/metrics.jsonl"))) >= 2
    ids = np.arange(5, 25)
    ours = hidden_states(trained.base, pack_prompts([ids], [0], "default")).detach()
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), "runs/dora")
    theirs = stock.eval().base_model.model.model(torch.from_numpy(ids)[None]).last_hidden_state[0].detach()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_pages_keys_exist() -> None:
    keys = {key for row in re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE) for key in re.findall(r"`([\w.]+)", row)}
    known = {f"adapter.{name}" for name in AdapterConfig.model_fields} | set(OptimConfig.model_fields)
    assert len(keys) == 11 and keys <= known
