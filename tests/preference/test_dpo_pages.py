"""The shipped recipes are understood and train, and the page's example runs as it stands."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.config import load_config
from tunesmith.recipes.dpo import train
from tunesmith.recipes.dpo_prepare import DPOConfig

ROOT = Path(__file__).parents[2]
RECIPES = [ROOT / "recipes" / f"{name}.yaml" for name in ("dpo", "kto")]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_understood(path: Path) -> None:
    config, notes = load_config(DPOConfig, path)
    assert notes == []
    assert config.output_dir == f"runs/{path.stem}"
    assert (config.loss_type == "kto") == (path.stem == "kto")


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_takes_two_steps(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    settings = [
        f"output_dir={tmp_path / 'run'}", "max_steps=2", "per_device_train_batch_size=2", "data.limit=20",
        "data.validation_limit=2", "warmup_ratio=0", "save_steps=2", "cache_reference=false",
        # What two steps win is less than bf16 rounds, which auto is on some processors.
        "dtype=float32",
    ]  # fmt: skip
    config, _ = load_config(DPOConfig, path, settings)
    if not (ROOT / config.data.train).exists():
        pytest.skip(f"{config.data.train} is absent")
    aligned = train(config)
    assert aligned.num_steps == 2
    assert aligned.final_eval_loss is not None and aligned.initial_eval_loss is not None
    assert aligned.final_eval_loss < aligned.initial_eval_loss


def without_numbers(line: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "#", line)


def tunesmith(*words: str) -> Result:
    """In this process: the imports of a new one take longer than what is tested."""
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_example_of_the_page_runs(
    tmp_path: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "dpo.md").read_text(encoding="utf-8")
    name, rows = re.findall(r"```json (\S+)\n(.*?)```", page, re.S)[0]
    (tmp_path / name).write_text(rows, encoding="utf-8")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    told = re.findall(r"```console\n\$ (.*?)\n(.*?)```", page, re.S)[0]
    words = shlex.split(told[0])
    assert words[0] == "tunesmith"
    # The tiny model in place of the real one: the words are the page's, the numbers are not.
    command = [*words[1:], f"model_name_or_path={model_folder('llama')}", "dtype=float32", "cache_reference=false"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    done = tunesmith(*command)
    assert done.exit_code == 0, done.stderr
    shown, expected = done.stdout.splitlines(), told[1].splitlines()
    assert [without_numbers(line) for line in shown] == [without_numbers(line) for line in expected]
    assert shown[0].startswith("validation loss 0.6931 -> ")


def test_the_verb_says_what_is_wrong_in_one_paragraph(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data:\n  train: rows.jsonl\nlos_type: kto\n", encoding="utf-8")
    done = tunesmith("dpo", str(recipe))
    assert done.exit_code == 2
    assert "loss_type" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_verb_gives_json(tmp_path: Path, model_folder: Callable[[str], Path]) -> None:
    rows = tmp_path / "thumbs.jsonl"
    answers = [{"prompt": f"on {i}", "completion": "the one", "label": i % 2 == 0} for i in range(6)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in answers), encoding="utf-8")
    command = ["dpo", str(ROOT / "recipes" / "kto.yaml"), f"data.train={rows}", f"output_dir={tmp_path / 'run'}"]
    command += [f"model_name_or_path={model_folder('llama')}", "data.validation_share=0", "dtype=float32", "--json"]
    done = tunesmith(*command, "cache_reference=false")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["num_steps"] == 1
    assert found["accuracy"] is None
