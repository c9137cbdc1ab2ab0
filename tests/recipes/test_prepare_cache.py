"""What a recipe keeps of its rendered rows is used again for the same rows and tokenizer only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith.config import build_config
from tunesmith.recipes.prepare import SFTConfig, prepare


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Callable[[str], Path]) -> Callable[[], int]:
    """Prepare a recipe on a tiny model and a folder of rows; returns how many stores the cache holds then."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    shutil.copytree(model_folder("llama"), tmp_path / "model")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/train.txt").write_text('{"text": "abc"}\n')
    settings = {
        "model_name_or_path": str(tmp_path / "model"),
        "output_dir": str(tmp_path / "run"),
        "device": "cpu",
        "data": {"train": str(tmp_path / "rows"), "validation_share": 0},
    }

    def run() -> int:
        prepare(build_config(SFTConfig, settings, place="test"), tmp_path / "work")
        folder = tmp_path / "cache/tokens"
        return len(list(folder.iterdir())) if folder.exists() else 0

    return run


def test_the_same_again_and_anything_else_anew(kept: Callable[[], int], tmp_path: Path) -> None:
    assert kept() == kept() == 1
    # The same bytes under an ending that reads them otherwise.
    (tmp_path / "rows/train.txt").rename(tmp_path / "rows/train.jsonl")
    assert kept() == 2
    # The same tokenizer.json with another token that ends a text.
    config = tmp_path / "model/tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token": "<|im_start|>"}))
    assert kept() == 3


def test_a_template_with_the_date_is_never_kept(kept: Callable[[], int], tmp_path: Path) -> None:
    config, template = tmp_path / "model/tokenizer_config.json", tmp_path / "model/chat_template.jinja"
    dated = "{{ strftime_now('%d %b %Y') }}"
    if template.is_file():
        template.write_text(dated + template.read_text())
    else:
        tree = json.loads(config.read_text())
        config.write_text(json.dumps({**tree, "chat_template": dated + tree["chat_template"]}))
    assert kept() == 0
