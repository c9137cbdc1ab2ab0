"""docs/constitution-label.md: its example runs and says what the page shows, and every key stands on it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.recipes.constitution_label_config import LabelConfig

PAGE = (Path(__file__).parents[2] / "docs" / "constitution-label.md").read_text(encoding="utf-8")


def without_seconds(text: str) -> str:
    return re.sub(r"\d+\.\d+ s\b", "# s", text)


def test_the_example_of_the_page_says_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = 0
    for kind, name, body in re.findall(r"^```(json|yaml|console) ?(\S*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        if kind != "console":
            Path(name).write_text(body, encoding="utf-8")
            continue
        for example in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, expected = example.partition("\n")
            program, *arguments = shlex.split(command)
            assert program == "tunesmith"
            assert without_seconds(CliRunner().invoke(app, arguments).output) == without_seconds(expected)
            commands += 1
    assert commands == 3


def test_the_page_names_every_key() -> None:
    assert {name for name in LabelConfig.model_fields if f"`{name}`" not in PAGE} == set()
