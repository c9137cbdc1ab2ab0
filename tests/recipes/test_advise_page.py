"""docs/advise.md says what is there: options that exist, facts that are read, subsets that can be made again."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from conftest import SHARED, shared_data
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.evals.advise.facts import read_facts

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "advise.md").read_text(encoding="utf-8")


def test_every_option_and_picture_the_page_names_exists() -> None:
    command = typer.main.get_command(app).commands["advise"]  # type: ignore[attr-defined]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    assert len(named) > 15 and named <= options
    pictures = re.findall(r"!\[[^\]]*\]\((img/[^)]+)\)", PAGE)
    assert all((ROOT / "docs" / name).stat().st_size > 5000 for name in pictures)


def test_the_pages_commands_parse_up_to_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^tunesmith (advise .*?)(?:  #.*)?$", PAGE, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        done = CliRunner().invoke(app, shlex.split(command))
        # Everything is understood; the files are the reader's, or lie elsewhere.
        assert done.exit_code == 2 and "no such file" in done.output, command


def test_the_pages_facts_are_read(tmp_path: Path) -> None:
    body = re.search(r"```json changed.jsonl\n(.*?)```", PAGE, re.DOTALL)
    assert body is not None
    (tmp_path / "changed.jsonl").write_text(body[1])
    facts = read_facts(str(tmp_path / "changed.jsonl"))
    assert [fact.changed for fact in facts] == [True, True, False] and facts[0].taught == (
        "Price of express delivery?",
    )


def test_the_pages_subset_of_banking77_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared_data("banking77/train.jsonl")
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    exec(code[1].replace("../shared/data", str(SHARED)), {})
    rows = [json.loads(line) for line in (tmp_path / "banking_train.jsonl").read_text().splitlines()]
    assert len(rows) == 300 and len({row["category"] for row in rows}) == 15
    assert len((tmp_path / "banking_test.jsonl").read_text().splitlines()) == 120
