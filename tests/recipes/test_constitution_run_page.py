"""docs/constitution-run.md says what is there: its recipe, its options, its stages."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from typer.main import get_command

from tunesmith.cli.main import app
from tunesmith.config import load_config
from tunesmith.recipes.constitution_config import ReviseConfig
from tunesmith.recipes.constitution_label_config import LabelConfig
from tunesmith.recipes.constitution_run_config import CHAINS, ConstitutionRunConfig, stage_config
from tunesmith.recipes.dpo_prepare import DPOConfig
from tunesmith.recipes.ppo_config import PPOConfig
from tunesmith.recipes.prepare import SFTConfig
from tunesmith.recipes.reward_prepare import RewardConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "constitution-run.md").read_text(encoding="utf-8")
RECIPE = ROOT / "recipes" / "constitution" / "run.yaml"


def test_its_recipe_is_the_shipped_one_and_every_section_is_one_of_its_verb() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert yaml.safe_load(shown) == yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    config, notes = load_config(ConstitutionRunConfig, RECIPE, [])
    assert notes == [] and config.stages == ("prompts", "revise", "sft", "label", "prefer", "dpo", "evaluate")
    rows, folder = {"data": {"train": "x.jsonl"}}, {"output_dir": "x"}
    assert (
        stage_config(SFTConfig, config, "sft", {**rows, **folder}, "r").num_train_epochs
        == config.sft["num_train_epochs"]
    )
    stage_config(ReviseConfig, config, "revise", {"prompts": "x.jsonl", **folder}, "r")
    stage_config(LabelConfig, config, "label", {"prompts": "x.jsonl", "store": "x.db", **folder}, "r")
    stage_config(DPOConfig, config, "dpo", {**rows, **folder}, "r")
    stage_config(RewardConfig, config, "reward", {**rows, **folder}, "r")
    stage_config(PPOConfig, config, "ppo", {**rows, **folder, "rewards": [{"model": "x"}]}, "r")
    for path in (config.prompts.harmless, config.revise["helpful_rows"]):  # type: ignore[union-attr]
        assert (ROOT / str(path)).is_file(), path


def test_its_options_overrides_and_stages_are_there() -> None:
    verb = get_command(app).commands["constitution"].commands["run"]  # type: ignore[attr-defined]
    own = {word for parameter in verb.params for word in parameter.opts}
    named = set(re.findall(r"--[a-z]+", PAGE))
    assert named == {"--plan", "--from", "--skip"} and named <= own
    (overrides,) = re.findall(r'run\.yaml ("mixing.*)$', PAGE, re.MULTILINE)
    config, _ = load_config(ConstitutionRunConfig, RECIPE, [*re.findall(r'"([^"]+)"', overrides), "align=ppo"])
    assert config.mixing_shares == (0, 0.2, 0.5, 0.8) and config.controls == ("random", "always-refuse")
    told = set(
        re.findall(r"`([a-z]+)`", " ".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")))
    )
    assert {stage for chain in CHAINS.values() for stage in chain} <= told
