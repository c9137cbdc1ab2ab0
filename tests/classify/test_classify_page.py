"""docs/classify.md: its examples run, on a tiny base, and say what the page shows but for numbers."""

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
from tunesmith.recipes.classify_prepare import ClassifyConfig

ROOT = Path(__file__).parents[2]


def without_numbers(text: str) -> list[str]:
    """Lines without their numbers, and without what hangs on them: warnings, an early stop, which labels were given."""
    lines = [re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", line) for line in text.splitlines()]
    return [line.partition(" rows: ")[0] for line in lines if not line.startswith(("warning", "stopped early"))]


@pytest.mark.usefixtures("undrawn")
def test_the_examples_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Callable[[str], Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    recipe = (ROOT / "recipes" / "classify.yaml").read_text(encoding="utf-8")
    base = str(model_folder("llama"))
    (tmp_path / "recipes" / "classify.yaml").write_text(recipe.replace("smollm2-135m-instruct", base), encoding="utf-8")
    text = (ROOT / "docs" / "classify.md").read_text(encoding="utf-8")
    verbs = []
    for kind, name, body in re.findall(r"^```(json|console) ?(\S*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if kind == "json":
            (tmp_path / name).write_text(body, encoding="utf-8")
            continue
        command, _, expected = body.removeprefix("$ ").partition("\n")
        program, *arguments = shlex.split(command)
        assert program == "tunesmith"
        more = ["--model", base] if arguments[0] == "predict" else ["dtype=float32"]
        done = CliRunner().invoke(app, [*arguments, *more])
        assert done.exit_code == 0, done.output
        assert without_numbers(done.stdout) == without_numbers(expected)
        verbs.append(arguments[0])
    assert verbs == ["classify", "predict"]


def test_the_table_of_keys_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("write_classify_docs", ROOT / "scripts" / "write_classify_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.PAGE.read_text(encoding="utf-8")
    assert page == module.with_keys(page), "run scripts/write_classify_docs.py"
    assert "`class_weights`" in page and "None |" not in page, "a key without a description"


def test_the_shipped_recipe_is_understood() -> None:
    config, notes = load_config(ClassifyConfig, ROOT / "recipes" / "classify.yaml")
    assert notes == [] and config.output_dir == "runs/classify" and config.task == "classify"
