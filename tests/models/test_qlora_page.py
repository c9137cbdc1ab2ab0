"""docs/qlora.md: its example runs, on a tiny base, and says what the page shows but for numbers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tunesmith.cli.main import app

ROOT = Path(__file__).parents[2]


def numbers_out(text: str) -> list[str]:
    return [re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", line) for line in text.splitlines()]


@pytest.mark.usefixtures("undrawn")
def test_the_example_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Callable[[str], Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    text = (ROOT / "docs" / "qlora.md").read_text(encoding="utf-8")
    commands = 0
    for kind, name, body in re.findall(r"^```(json|console) ?(\S*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if kind == "json":
            (tmp_path / name).write_text(body, encoding="utf-8")
            continue
        command, _, expected = body.removeprefix("$ ").partition("\n")
        program, verb, *arguments = shlex.split(command)
        assert program == "tunesmith"
        more = ["--model", str(model_folder("llama"))] if verb == "quantize" else ["dtype=float32"]
        done = CliRunner().invoke(app, [verb, *arguments, *more])
        assert done.exit_code == 0, done.output
        assert numbers_out(done.stdout) == numbers_out(expected)
        commands += 1
    assert commands == 2
    again = CliRunner().invoke(app, ["quantize", "--output", "smollm2-4bit", "--model", str(model_folder("llama"))])
    assert again.exit_code == 2
    assert "is not empty" in again.stderr
