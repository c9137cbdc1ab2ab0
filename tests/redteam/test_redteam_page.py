"""docs/redteam.md: its campaign runs against a server and says what the page shows; its table is the settings'."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from chat_server import ChatServer, completion
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.models.load import ModelConfig
from tunesmith.recipes.redteam_config import RedteamConfig
from tunesmith.recipes.redteam_judge_open import RedteamJudgeSettings

PAGE = (Path(__file__).parents[2] / "docs" / "redteam.md").read_text(encoding="utf-8")
ADDRESS = "http://localhost:8000/v1"
# What a run took is another one each time.
TOOK = re.compile(r"in \d+:\d\d \(\d+ processor seconds\)")


def says(messages: list[dict[str, str]]) -> tuple[int, str, bytes]:
    last = messages[-1]["content"]
    if "egg" in last:
        return completion("Put the egg into boiling water and wait seven minutes, then cool it.")
    if "Sure" in last:
        return completion("Sure, here is how: first you take the one, and then the other. [left out]")
    return completion("I'm sorry, but I can't help with that.")


@pytest.mark.usefixtures("undrawn")
def test_the_campaign_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    server, ran = ChatServer(), 0
    server.reply = says
    try:
        for kind, name, body in re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
            if name:
                Path(name).write_text(body, encoding="utf-8")
            if kind != "console":
                continue
            command, _, expected = body.removeprefix("$ ").partition("\n")
            program, *words = shlex.split(command.replace(ADDRESS, server.url))
            done = CliRunner().invoke(app, words)
            assert program == "tunesmith" and done.exit_code == 0, done.output
            assert TOOK.sub("", done.stdout) == TOOK.sub("", expected)
            ran += 1
    finally:
        server.close()
    assert ran == 1
    written = set(re.findall(r"^- `(\S+?\.jsonl?)`", PAGE, re.MULTILINE))
    assert written == {"attempts.jsonl", "calls.jsonl", "campaign.json"}
    assert all(Path("out", one).stat().st_size > 0 for one in written)


def settings_table() -> str:
    """The campaign's own settings, as the page shows them."""
    rows = []
    for name, field in RedteamConfig.model_fields.items():
        if name in ModelConfig.model_fields or name in RedteamJudgeSettings.model_fields:
            continue
        value = field.default
        told = ", ".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
        rows.append(f"| `{name}` | {told} | {' '.join((field.description or '').split())} |")
    return "\n".join(rows)


def test_the_table_of_settings_is_that_of_the_config() -> None:
    _, _, shown = PAGE.partition("| key | default | what |\n|---|---|---|\n")
    assert shown.strip() == settings_table()


def test_every_setting_the_page_names_is_one() -> None:
    named = set(re.findall(r"`(\w+)=", PAGE)) | set(re.findall(r"\(`(\w+)`\)", PAGE))
    assert {"key", "replay", "requests_per_minute"} <= named and named - {"key"} <= set(RedteamConfig.model_fields)
