"""docs/ppo.md says what is there: keys, code that its words stand for, and an example that runs."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from ppo_runs import write_inputs
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.config import load_config
from tunesmith.recipes.ppo_config import PPOConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ppo.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    return PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]


def test_the_words_of_reinforcement_learning_stand_for_code_that_exists() -> None:
    table = section("The words of reinforcement learning")
    for word in ("agent", "environment", "state", "action", "reward", "policy", "episode", "return"):
        assert re.search(rf"^\| [^|]*\b{word}\b[^|]* \|", table, re.MULTILINE), word
    named = re.findall(r"`([a-z_]+(?:\.\w+)+)`", table)
    assert len(named) >= 12
    for name in named:
        module, _, thing = name.rpartition(".")
        assert hasattr(importlib.import_module(f"tunesmith.{module}"), thing), name


def test_the_table_of_keys_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("write_ppo_docs", ROOT / "scripts" / "write_ppo_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.with_keys(PAGE) == PAGE, "run scripts/write_ppo_docs.py"


def test_the_shipped_recipe_is_understood() -> None:
    config, notes = load_config(PPOConfig, ROOT / "recipes" / "ppo.yaml")
    assert (notes, config.output_dir) == ([], "runs/ppo")


def test_the_pages_function_is_a_reward(
    tmp_path: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inputs(tmp_path)
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    (tmp_path / "my_rewards.py").write_text(code[1])
    monkeypatch.chdir(tmp_path)
    arguments = [
        "ppo", str(ROOT / "recipes" / "ppo.yaml"), f"model_name_or_path={model_folder('llama')}", "dtype=float32",
        "data.train=prompts.txt", 'rewards=[{function: "my_rewards.py:brief"}]', "num_iterations=1",
        "prompts_per_iteration=4", "max_new_tokens=5", "output_dir=run", "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["num_episodes"], result["interrupted"]) == (4, False)
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert all(row["score"] == round(-abs(len(row["answer"].split()) - 20) / 20, 6) for row in rows)
    # A key that is not there is named with the nearest one.
    wrong = CliRunner().invoke(app, [*arguments[:-1], "kl_coeff=1"])
    assert wrong.exit_code == 2 and "kl_coef" in wrong.output
