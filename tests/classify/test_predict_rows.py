"""Rows to predict, on a classifier that was never trained: what is written, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import DataError
from tunesmith.models.adapters import AdapterConfig, add_adapter, save_role
from tunesmith.models.heads import add_class_head
from tunesmith.recipes.classify_predict import PredictConfig, predict_rows


@pytest.fixture
def classifier(load: Callable[..., Any], tmp_path: Path) -> Callable[[bool], Path]:
    """classifier(chat_template) -> its folder."""

    def make(chat_template: bool) -> Path:
        base = load("llama", "float32")
        role = add_class_head(base, add_adapter(base, "new", AdapterConfig(), 0), 2)
        save_role(base, role, tmp_path / "adapter", {"labels": ["a", "b"], "chat_template": chat_template})
        return tmp_path / "adapter"

    return make


def test_dates_of_a_parquet_file_are_written_as_text(
    load: Callable[..., Any], classifier: Callable[[bool], Path], tmp_path: Path
) -> None:
    import pyarrow
    from pyarrow import parquet

    when = datetime(2026, 11, 26, 4)
    parquet.write_table(pyarrow.table({"text": ["x", "y"], "when": [when, when]}), tmp_path / "rows.parquet")
    config = PredictConfig(
        rows=str(tmp_path / "rows.parquet"), adapter=str(classifier(False)), output=str(tmp_path / "out.jsonl")
    )
    assert predict_rows(config, base=load("llama", "float32")).rows_classified == 2
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["when"] for row in written] == ["2026-11-26 04:00:00"] * 2


def test_a_text_in_the_chat_template_is_not_cut(
    load: Callable[..., Any], classifier: Callable[[bool], Path], tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "hello"}\n')
    config = PredictConfig(
        rows=str(tmp_path / "rows.jsonl"),
        adapter=str(classifier(True)),
        output=str(tmp_path / "out.jsonl"),
        over_length="truncate",
    )
    with pytest.raises(DataError, match=r"over_length: truncate: this classifier reads texts in the chat template"):
        predict_rows(config, base=load("llama", "float32"))
    assert not (tmp_path / "out.jsonl").exists()
