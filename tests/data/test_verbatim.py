"""Rows are written back byte for byte, each to exactly one place, and files are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tunesmith.data.duplicates import Checked
from tunesmith.data.load import DataConfig
from tunesmith.data.read import open_rows
from tunesmith.data.repair import rejected_path, write_passing, write_redacted
from tunesmith.data.survey import make_plan, survey
from tunesmith.data.verbatim import check_target, open_writer, whole_file
from tunesmith.errors import DataError

SOURCES = {
    ".jsonl": b'\xef\xbb\xbf{"text":  "a\\u00e9"}\r\n\n {"text":"b"}  \n{"text": "c", "n": 1.50}',
    ".json": b'{"about": 1, "rows": [ {"text": "a"},{"text":\n"b\xc3\xa9"}, {"text": "c"}]}',
    ".csv": b'text,n\r\n"a ""x"", y",1\r\n"two\nlines",2\r\nc,3',
    ".txt": b"\n\none\nmore\n\n\n\ntwo\r\n\x0cthree\n",
}


def write_source(folder: Path, suffix: str) -> Path:
    path = folder / f"in{suffix}"
    if suffix == ".parquet":
        table = pyarrow.table({"text": ["a", "b", "c"], "n": pyarrow.array([1, None, 3], pyarrow.int16())})
        parquet.write_table(table, path, row_group_size=2)
    else:
        path.write_bytes(SOURCES[suffix])
    return path


@pytest.mark.parametrize("suffix", [*SOURCES, ".parquet"])
@pytest.mark.parametrize("chosen", [[0, 1, 2], [1], [0, 2]])
def test_rows_come_back_as_they_were(tmp_path: Path, suffix: str, chosen: list[int]) -> None:
    rows = open_rows(str(write_source(tmp_path, suffix)))
    out = tmp_path / f"out{suffix}"
    with open_writer(rows, out) as writer:
        for index in chosen:
            writer.write(index)
    back = open_rows(str(out))
    assert [back[i][0] for i in range(len(back))] == [rows[i][0] for i in chosen]
    if suffix == ".parquet":
        assert parquet.read_schema(out).equals(parquet.read_schema(tmp_path / "in.parquet"))
    else:
        for index in chosen:
            assert rows.raw(index).strip(b"\r\n") in out.read_bytes()  # type: ignore[attr-defined]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"in{suffix}", f"out{suffix}"]


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    rows = open_rows(str(write_source(tmp_path, ".jsonl")))
    with pytest.raises(RuntimeError), open_writer(rows, tmp_path / "out.jsonl") as writer:
        writer.write(0)
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]
    with pytest.raises(DataError, match="cannot be written"), whole_file(tmp_path / "none" / "out.jsonl"):
        pass


def test_targets_that_would_do_harm_are_refused(tmp_path: Path) -> None:
    source = str(write_source(tmp_path, ".csv"))
    with pytest.raises(DataError, match=r"ends in \.csv"):
        check_target(tmp_path / "out.jsonl", source, ".csv")
    with pytest.raises(DataError, match="is the file that is read"):
        check_target(Path(source), source, ".csv")
    with pytest.raises(DataError, match="mkdir"):
        check_target(tmp_path / "no" / "out.csv", source, ".csv")


LINES = st.lists(
    st.sampled_from(
        [
            '{"text": "a"}',
            '{"text": "é"}',
            '{"text": ""}',
            "{broken",
            '{"text": 3}',
            '["x"]',
            '{"text": "a\\u0000"}',
            "",
        ]
    ),
    min_size=1,
    max_size=15,
)


@given(lines=LINES)
@settings(max_examples=60)
def test_every_row_is_in_exactly_one_of_the_two_files(lines: list[str], tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("fix")
    path, out = folder / "in.jsonl", folder / "out.jsonl"
    path.write_text("\n".join(['{"text": "first"}', *lines]) + "\n")
    plan, rows, _ = make_plan(DataConfig(train=str(path)), str(path), "train", 0)
    source = Checked(plan, rows, survey(plan, rows))
    passed, rejected = write_passing(source, out, lambda _: None)
    good = out.read_text().splitlines()
    bad = [json.loads(line) for line in rejected_path(out).read_text().splitlines()]
    assert (len(good), len(bad)) == (passed, rejected)
    given_rows = [line for line in path.read_text().splitlines() if line]
    assert sorted([*good, *(row["row"] for row in bad)]) == sorted(given_rows)
    assert good == [line for line in given_rows if line in good]
    assert all(row["cause"] and row["fix"] and row["place"].startswith(f"{path}:") for row in bad)
    again = survey(*make_plan(DataConfig(train=str(out)), str(out), "train", 0)[:2])
    assert not len(again.faults) and again.num_rows == passed


def test_redaction_is_stable_over_the_file_and_reaches_every_depth(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": "I am a@b.org"}, {"role": "assistant", "content": "Hi a@b.org"}]},
        {
            "messages": [{"role": "user", "content": "c@d.org, A@B.org"}, {"role": "assistant", "content": "ok"}],
            "mrn": 77,
        },
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = write_redacted(open_rows(str(path)), tmp_path / "out.jsonl")
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    said = [[turn["content"] for turn in row["messages"]] for row in out]
    assert said == [["I am [EMAIL_1]", "Hi [EMAIL_1]"], ["[EMAIL_2], [EMAIL_1]", "ok"]]
    assert out[1]["mrn"] == "[RECORD_1]" and counts == {"email": 2, "record": 1}
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(DataError, match="--fix"):
        write_redacted(open_rows(str(path)), tmp_path / "out2.jsonl")
    assert not (tmp_path / "out2.jsonl").exists()
