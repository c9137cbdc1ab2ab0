"""The file of principles: what is read, and what is refused with its place."""

from __future__ import annotations

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
        ("text: Be kind.", 'text: "  "', "is empty"),
        ("{answer}", "{reply}", "{reply}"),
        ("{critique}", "{critic}", "{critic}"),
        ("id: kind", "id: Kind!", "id"),
    ],
)
def test_a_faulty_principle_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_constitution(write(tmp_path, GOOD.replace(old, new)))
    assert said in str(error.value)


def test_an_empty_constitution_is_refused(tmp_path: Path) -> None:
    for text in ("", "name: a\nversion: b\nprinciples: []\n"):
        with pytest.raises(ConfigError):
            load_constitution(write(tmp_path, text))


def test_words_with_braces_stay_as_they_are() -> None:
    assert filled("{answer} and {critique}", answer="{critique}", critique="x") == "{critique} and x"
