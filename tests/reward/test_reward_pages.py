"""docs/reward.md and docs/score.md: their examples run, on a tiny base, and say what the pages show but for numbers."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.config import load_config
from tunesmith.recipes.reward_prepare import RewardConfig

ROOT = Path(__file__).parents[2]
PAGES = ("reward.md", "score.md")


def numbers_out(text: str) -> list[str]:
    """Lines without their numbers, and without warnings, which hang on the numbers."""
    lines = [re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", line) for line in text.splitlines()]
    return [line for line in lines if not line.startswith("warning")]


def test_the_examples_of_the_pages_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Callable[[str], Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    recipe = (ROOT / "recipes" / "reward.yaml").read_text(encoding="utf-8")
    base = str(model_folder("llama"))
    recipe = recipe.replace("smollm2-135m-instruct", base).replace("max_length: 512", "max_length: 256")
    (tmp_path / "recipes" / "reward.yaml").write_text(recipe, encoding="utf-8")
    commands = 0
    for page in PAGES:
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for kind, name, body in re.findall(r"^```(json|console) ?(\S*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            if kind == "json":
                (tmp_path / name).write_text(body, encoding="utf-8")
                continue
            command, _, expected = body.removeprefix("$ ").partition("\n")
            program, *arguments = shlex.split(command)
            assert program == "tunesmith"
            more = ["--model", base] if arguments[0] == "score" else ["dtype=float32"]
            done = CliRunner().invoke(app, [*arguments, *more])
            assert done.exit_code == 0, done.output
            assert numbers_out(done.stdout) == numbers_out(expected)
            commands += 1
    assert commands == 2


def test_the_table_of_keys_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("write_reward_docs", ROOT / "scripts" / "write_reward_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.PAGE.read_text(encoding="utf-8")
    assert page == module.with_keys(page), "run scripts/write_reward_docs.py"
    assert "`center_rewards_coefficient`" in page and "None |" not in page, "a key without a description"


def test_the_shipped_recipe_is_understood() -> None:
    config, notes = load_config(RewardConfig, ROOT / "recipes" / "reward.yaml")
    assert notes == [] and config.output_dir == "runs/reward" and config.data.on_bad_row == "drop"
