"""A file that changes while its rows are read is noticed, so that nothing is recorded under the wrong digest."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tunesmith.data.read import open_rows
from tunesmith.errors import DataError


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt", ".parquet"])
@pytest.mark.parametrize("change", ["replace", "append", "remove"])
def test_rows_never_go_by_the_digest_of_a_file_that_came_later(tmp_path: Path, suffix: str, change: str) -> None:
    table = {".jsonl": b'{"text": "old"}\n', ".csv": b"text\nold\n", ".txt": b"old\n"}
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(table.get(suffix, b""))
    if suffix == ".parquet":
        parquet.write_table(pyarrow.table({"text": ["old"]}), path)
    rows = open_rows(str(path))
    assert rows.digest() == open_rows(str(path)).digest()
    data = path.read_bytes()
    if change == "append":
        with path.open("ab") as stream:
            stream.write(b"x")
    else:
        path.unlink()
    if change == "replace":
        path.write_bytes(data.replace(b"old", b"new"))
        os.utime(path, ns=(0, 0))
    with pytest.raises(DataError, match="changed while it was being read"):
        rows.digest()
