"""The file of principles: what is read, and what is refused with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.constitution.principles import filled, load_constitution
from tunesmith.errors import ConfigError

GOOD = """
name: ours
version: "1"
principles:
  - id: kind
    text: Be kind.
    category: manners
    critique_request: "What is unkind in {answer}?"
    revision_request: "Say it kindly, given that {critique}"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "constitution.yaml"
    path.write_text(text)
    return path


def test_comments_do_not_change_the_digest_and_words_do(tmp_path: Path) -> None:
    plain = load_constitution(write(tmp_path, GOOD))
    assert load_constitution(write(tmp_path, "# a comment\n" + GOOD)).digest == plain.digest
    assert load_constitution(write(tmp_path, GOOD.replace("Be kind.", "Be very kind."))).digest != plain.digest


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    text: Be kind.\n", "", "text"),
        ("text: Be kind.", 'text: "  "', "yaml:6:principles.0.text: is empty"),
        ("category: manners", 'category: " "', "yaml:7:principles.0.category: is empty"),
        ("name: ours", 'name: " "', "yaml:2:name: is empty"),
        ("{answer}", "{reply}", "yaml:8:principles.0.critique_request: names {reply}; known are"),
        ("{answer}", "{critique}", "names {critique}"),
        ("{critique}", "{critic}", "yaml:9:principles.0.revision_request: names {critic}"),
        ("id: kind", "id: Kind!", "yaml:5:principles.0.id"),
    ],
)
def test_a_faulty_principle_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_constitution(write(tmp_path, GOOD.replace(old, new)))
    assert said in str(error.value) and "at least 1 item" not in str(error.value)


def test_an_empty_constitution_is_refused(tmp_path: Path) -> None:
    for text, said in (
        ("", "principles: field required"),
        ("name: a\nversion: b\nprinciples: []\n", "holds no principle"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_constitution(write(tmp_path, text))


def test_two_principles_of_one_id_are_told_with_their_place_and_without_the_whole_file(tmp_path: Path) -> None:
    twice = GOOD + GOOD.partition("principles:\n")[2]
    with pytest.raises(ConfigError, match="yaml:4:principles: two principles have the id 'kind'") as error:
        load_constitution(write(tmp_path, twice))
    assert "Be kind." not in str(error.value)


@pytest.mark.parametrize("key", ["prompt", "answer", "critique"])
def test_a_demonstration_of_blanks_is_refused(tmp_path: Path, key: str) -> None:
    shown = {"prompt": "p", "answer": "a", "critique": "c", "revision": "r"} | {key: " "}
    with pytest.raises(ConfigError, match=f"examples.0.{key}: is empty"):
        load_constitution(write(tmp_path, f"{GOOD}    examples:\n      - {json.dumps(shown)}\n"))


def test_words_with_braces_stay_as_they_are() -> None:
    assert filled("{answer} and {critique}", answer="{critique}", critique="x") == "{critique} and x"
