"""Every shipped recipe is understood, and takes two real steps on the real model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tunesmith.config import load_config

ROOT = Path(__file__).parents[2]
# What reads other rows than these, or none, has tests of its own; mixtures lie in a folder of their own.
OTHERS = (
    "extend", "tokenizer", "dpo", "kto", "reward", "ppo", "classify", "continual", "fast", "compare_methods",
)  # fmt: skip
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.yaml") if path.stem not in OTHERS)


def test_there_are_recipes() -> None:
    assert {path.stem for path in RECIPES} >= {
        "instructions",
        "chat",
        "text",
        "full",
        "jargon",
        "mixture",
        "mixture_public",
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_understood(path: Path) -> None:
    from tunesmith.recipes.prepare import SFTConfig

    config, notes = load_config(SFTConfig, path)
    assert notes == []
    assert config.output_dir == f"runs/{path.stem}"


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_takes_two_steps(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.models.resolve import EMBEDDED_MODEL
    from tunesmith.recipes.prepare import SFTConfig
    from tunesmith.recipes.sft import train

    monkeypatch.chdir(ROOT)
    settings = [
        f"output_dir={tmp_path / 'run'}", "max_steps=2", "per_device_train_batch_size=2", "data.limit=20",
        "data.validation_limit=2", "warmup_ratio=0", "save_steps=2", "after_training=off",
    ]  # fmt: skip
    if path.stem == "full":
        # What two steps with its small rate win is less than bf16 rounds, which auto is on some processors.
        settings.append("dtype=float32")
    if path.stem == "text" and (ROOT / "../shared/data/tiny_shakespeare").exists():
        # A file of text is one row, however long.
        text = (ROOT / "../shared/data/tiny_shakespeare/valid.txt").read_text()
        (tmp_path / "valid.txt").write_text(text[:1000])
        settings += [f"data.validation={tmp_path / 'valid.txt'}", "max_length=128"]
    config, _ = load_config(SFTConfig, path, settings)
    if not (ROOT / config.data.train).exists():
        pytest.skip(f"{config.data.train} is absent")
    if path.stem == "mixture_public" and not (ROOT.parent / "shared" / "data").exists():
        pytest.skip("the sources of recipes/mixtures/public.yaml are absent")
    if config.model_name_or_path != EMBEDDED_MODEL and not (ROOT / config.model_name_or_path).exists():
        pytest.skip(f"{config.model_name_or_path} is the user's to bring")
    trained = train(config)
    assert trained.num_steps == 2
    assert trained.final_eval_loss is not None and trained.initial_eval_loss is not None
    assert trained.final_eval_loss < trained.initial_eval_loss


def test_recipe_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("write_recipe_docs", ROOT / "scripts" / "write_recipe_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert page == module.page(), "run scripts/write_recipe_docs.py"
    assert "None |" not in page, "a key without a description"
