"""docs/redteam-loop.md and the shipped recipe: the commands run, the recipes load, and every key is told."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from redteam_attempts import ATTACK_OF, attempt, goal, write_run
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.config import build_config, load_config
from tunesmith.models.load import ModelConfig
from tunesmith.recipes.redteam_export_config import RedteamExportConfig
from tunesmith.recipes.redteam_loop_config import HelpConfig, RedteamLoopConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "redteam-loop.md").read_text(encoding="utf-8")


def test_the_pages_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("runs/redteam"), [attempt(goal(i), family) for i in range(8) for family in ATTACK_OF])
    commands = re.findall(r"^tunesmith (redteam export .*)$", PAGE, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        said = CliRunner().invoke(app, shlex.split(command))
        assert said.exit_code == 0, said.output
    names = {path.name for path in Path("runs/redteam-rows").iterdir()}
    assert names == {"preferences.jsonl", "sft.jsonl", "prompts.jsonl", "test_goals.jsonl", "export.json"}


def test_the_pages_recipe_and_the_shipped_one_load_and_every_key_is_told() -> None:
    block = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    build_config(RedteamLoopConfig, yaml.safe_load(block[1]), place="page")
    shipped, notes = load_config(RedteamLoopConfig, ROOT / "recipes" / "redteam" / "loop.yaml")
    assert not notes and not set(shipped.train_families) & set(shipped.test_families)
    own = {*RedteamExportConfig.model_fields, *RedteamLoopConfig.model_fields, *HelpConfig.model_fields}
    # As the verb's own options.
    flags = {
        "run": "runs/redteam",
        "of": "--set of=",
        "revise": "--set revise.",
        "to": "--to",
        "helpful": "--helpful-rows",
        "train_families": "--train-family",
    }
    told = {key for key in own - set(ModelConfig.model_fields) if f"`{key}`" in PAGE or f"{key}:" in PAGE}
    missing = {
        key
        for key in own - set(ModelConfig.model_fields) - told
        if flags.get(key, f"--{key.replace('_', '-')}") not in PAGE
    }
    assert not missing
