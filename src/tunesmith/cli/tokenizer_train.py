"""``tunesmith tokenizer train``."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines


class KindName(StrEnum):
    """What --kind takes; the same names as ``tokens.train.Kind``, which is not loaded for --help."""

    bpe = "bpe"
    unigram = "unigram"
    sentencepiece_bpe = "sentencepiece-bpe"
    wordpiece = "wordpiece"


def train(
    files: Annotated[list[str], typer.Argument(help="Text: any file the data verbs read; all strings of a row count.")],
    vocab_size: Annotated[int, typer.Option("--vocab-size", min=1, help="Tokens, special ones included.")],
    output: Annotated[Path, typer.Option("--output", help="A new folder.")],
    kind: Annotated[KindName, typer.Option("--kind", help="The family.")] = KindName.bpe,
    settings: Annotated[Path | None, typer.Option("--settings", help="YAML: special tokens, template ...")] = None,
    field: Annotated[list[str] | None, typer.Option("--field", help="Only this column of the rows.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a tokenizer. Example: tunesmith tokenizer train rows.jsonl --vocab-size 8000 --output runs/tokenizer."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.tokenizer_train import describe_written, train_on_files
        from tunesmith.tokens.train import TokenizerConfig

        config, _ = load_config(TokenizerConfig, settings)
        written = train_on_files(kind.value, vocab_size, files, output, config, field or [])
        print_lines([json.dumps(written.as_dict())] if as_json else describe_written(written))
