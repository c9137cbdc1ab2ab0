"""``tunesmith tokenizer``: the examples of its pages and its help, on small files, and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import shared_data
from typer.testing import CliRunner

from tunesmith.cli.main import app

SENTENCE = "Tokenization helps AI understand text."
WORDS = ["catheter", "tachycardia", "stenosis", "the", "of", "patient", "angioplasty", "hypertension"]


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["tokenizer", *words])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    texts = [" ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 9)) + f" {i}." for i in range(60)]
    path.write_text("".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(texts)))
    return path


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "sentencepiece-bpe", "unigram"])
def test_train_then_show(tmp_path: Path, rows: Path, kind: str) -> None:
    out = str(tmp_path / "tok")
    said = run("train", str(rows), "--kind", kind, "--vocab-size", "330", "--output", out)
    assert "wrote" in said and "next:" in said
    facts = json.loads(run("train", str(rows), "--kind", kind, "--vocab-size", "330", "--output", f"{out}2", "--json"))
    assert facts["lossless"] == (kind != "wordpiece") and facts["vocab_size"] <= 330
    assert (tmp_path / "tok" / "tokenizer.json").read_bytes() == (tmp_path / "tok2" / "tokenizer.json").read_bytes()
    shown = json.loads(run("show", "the catheter", "--tokenizer", out, "--json"))
    assert "".join(shown["shown"]).replace("##", "") in ("the▁catheter", "thecatheter")
    assert "not an empty folder" in run("train", str(rows), "--vocab-size", "300", "--output", out, code=2)


def test_what_cannot_be_trained_is_said(tmp_path: Path, rows: Path) -> None:
    out = str(tmp_path / "tok")
    assert "too small" in run("train", str(rows), "--vocab-size", "100", "--output", out, code=2)
    assert "no such file" in run("train", "none.txt", "--vocab-size", "300", "--output", out, code=2)
    said = run("train", str(rows), "--vocab-size", "300", "--output", out, "--field", "txt", code=2)
    assert "no row has the column 'txt'" in " ".join(said.split())
    bad = tmp_path / "bad.yaml"
    bad.write_text("special_token: {}\n")
    assert "special_tokens" in run(
        "train", str(rows), "--vocab-size", "300", "--output", out, "--settings", str(bad), code=2
    )
    assert not Path(out).exists()


def test_show_needs_a_text_or_a_file() -> None:
    assert "either a text or --file" in run("show", code=2)
    assert "no such file or folder" in run("show", "a", "--tokenizer", "./nowhere", code=2)


def test_the_examples_of_the_page(tmp_path: Path) -> None:
    gpt2, t5 = str(shared_data("tokenizer_gpt2")), str(shared_data("tokenizer_t5/spiece.model"))
    said = run("show", SENTENCE, "--tokenizer", t5)
    assert "▁To | ken | ization | ▁helps | ▁AI | ▁understand | ▁text | ." in said
    said = run("show", SENTENCE, "--tokenizer", gpt2)
    assert "Token | ization | ▁helps | ▁AI | ▁understand | ▁text | ." in said and "rank" in said
    rows = json.loads(run("show", SENTENCE, "--compare", "--tokenizer", gpt2, "--tokenizer", t5, "--json"))
    assert [row["num_tokens"] for row in rows] == [7, 8, 5, 38]
    file, picture = str(shared_data("tiny_shakespeare/valid.txt")), tmp_path / "tokenizers.png"
    said = run("show", "--file", file, "--tokenizer", gpt2, "--tokenizer", t5, "--picture", str(picture))
    assert "characters" in said and picture.read_bytes().startswith(b"\x89PNG")


def test_extend_a_tiny_model(tmp_path: Path, rows: Path, model_folder: Callable[[str], Path]) -> None:
    out = tmp_path / "run"
    words: list[Any] = [
        "extend", "--model", model_folder("llama"), "--files", rows, "--num", 20, "--output", out, "device=cpu",
        "dtype=float32", "num_train_epochs=2", "learning_rate=0.01", "adapter.r=4", "max_length=128",
    ]  # fmt: skip
    said = run(*map(str, words))
    assert "20 new tokens" in said and "our kernels" in said and "next:" in said
    report = json.loads((out / "extension.json").read_text())
    assert report["test_tokens"]["after"] < report["test_tokens"]["before"]
    assert report["bits_per_byte"]["trained"] < report["bits_per_byte"]["added"]
    config = json.loads((out / "adapter_config.json").read_text())
    assert len(config["trainable_token_indices"]["embed_tokens"]) == 20
    generated = CliRunner().invoke(app, ["generate", "the catheter", "--adapter", str(out), "--max-new-tokens", "3"])
    assert generated.exit_code == 0, generated.output
    # Resumed, it rebuilds the same tokens and goes on; the control trains LoRA alone.
    again = run(*map(str, words), "resume_from_checkpoint=auto", "--json").splitlines()[-1]
    assert json.loads(again)["bits_per_byte"] == report["bits_per_byte"]
    words[6], words[8] = 0, tmp_path / "control"
    control = json.loads(run(*map(str, words), "--json").splitlines()[-1])
    assert control["tokens"] == [] and control["test_tokens"]["after"] == control["test_tokens"]["before"]


def test_extend_says_which_path_it_takes(tmp_path: Path, rows: Path, model_folder: Callable[[str], Path]) -> None:
    said = run(
        "extend", "--model", str(model_folder("gpt2")), "--files", str(rows), "--num", "5", "--output",
        str(tmp_path / "run"), "device=cpu", "dtype=float32", "max_steps=1", "max_length=128",
    )  # fmt: skip
    assert "plain reference path: model type 'gpt2' has no fast path" in said


def test_the_training_example_of_the_page(tmp_path: Path) -> None:
    said = run(
        "train", str(shared_data("botchan/botchan.txt")), "--vocab-size", "2000", "--output", str(tmp_path / "tok"),
        "--settings", str(Path(__file__).parents[2] / "recipes" / "tokenizer.yaml"),
    )  # fmt: skip
    assert "2000 tokens; every text comes back" in said and "chat_template.jinja" in said


def test_a_folder_in_use_is_refused_before_its_texts_are_written(tmp_path: Path, rows: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.jsonl").write_text("kept")
    (tmp_path / "run.json").write_text("{}")
    said = run("extend", "--files", str(rows), "--output", str(tmp_path), code=2)
    assert "already holds a run" in said
    assert (tmp_path / "texts" / "train.jsonl").read_text() == "kept"


@pytest.mark.slow
def test_extend_the_real_base(tmp_path: Path, rows: Path) -> None:
    recipe = str(Path(__file__).parents[2] / "recipes" / "extend.yaml")
    words = ["extend", "--recipe", recipe, "--files", str(rows), "--num", "10", "--output", str(tmp_path / "run")]
    said = run(*words, "fields=[text]", "max_steps=1", "per_device_train_batch_size=4")
    assert "10 new tokens" in said and "shared by embedding and head" in said
    assert (tmp_path / "run" / "tokenizer.json").is_file()


def test_the_extend_recipe_is_understood() -> None:
    from tunesmith.config import load_config
    from tunesmith.recipes.extend import ExtendConfig

    config, notes = load_config(ExtendConfig, Path(__file__).parents[2] / "recipes" / "extend.yaml")
    assert notes == [] and config.num_tokens == 500 and config.output_dir == "runs/extend"
