"""Write a mixture's examples to a file, with what each was made of, and count rows and tokens a task."""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.load import DataConfig, load_data
from tunesmith.data.mixture import Draw, MixtureRecords, is_mixture
from tunesmith.data.mixture_report import mixture_table, table_lines
from tunesmith.errors import ConfigError, RunError
from tunesmith.models.tokenizer import load_tokenizer
from tunesmith.records import Conversation
from tunesmith.tokens.render import RenderConfig, render

# Only counted here: what is too long for a model is the recipe's business.
_NO_LIMIT_TOKENS = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """What was written: file -> number of rows, the table of tasks, and the digest of mixture and sources."""

    files: dict[str, int]
    tasks: list[dict[str, Any]]
    rows_dropped: dict[str, int]
    digest: str

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {name: getattr(self, name) for name in self.__slots__}


def write_mixture_rows(
    config: DataConfig, out: Path, validation_out: Path | None, *, model: str | None, overwrite: bool
) -> Mixed:
    """Write the examples as rows in the ``messages`` shape: the ones a recipe with this ``data`` trains on.

    Raises ConfigError for a source that is no mixture, RunError for a file that is there already, and the errors of
    the mixture. A file is written whole or not at all.
    """
    if not is_mixture(config.train):
        raise ConfigError(config.train, "is no mixture.", "Name a mixture's .yaml file.")
    targets = [path for path in (out, validation_out) if path is not None]
    if len({path.resolve() for path in targets}) < len(targets):
        raise ConfigError(str(out), "is named for both the examples and the validation rows.", "Name two files.")
    for path in targets:
        if path.suffix.lower() != ".jsonl":
            raise ConfigError(str(path), "examples are written as .jsonl.", "Name a file that ends in .jsonl.")
        if path.is_dir():
            raise ConfigError(str(path), "is a folder.", "Name a file that ends in .jsonl.")
        if path.exists() and not overwrite:
            raise RunError(path, "is there already.", "Choose another name, or pass --overwrite.")
        if not path.parent.is_dir():
            raise RunError(path, f"the folder {path.parent} is not there.", "Make it first.")
    data = load_data(config)
    assert data.mixture is not None and isinstance(data.train, MixtureRecords)
    for path in targets:
        if path.resolve() in data.mixture.files():
            raise ConfigError(str(path), "is a file that the mixture reads.", "Write to another file.")
    tokenizer = load_tokenizer(model).tokenizer if model is not None else None
    tokens: dict[int, int] = {}
    files = {str(out): _write(data.train, out, tokenizer, tokens)}
    if validation_out is not None:
        assert isinstance(data.validation, MixtureRecords)
        files[str(validation_out)] = _write(data.validation, validation_out, None, {})
    return Mixed(
        files=files,
        tasks=mixture_table(data.mixture, data.train, tokens if tokenizer is not None else None),
        rows_dropped=data.rows_dropped,
        digest=data.digest,
    )


def _write(records: MixtureRecords, path: Path, tokenizer: Any, tokens: dict[int, int]) -> int:
    """Write all rows through a temporary sibling; fills in tokens by place. Returns the number of rows."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        with temporary.open("x", encoding="utf-8") as stream:
            for row in _rows(records, tokenizer, tokens):
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, RunError):
            raise
        raise RunError(path, f"cannot be written: {error.strerror}.", "Choose another path.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return len(records)


def _rows(records: MixtureRecords, tokenizer: Any, tokens: dict[int, int]) -> Iterator[dict[str, Any]]:
    for i in range(len(records)):
        draw, record = records.example(i)
        if tokenizer is not None:
            examples = render(record, tokenizer, RenderConfig(), max_tokens=_NO_LIMIT_TOKENS)
            tokens[record.row_id] = sum(example.num_tokens for example in examples)
        yield row_of_example(draw, record)


def row_of_example(draw: Draw, record: Conversation) -> dict[str, Any]:
    """An example as a row: its messages, and its lineage under ``mixture``."""
    messages = [
        {"role": message.role, "content": message.content}
        | ({"train": False} if message.role == "assistant" and not message.train else {})
        for message in record.messages
    ]
    lineage = {
        "index": record.row_id,
        "task": draw.task.name,
        "template": draw.template.name,
        "mode": draw.mode,
        "source": f"{record.where.file}:{record.where.line}",
        "row": draw.row_id,
        "shots": list(draw.shots),
    }
    return {"messages": messages, "mixture": lineage}


def describe_mixed(mixed: Mixed) -> list[str]:
    """What to tell the user: the table, what was written, the next command."""
    dropped = [f"dropped {count} x {cause}" for cause, count in mixed.rows_dropped.items()]
    written = [f"wrote {path}: {count} rows" for path, count in mixed.files.items()]
    # The recipe names validation rows, which are none of these.
    train, held_out = [*mixed.files, "null"][:2]
    settings = shlex.join([f"data.train={train}", f"data.validation={held_out}"])
    return [*table_lines(mixed.tasks), *dropped, *written, f"next:  tunesmith sft recipes/chat.yaml {settings}"]
