"""tunesmith export from the command line: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_models import ADAPTER, our_logits, transformers_logits, tuned
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.models import llama_cpp
from tunesmith.models.adapters import save_role
from tunesmith.models.export import write
from tunesmith.models.heads import with_head
from tunesmith.models.quantized_linear import QuantizationConfig

ROOT = Path(__file__).parents[2]
needs_llama_cpp = pytest.mark.skipif(not llama_cpp.is_installed(), reason="the extra gguf is not installed")


@pytest.fixture
def adapter(load: Callable[..., Any], tmp_path: Path) -> Path:
    """Folder of a tuned adapter on the tiny Llama."""
    base = load("llama", "float32")
    save_role(base, tuned(base), tmp_path / "runs" / "demo")
    return tmp_path / "runs" / "demo"


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@needs_llama_cpp
def test_the_page_shows_what_happens(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/export.md: its commands run here on a tiny model, and say what the page shows but for numbers."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(examples) == 2

    def shape(words: str) -> list[str]:
        # Numbers, the list of tensor types and whether a token differs hang on the model.
        lines = [re.sub(r"tensors: .*\)", "tensors)", line) for line in words.splitlines()]
        return [re.sub(r"[+-]?\d[\d.,]*", "#", line) for line in lines if not line.startswith("first other")]

    for command, expected in examples:
        program, verb, *arguments = shlex.split(command)
        assert (program, verb) == ("tunesmith", "export")
        # A tiny model has no words to spare: it may lose more than the real one.
        done = run(*arguments, "--max-gap", "0.5")
        assert done.exit_code == 0, done.output
        assert shape(done.stdout) == shape(expected)
    assert sorted(path.name for path in (tmp_path / "edge").iterdir()) == [
        "Modelfile",
        "README.md",
        "demo-q8_0.gguf",
        "lora",
    ]
    page = (tmp_path / "edge" / "README.md").read_text(encoding="utf-8")
    assert "llama-cli -m demo-q8_0.gguf" in page and "greedy tokens as the trained model" in page


@needs_llama_cpp
def test_a_failed_check_says_so_and_renames_the_file(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "to_stored", lambda family, config, name, tensor: -tensor)
    done = run(adapter, "--quant", "f32", "--output", tmp_path / "edge")
    assert done.exit_code == 2
    words = " ".join(done.stderr.split())
    assert "demo-f32.FAILED-CHECK.gguf: llama.cpp does not answer as the model that was trained" in words
    assert [path.name for path in (tmp_path / "edge").iterdir()] == ["demo-f32.FAILED-CHECK.gguf"]


@needs_llama_cpp
def test_what_was_there_stays_where_the_new_file_fails(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = tmp_path / "edge"
    assert run(adapter, "--quant", "f32", "--output", edge, "--max-gap", "0.5").exit_code == 0
    before = {path.name: path.read_bytes() for path in edge.iterdir()}
    # One that llama.cpp does not load at all.
    monkeypatch.setattr(write, "rope_factors", lambda config: torch.ones(3))
    done = run(adapter, "--quant", "f32", "--output", edge, "--overwrite")
    assert done.exit_code == 2 and "does not load it" in " ".join(done.stderr.split())
    after = {path.name: path.read_bytes() for path in edge.iterdir()}
    assert after.pop("demo-f32.FAILED-CHECK.gguf") and after == before


def test_an_adapter_trained_beside_4_bits_is_merged_into_what_they_stand_for(
    load: Callable[..., Any], tmp_path: Path
) -> None:
    base = load("llama", "float32", quantization=QuantizationConfig())
    save_role(base, tuned(base), tmp_path / "qlora")
    done = run(tmp_path / "qlora", "--quant", "f32", "--output", tmp_path / "a.gguf", "--no-check")
    assert done.exit_code == 0, done.output
    found, ours = transformers_logits(tmp_path / "a.gguf"), our_logits(base, ADAPTER)
    assert np.abs(found - ours).max() < 2e-5
    dense = load("llama", "float32")
    tuned(dense)
    assert np.abs(our_logits(dense, ADAPTER) - ours).max() > 0.01


def test_without_llama_cpp_it_writes_and_says_what_was_not_checked(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: False)
    llama_cpp.library.cache_clear()
    done = run(adapter, "--output", tmp_path / "some" / "tuned.gguf", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["parity"] is None and "pip install 'tunesmith[gguf]'" in result["notes"][0]
    assert {path.name for path in (tmp_path / "some").iterdir()} == {"tuned.gguf", "tuned.Modelfile", "tuned.md"}
    assert Path(result["file"]).read_bytes()[:4] == b"GGUF"
    asked = run(adapter, "--output", tmp_path / "b", "--check")
    assert asked.exit_code == 2 and "xllamacpp is not installed" in asked.stderr
    assert not (tmp_path / "b").exists()


def test_what_it_refuses(adapter: Path, tmp_path: Path, load: Callable[..., Any]) -> None:
    def refused(*arguments: object) -> str:
        done = run(*arguments)
        assert done.exit_code == 2, done.output
        return " ".join(done.stderr.split())

    assert "Did you mean q4_0" in refused(adapter, "--quant", "q40", "--output", tmp_path / "a")
    assert "an adapter alone is not kept in q8_0" in refused(
        adapter, "--lora-only", "--quant", "q8_0", "--output", tmp_path / "a"
    )
    assert "is no adapter" in refused(load("llama").resolved.folder, "--lora-only", "--output", tmp_path / "a")
    (tmp_path / "taken").write_text("x")
    assert "cannot be written" in refused(adapter, "--output", tmp_path / "taken" / "edge")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    assert "README.md: is there already" in refused(adapter, "--output", tmp_path / "mine")
    (tmp_path / "blank").write_text("\n\n")
    assert "holds no text" in refused(adapter, "--text", tmp_path / "blank", "--output", tmp_path / "a")
    assert "cannot be read" in refused(adapter, "--text", tmp_path / "none", "--output", tmp_path / "a")
    base = load("llama", "float32")
    role = tuned(base)
    save_role(base, with_head(base, role, base.head.weight_VD[:1].clone(), trainable=False), tmp_path / "reward")
    assert "gives a number, not words" in refused(tmp_path / "reward", "--output", tmp_path / "a")
    save_role(base, with_head(base, role, base.head.weight_VD[:2].clone(), trainable=False), tmp_path / "classes")
    assert "gives numbers, not words" in refused(tmp_path / "classes", "--output", tmp_path / "a")
