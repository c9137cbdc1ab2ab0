"""docs/judge.md and docs/mt-bench.md: their examples run, on a tiny base, and say what the pages show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from judge_server import roomy_model
from typer.testing import CliRunner

from tunesmith.cli.main import app

ROOT = Path(__file__).parents[2]


def numbers_out(text: str) -> list[str]:
    """Lines without their numbers, and without the one about this machine's arithmetic."""
    return [re.sub(r"\d[\d.,]*", "#", line) for line in text.splitlines() if not line.startswith("base in ")]


@pytest.mark.parametrize("page", ["judge.md", "mt-bench.md"])
def test_the_examples_of_the_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    commands = 0
    for kind, name, body in re.findall(r"^```(json|console) ?(\S*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if kind == "json":
            (tmp_path / name).write_text(body, encoding="utf-8")
            continue
        command, _, expected = body.removeprefix("$ ").partition("\n")
        program, *arguments = shlex.split(command)
        assert program == "tunesmith"
        stats = arguments[0] == "judge"
        done = CliRunner().invoke(app, [*arguments, *([] if stats else ["--model", roomy_model(tmp_path / "smollm2")])])
        assert done.exit_code == 0, done.output
        # What is counted in a file of verdicts is exact; what a tiny model says is not the page's.
        said = done.stdout.replace(str(tmp_path / "smollm2"), "smollm2-135m-instruct")
        told, shown = (said, expected) if stats else (numbers_out(said), numbers_out(expected))
        assert told == shown
        commands += 1
    assert commands == 1
