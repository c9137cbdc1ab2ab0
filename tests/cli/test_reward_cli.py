"""Score and winrate speak of the options a user has, not of recipe keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tunesmith.cli.main import app


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_faulty_rows_name_the_option_that_leaves_them_out() -> None:
    row = '{"prompt": "q", "chosen": "a", "rejected": "a"}\n'
    Path("rows.jsonl").write_text(row * 2, encoding="utf-8")
    done = CliRunner().invoke(app, ["score", "rows.jsonl", "--adapter", "gone"])
    assert done.exit_code == 2 and "the chosen and the rejected answer are the same" in done.stderr
    assert "--on-bad-row drop" in done.stderr and "data." not in done.stderr


def test_a_match_without_a_judge_names_the_options_that_give_one() -> None:
    done = CliRunner().invoke(app, ["winrate", "prompts.jsonl", "--policy", "p", "--output", "w"])
    assert done.exit_code == 2 and "nobody judges" in done.stderr and "--reward FOLDER" in done.stderr
