"""Train a tokenizer on files and say what it is worth on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tunesmith.data.texts import iter_texts
from tunesmith.errors import DataError
from tunesmith.tokens.fertility import Fertility, measure
from tunesmith.tokens.inspect import open_inspector
from tunesmith.tokens.train import Kind, TokenizerConfig, TrainedTokenizer, save_tokenizer, train_tokenizer

# Enough to measure on, and nothing to wait for.
MEASURED_TEXTS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The tokenizer, where it lies, and its measure over the first training texts."""

    trained: TrainedTokenizer
    folder: Path
    files: list[str]
    fertility: Fertility

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "kind": self.trained.kind,
            "vocab_size": self.trained.vocab_size,
            "lossless": self.trained.lossless,
            "notes": self.trained.notes,
            "output": str(self.folder),
            "files": self.files,
            "training_texts": self.fertility.as_dict(),
        }


def train_on_files(
    kind: Kind, vocab_size: int, files: Sequence[str], folder: Path, config: TokenizerConfig, fields: Sequence[str] = ()
) -> Written:
    """Train on every string of the files' rows, which are streamed, and write the tokenizer to an empty folder.

    Raises DataError for files that cannot be read, ConfigError for a vocabulary too small, RunError for a folder in
    use.
    """
    if next(iter_texts(files, fields), None) is None:
        raise DataError(", ".join(files), "the rows hold no text.", "Name files with text, or other columns.")
    trained = train_tokenizer(kind, vocab_size, lambda: (text for text, _ in iter_texts(files, fields)), config)
    written = save_tokenizer(trained, folder)
    inspector = open_inspector(str(folder))
    texts = (text for text, _ in islice(iter_texts(files, fields), MEASURED_TEXTS))
    return Written(trained=trained, folder=folder, files=written, fertility=measure([inspector], texts)[0])


def describe_written(written: Written) -> list[str]:
    """What to tell the user at the end."""
    trained, row = written.trained, written.fertility
    lossless = "every text comes back as it was" if trained.lossless else "not lossless"
    return [
        f"{trained.kind}: {trained.vocab_size} tokens; {lossless}",
        *trained.notes,
        f"on the training texts: {row.tokens_a_word:.2f} tokens a word, {row.bytes_a_token:.2f} bytes a token, "
        f"{row.num_unknown} unknown",
        f"wrote {written.folder}: {', '.join(written.files)}",
        f'next:  tunesmith tokenizer show "A text." --tokenizer {written.folder}',
    ]
