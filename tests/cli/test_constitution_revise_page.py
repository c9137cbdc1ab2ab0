"""docs/constitution-revise.md: its example runs against a server and says what the page shows."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from chat_server import ChatServer, completion
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.recipes.constitution_config import ReviseConfig

PAGE = (Path(__file__).parents[2] / "docs" / "constitution-revise.md").read_text(encoding="utf-8")
ADDRESS = "http://localhost:8000/v1"


def says(messages: list[dict[str, str]]) -> tuple[int, str, bytes]:
    last = messages[-1]["content"]
    if last.startswith("Write the answer once more"):
        return completion("Tell me what went wrong at work.")
    if last.startswith("Say what"):
        rude = "is a fool" in messages[-2]["content"]
        return completion("It insults the boss. [[fault]]" if rude else "Nothing is unkind. [[no fault]]")
    return completion("Your boss is a fool." if "insult" in last else "The Elbe.")


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    server, ran = ChatServer(), 0
    server.reply = says
    try:
        for kind, name, body in blocks:
            if name:
                Path(name).write_text(body, encoding="utf-8")
            if kind != "console":
                continue
            command, _, expected = body.removeprefix("$ ").partition("\n")
            program, *words = shlex.split(command.replace(ADDRESS, server.url))
            done = CliRunner().invoke(app, words)
            assert program == "tunesmith" and done.exit_code == 0, done.output
            assert done.stdout == expected
            ran += 1
    finally:
        server.close()
    assert ran == 1
    (shown,) = [json.loads(body) for kind, name, body in blocks if kind == "json"]
    second = json.loads(Path("revised/audit.jsonl").read_text(encoding="utf-8").splitlines()[1])
    assert {key: second[key] for key in shown} == shown
    assert set(second) - set(shown) == {"id", "parent", "prompt_id", "where", "prompt", "critic", "who", "constitution"}


def test_every_key_the_page_names_is_one() -> None:
    named = set(re.findall(r"--set '?(\w+)=", PAGE))
    assert len(named) > 5 and named <= set(ReviseConfig.model_fields)
