"""Rows -> a file that is whole or not there: written to a hidden sibling in constant memory, then renamed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.data.whole import temporary_sibling
from tunesmith.data.write import Form
from tunesmith.errors import DataError

OUT_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
ROW_GROUP_ROWS = 1000
Write = Callable[[dict[str, Any]], None]


def check_output(path: Path, source: Path, form_target: str, *, overwrite: bool) -> None:
    """Raise DataError where the output cannot be written as asked; nothing is touched."""
    suffix = path.suffix.lower()
    if suffix not in OUT_SUFFIXES:
        fix = f"End its name with {', '.join(OUT_SUFFIXES)}."
        raise DataError(path, f"'{path.suffix}' is not a format that is written.", fix)
    if suffix == ".csv" and form_target in ("messages", "sharegpt"):
        fix = "Write .jsonl, .json or .parquet; alpaca, prompt-completion, preference and text fit into .csv."
        raise DataError(path, f"{form_target} needs lists, which a cell of CSV cannot hold.", fix)
    if not path.parent.is_dir():
        raise DataError(path, "there is no such folder to write into.", "Make it first.")
    if path.is_dir():
        raise DataError(path, "is a folder.", "Name a file.")
    if path.exists() and source.exists() and path.samefile(source):
        raise DataError(path, "the output is the input.", "Write to another file.")
    if path.exists() and not overwrite:
        raise DataError(path, "the file exists.", "Name another one, or pass --overwrite.")


@contextmanager
def open_output(path: Path, form: Form) -> Iterator[Write]:
    """A function that writes a row; the file appears when the block ends well, and never otherwise.

    Raises DiskFullError where there is no space left, and DataError for a path that cannot be written.
    """
    with temporary_sibling(path) as temporary, _WRITERS[form.suffix](temporary, form) as write:
        yield write


@contextmanager
def _json_lines(path: Path, form: Form) -> Iterator[Write]:
    with path.open("x", encoding="utf-8", newline="\n") as stream:

        def write(row: dict[str, Any]) -> None:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")

        yield write


@contextmanager
def _json_list(path: Path, form: Form) -> Iterator[Write]:
    with path.open("x", encoding="utf-8", newline="\n") as stream:
        opening = "[\n"

        def write(row: dict[str, Any]) -> None:
            nonlocal opening
            stream.write(opening + json.dumps(row, ensure_ascii=False))
            opening = ",\n"

        yield write
        stream.write("\n]\n" if opening != "[\n" else "[]\n")


@contextmanager
def _csv(path: Path, form: Form) -> Iterator[Write]:
    with path.open("x", encoding="utf-8", newline="") as stream:
        # RFC 4180's line end; with a bare line feed, Python 3.11 leaves a cell that ends in a carriage return unquoted.
        writer = csv.DictWriter(stream, form.columns, lineterminator="\r\n")
        writer.writeheader()

        def write(row: dict[str, Any]) -> None:
            writer.writerow(row)

        yield write


@contextmanager
def _parquet(path: Path, form: Form) -> Iterator[Write]:
    import pyarrow
    from pyarrow import parquet

    schema = _schema(form)
    batch: list[dict[str, Any]] = []
    with parquet.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            if batch:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
                batch.clear()

        def write(row: dict[str, Any]) -> None:
            batch.append(row)
            if len(batch) >= ROW_GROUP_ROWS:
                flush()

        yield write
        flush()


def _schema(form: Form) -> Any:
    """Texts, or lists of turns; ``train`` is null where a turn does not state it."""
    import pyarrow as pa

    def turns(role: str, content: str) -> Any:
        return pa.list_(pa.struct([(role, pa.string()), (content, pa.string()), ("train", pa.bool_())]))

    chat = turns("role", "content")
    types: dict[str, Any] = {"messages": chat, "conversations": turns("from", "value"), "ranks": pa.list_(pa.int64())}
    if form.as_messages:
        types |= {"prompt": chat, "completion": chat, "chosen": chat, "rejected": chat}
    return pa.schema([(name, types.get(name, pa.string())) for name in form.columns])


_WRITERS = {".jsonl": _json_lines, ".json": _json_list, ".csv": _csv, ".parquet": _parquet}
