"""``tunesmith data convert`` as a user runs it; the examples of its page are run and compared word for word."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tunesmith.cli.main import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "data-convert.md").read_text(encoding="utf-8")
EXPORT = "src/tunesmith/data/examples/chat_export.csv"


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder that has the sources where a checkout has them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").symlink_to(ROOT / "src")


def tunesmith(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_the_examples_of_the_page_say_what_it_shows(tmp_path: Path) -> None:
    commands = 0
    for kind, name, body in re.findall(r"^```(json|console) ?(\S*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        if kind == "json":
            (tmp_path / name).write_text(body, encoding="utf-8")
            continue
        for example in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, expected = example.partition("\n")
            program, *arguments = shlex.split(command)
            assert program == "tunesmith"
            assert tunesmith(*arguments).output == expected
            commands += 1
    assert commands == 4


def test_exit_codes_and_json() -> None:
    done = tunesmith("data", "convert", EXPORT, "out.csv", "--to", "text", "--assistant", "Oda", "--json")
    report = json.loads(done.stdout)
    assert (done.exit_code, report["rows_written"], report["written_columns"]) == (0, 6, ["text"])
    assert report["rows_read"] == 27 and report["left_out"]["thread without a user"] == 1
    again = tunesmith("data", "convert", EXPORT, "out.csv", "--to", "text", "--assistant", "Oda")
    assert (again.exit_code, again.stdout) == (2, "")
    assert again.stderr == "error: out.csv: the file exists. Fix: Name another one, or pass --overwrite.\n"
    debug = tunesmith("data", "convert", EXPORT, "out.csv", "--to", "text", "--debug")
    assert debug.exception is not None and type(debug.exception).__name__ == "DataError"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--to", "chatml"], "--to: 'chatml' is not known. Fix: Use messages, alpaca"),
        (["--to", "text", "--shape", "tweets"], "--shape: 'tweets' is not known."),
        (["--to", "text", "--on-bad-row", "skip"], "--on-bad-row: 'skip' is not known. Fix: Use error, drop."),
        (["--to", "text", "--columns", "text"], "--columns text: is not of the form OURS=THEIRS."),
        (["--to", "text", "--columns", "text=a", "--columns", "text=b"], "a column is mapped twice."),
        (["--to", "messages"], "which side is the assistant is not said."),
        (["--to", "messages", "--assistant", "Bob"], "no message is by 'Bob'."),
    ],
)
def test_options_that_make_no_sense_are_named(tmp_path: Path, options: list[str], says: str) -> None:
    done = tunesmith("data", "convert", EXPORT, "out.jsonl", *options)
    assert done.exit_code == 2
    assert says in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_help_gives_an_example() -> None:
    done = tunesmith("data", "convert", "--help")
    assert done.exit_code == 0
    assert "Example: tunesmith data convert" in re.sub(r"\s+", " ", done.stdout.replace("│", " "))
