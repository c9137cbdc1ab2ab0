"""docs/constitution.md: its file gives the output it shows, its table of ours is ours, its findings are those made."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.constitution import applies, check, check_one, check_pairs
from tunesmith.constitution.principles import load_constitution
from tunesmith.data import patterns
from tunesmith.models.sentence_encoder import encoder_folder

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "constitution.md").read_text(encoding="utf-8")
ASKED = re.search(r'three prompts: "(.*?)", "(.*?)", "(.*?)"', PAGE)


def block(start: str) -> str:
    found = re.search(rf"```\w*\n({re.escape(start)}.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "house-rules.yaml").write_text(block("name: house-rules"))
    assert ASKED is not None
    (tmp_path / "asked.txt").write_text("".join(f"{line}\n" for line in ASKED.groups()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_pages_file_gives_the_pages_output(folder: Path) -> None:
    shown = block("$ tunesmith constitution check house-rules.yaml").split("\n", 1)
    done = CliRunner().invoke(app, shown[0].split()[2:])
    assert done.exit_code == 1 and done.output == shown[1]


def test_json_has_every_place_and_a_good_file_ends_with_0(folder: Path) -> None:
    done = CliRunner().invoke(app, ["constitution", "check", "house-rules.yaml", "--sample", "asked.txt", "--json"])
    said = json.loads(done.output)
    assert done.exit_code == 1 and said["num"] == {"error": 3, "warning": 5, "note": 1}
    assert said["digest"] == load_constitution("house-rules.yaml").digest
    assert sum(one["kind"] == "no-demonstrations" for one in said["findings"]) == 3
    assert said["sample"]["num_prompts"] == 3 and said["sample"]["narrowed"] == {"money": 1}
    text = (folder / "house-rules.yaml").read_text()
    (folder / "good.yaml").write_text(text[: text.index("  - id: no-refunds")])
    done = CliRunner().invoke(app, ["constitution", "check", "good.yaml", "--limit", "1", "--sample", "asked.txt"])
    assert done.exit_code == 0 and "0 errors, 0 warnings, 0 notes." in done.output and "1 prompt of" in done.output
    assert done.output.endswith("tunesmith constitution revise PROMPTS --constitution good.yaml\n")


def test_what_cannot_be_read_ends_with_2(folder: Path) -> None:
    for name, text in (("empty.yaml", ""), ("bad.yaml", "name: 'a\n"), ("list.yaml", "- a\n")):
        (folder / name).write_text(text)
        done = CliRunner().invoke(app, ["constitution", "check", name])
        assert done.exit_code == 2 and "error:" in done.output and name in done.output
    assert CliRunner().invoke(app, ["constitution", "check", "none.yaml"]).exit_code == 2


def test_the_numbers_and_names_of_the_page_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())
    assert f"a limit of {patterns.SECONDS} s a prompt" in text and f"(ridge {applies.RIDGE})" in text
    assert f"share {check_pairs.NEAR_WORDS:.0%}".replace("%", " %") in text
    assert f"A cosine of at least {check_pairs.NEAR_MEANING}" in text and check_pairs.SAME_THING == 0.75
    assert f"fewer than {check.WEAK:.0%}".replace("%", " %") in text and check_one.ONE_SIDED == 2
    sources = [Path(str(module.__file__)).read_text() for module in (check, check_one, check_pairs)]
    kinds = {name for source in sources for name in re.findall(r'"([a-z]+(?:-[a-z]+)+)", (?:one|other|first)', source)}
    rows = set(re.findall(r"^\| ([a-z-]+) \| (?:error|warning|note)", PAGE, re.MULTILINE))
    assert rows - kinds <= {"contradiction", "duplicate", "unreachable", "long"} and kinds <= rows and len(kinds) > 12


@pytest.mark.slow
@pytest.mark.skipif(encoder_folder() is None, reason="the sentence encoder is not installed")
def test_ours_has_no_error_and_is_what_the_page_shows() -> None:
    done = CliRunner().invoke(app, ["constitution", "check", "ours"])
    assert done.exit_code == 0, done.output
    table = block("$ tunesmith constitution check ours").splitlines()[1:]
    width = done.output.splitlines()[3].index("demonstrations")
    shown = [line[:width].rstrip() for line in done.output.splitlines()]
    assert [line for line in table if line not in shown] == [] and len(table) == 25
    ours = load_constitution("ours")
    assert all(one.critique_request.endswith("?") for one in ours.principles)
    assert {one.category for one in ours.principles} == {
        "helpful", "honest", "harmless", "danger", "hate", "care", "privacy", "counterweight",
    }  # fmt: skip
