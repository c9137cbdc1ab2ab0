"""docs/after-training.md: its commands are ones the program takes, and its numbers are the code's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.data.canaries import all_secrets
from tunesmith.data.gender_words import OCCUPATIONS
from tunesmith.evals.after.retained import KINDS, all_questions, retained_texts
from tunesmith.evals.after.verbatim import MAX_TOKENS
from tunesmith.recipes.after_ask import AfterConfig

PAGE = (Path(__file__).parents[2] / "docs" / "after-training.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_are_understood(tmp_path: Path) -> None:
    block = re.search(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    commands = [shlex.split(line)[1:] for line in block[1].splitlines()]
    assert [command[0] for command in commands] == ["after", "after"]
    for command in commands:
        done = CliRunner().invoke(app, [*command[:1], str(tmp_path), *command[2:]])
        # Only the run is missing.
        assert done.exit_code == 2 and "is not the folder of a run" in done.output, done.output
    assert CliRunner().invoke(app, ["after", str(tmp_path), "--no-such"]).exit_code == 2


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())
    assert f"{len(all_questions())} easy questions of {['five'][len(KINDS) - 5]} kinds" in text
    assert f"bits a byte of {len(retained_texts())} short texts" in text
    assert f"after {len(OCCUPATIONS)} occupations" in text and f"continuations of {MAX_TOKENS} tokens" in text
    assert f"All {len(all_secrets()):,} are scored" in text
    assert f"above {AfterConfig().max_rows_read:,} rows" in text
