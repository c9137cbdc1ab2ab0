"""docs/bottleneck.md and docs/ia3.md say what is there: their recipes and commands run on a tiny model."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.models.bottleneck import FAMILIES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("page", "peft_type"), [("bottleneck", "BOTTLENECK"), ("ia3", "IA3")])
def test_its_example_runs(
    page: str,
    peft_type: str,
    model_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undrawn: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    train, generate = (shlex.split(line) for line in re.findall(r"^\$ tunesmith (.*)$", text, re.MULTILINE))
    (tmp_path / "recipe.yaml").write_text(recipe)
    rows = [{"prompt": f"say {word}", "completion": word} for word in ("kettle", "spoon", "cup", "plate")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = str(model_folder("llama"))
    small = [f"model_name_or_path={base}", "data.train=rows.jsonl", "data.validation=rows.jsonl", "max_steps=2"]
    done = CliRunner().invoke(app, [*train, *small, "after_training=off"])
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "runs" / page / "adapter_config.json").read_text())
    assert written["peft_type"] == peft_type
    done = CliRunner().invoke(app, [*generate, "--model", base, "--max-new-tokens", "2"])
    assert done.exit_code == 0, done.output


def test_the_page_names_the_families_that_are_known() -> None:
    text = (DOCS / "bottleneck.md").read_text(encoding="utf-8")
    (named,) = re.findall(r"\*\*Where it stands is known of\*\* (.*?);", text, re.DOTALL)
    names = [name.lower().replace("-", "") for name in re.split(r",\s+|\s+and\s+", named)]
    assert sorted(names) == sorted(family.replace("_", "") for family in FAMILIES)
