"""The loader on real files; skipped where the folder of shared data is not on the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.load import DataConfig, LoadedData, load_data
from tunesmith.errors import DataError
from tunesmith.records import Conversation, Document

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
OASST = {"prompt": "prompt", "completion": "output"}
GSM8K = {"prompt": "question", "completion": "answer"}

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the folder ../shared/data is not on this machine")


def load(name: str, **settings: Any) -> LoadedData:
    return load_data(DataConfig(train=str(SHARED / name), **settings))


@pytest.mark.parametrize(
    ("name", "settings", "shape", "num_rows", "ignored"),
    [
        ("instructions/instructions.json", {}, "alpaca", 780, []),
        ("instructions/preferences.json", {}, "alpaca", 804, ["chosen", "rejected"]),
        ("dolly/dolly_12.json", {}, "alpaca", 12, ["category"]),
        ("gsm8k/train.jsonl", {"columns": GSM8K}, "prompt-completion", 300, []),
        (
            "oasst_pairs/pairs_en.jsonl",
            {"columns": OASST},
            "prompt-completion",
            280,
            ["input", "lang", "message_id", "parent_id"],
        ),
        (
            "oasst_pairs/pairs_multilingual.jsonl",
            {"columns": OASST},
            "prompt-completion",
            150,
            ["input", "lang", "message_id", "parent_id"],
        ),
        ("multi_template_tasks/t0_templates.jsonl", {}, "prompt-completion", 660, ["row", "template"]),
        ("memorisation/quote_completions.jsonl", {"columns": {"output": "target"}}, "input-output", 60, []),
        ("banking77", {}, "text", 1540, ["category"]),
        ("sms_spam/sms.jsonl", {}, "text", 3600, ["label"]),
    ],
)
def test_real_files_are_read_whole(
    name: str, settings: dict[str, Any], shape: str, num_rows: int, ignored: list[str]
) -> None:
    data = load(name, **settings)
    assert (data.shape, data.rows_read, data.rows_used, data.rows_dropped) == (shape, num_rows, num_rows, {})
    assert data.ignored_columns == ignored
    assert len(data.validation) > 0


def test_mapped_rows_say_what_the_file_says() -> None:
    lines = (SHARED / "oasst_pairs" / "pairs_en.jsonl").read_text(encoding="utf-8").splitlines()
    data = load("oasst_pairs/pairs_en.jsonl", columns=OASST, validation_share=0)
    for record, line in zip(data.train, map(json.loads, lines), strict=True):
        assert isinstance(record, Conversation)
        assert [m.content for m in record.messages] == [line["prompt"], line["output"]]


def test_context_of_dolly_reaches_the_user_turn() -> None:
    rows = json.loads((SHARED / "dolly" / "dolly_12.json").read_text(encoding="utf-8"))
    data = load("dolly/dolly_12.json", validation_share=0)
    for record, row in zip(data.train, rows, strict=True):
        assert isinstance(record, Conversation)
        assert record.messages[0].content == "\n\n".join(filter(None, [row["instruction"], row["context"]]))


def test_a_folder_of_raw_text_loses_no_character() -> None:
    data = load("tiny_shakespeare")
    for records, name in ((data.train, "train.txt"), (data.validation, "valid.txt")):
        whole = (SHARED / "tiny_shakespeare" / name).read_text(encoding="utf-8")
        parts = [record.text for record in records if isinstance(record, Document)]
        assert "".join(parts).split() == whole.split()


def test_real_transcripts_and_their_faults() -> None:
    name, columns = "hh_rlhf/harmless_base.jsonl", {"transcript": "chosen"}
    with pytest.raises(DataError, match="2 of 500 rows are faulty") as caught:
        load(name, columns=columns)
    assert "two assistant turns stand in a row" in str(caught.value)
    assert load(name, columns=columns, merge_same_role=True).rows_used == 500


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("oasst_pairs/pairs_en.jsonl", "fit more than one shape: prompt-completion and input-output"),
        ("gsm8k/train.jsonl", "fit no known shape"),
        ("xstest/prompts.csv", "fit no known shape"),
        ("memorisation/popular_quotes.json", "not an object"),
        ("tokenizer_gpt2/encoder.json", "no list of rows"),
    ],
)
def test_real_files_that_are_not_plain_sft_rows_are_refused(name: str, cause: str) -> None:
    with pytest.raises(DataError, match=cause):
        load(name)
