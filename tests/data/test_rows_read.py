"""Files -> rows: contents and line numbers against Python's own readers, and every way a file can be broken."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data import files
from tunesmith.data.check import RowError
from tunesmith.data.read import open_rows
from tunesmith.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUE = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
ROWS = st.lists(st.dictionaries(TEXT, VALUE, max_size=4), min_size=1, max_size=6)
FAST = settings(max_examples=60, deadline=None)


def read_all(path: Path) -> list[tuple[dict[str, Any], int | None]]:
    rows = open_rows(str(path))
    return [(row, where.line) for row, where in (rows[i] for i in range(len(rows)))]


@pytest.fixture(autouse=True, scope="module")
def folder_of_files() -> Iterator[None]:
    """Hypothesis runs many examples in one test, so each file gets a folder of its own below one that is removed."""
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        yield
        tempfile.tempdir = None


def written(content: bytes | str, suffix: str) -> Path:
    path = Path(tempfile.mkdtemp()) / f"rows{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def broken(content: bytes | str, suffix: str) -> DataError:
    """The first error that opening the file or reading its rows gives."""
    with pytest.raises(DataError) as caught:
        read_all(written(content, suffix))
    return caught.value


# Round trips ---------------------------------------------------------------------------------------------------------


@FAST
@given(ROWS, st.lists(st.integers(0, 2), min_size=6, max_size=6), st.booleans(), st.booleans(), st.booleans())
def test_jsonl_gives_back_any_rows_with_their_lines(
    rows: list[dict[str, Any]], blanks: list[int], escape: bool, bom: bool, crlf: bool
) -> None:
    lines: list[str] = []
    expected = []
    for row, blank in zip(rows, blanks, strict=False):
        lines += ["  "] * blank
        lines.append(json.dumps(row, ensure_ascii=escape))
        expected.append((row, len(lines)))
    content = ("\r\n" if crlf else "\n").join(lines).encode()
    assert read_all(written(b"\xef\xbb\xbf" * bom + content, ".jsonl")) == expected


@FAST
@given(ROWS, st.sampled_from([None, 1, "\t"]), st.booleans(), st.booleans(), st.integers(4, 40))
def test_json_list_gives_back_any_rows_with_their_lines(
    rows: list[dict[str, Any]], indent: int | str | None, escape: bool, wrapped: bool, window_bytes: int
) -> None:
    value: Any = {"version": 1234567890, "rows": rows, "note": {"a": "]"}} if wrapped else rows
    text = "\n \n" + json.dumps(value, ensure_ascii=escape, indent=indent) + "\n"
    # The line of a row is that of its opening brace: found again by counting braces outside of strings.
    depth, lines, in_string, i, line = 0, [], False, 0, 1
    row_depth = 1 if wrapped else 0
    in_rows = not wrapped
    while i < len(text):
        char = text[i]
        line += char == "\n"
        if in_string:
            i += char == "\\"
            in_string = char != '"' or text[i] != '"'
        elif char == '"':
            in_string = True
        elif char == "[" and depth == row_depth:
            in_rows = True
        elif char == "]" and depth == row_depth:
            in_rows = False
        if not in_string and char == "{":
            if in_rows and depth == row_depth:
                lines.append(line)
            depth += 1
        elif not in_string and char == "}":
            depth -= 1
        i += 1
    before, files.WINDOW_BYTES = files.WINDOW_BYTES, window_bytes
    try:
        assert read_all(written(text, ".json")) == list(zip(rows, lines, strict=True))
    finally:
        files.WINDOW_BYTES = before


@FAST
@given(
    st.lists(TEXT.filter(str.strip), min_size=2, max_size=4, unique=True),
    st.lists(st.lists(TEXT, min_size=4, max_size=4), min_size=1, max_size=5),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_csv_gives_back_any_cells_with_their_lines(
    header: list[str], cells: list[list[str]], newline: str, bom: bool
) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator=newline, quoting=csv.QUOTE_ALL)
    writer.writerow(header)
    expected = []
    for row in cells:
        row = row[: len(header)]
        expected.append((dict(zip(header, row, strict=True)), stream.getvalue().count("\n") + 1))
        writer.writerow(row)
    content = stream.getvalue().encode()
    assert read_all(written(b"\xef\xbb\xbf" * bom + content, ".csv")) == expected


def test_the_line_check_can_fail() -> None:
    path = written('{"a": 1}\n\n{"a": 2}\n', ".jsonl")
    assert read_all(path) == [({"a": 1}, 1), ({"a": 2}, 3)]
    assert read_all(path) != [({"a": 1}, 1), ({"a": 2}, 2)]


def test_csv_counts_lines_inside_quotes_and_blank_lines() -> None:
    path = written('text,note\n"one\ntwo, ""three""",x\n\nfour,y\n"' + "z" * 200_000 + '",w', ".csv")
    rows = read_all(path)
    assert rows[:2] == [({"text": 'one\ntwo, "three"', "note": "x"}, 2), ({"text": "four", "note": "y"}, 5)]
    assert rows[2][1] == 6
    assert len(rows[2][0]["text"]) == 200_000


def test_text_breaks_at_form_feeds_and_two_blank_lines() -> None:
    content = "\ufeff\n\nfirst\n\nstill first\r\n\r\n \r\nsecond\r\nline\n\fthird\n\n\n\n"
    expected = [
        ({"text": "first\n\nstill first"}, 3),
        ({"text": "second\nline\n"}, 8),
        ({"text": "third"}, 10),
    ]
    assert read_all(written(content, ".txt")) == expected


@FAST
@given(TEXT.filter(str.strip))
def test_text_loses_nothing_but_the_breaks(text: str) -> None:
    path = written(text, ".txt")
    joined = "".join(row["text"] for row, _ in read_all(path))
    assert [c for c in joined if not c.isspace()] == [c for c in text if not c.isspace()]


def test_parquet_gives_back_nested_rows_over_row_groups(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"messages": [{"role": "user", "content": f"ü{i}"}], "score": float(i)} for i in range(7)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=3)
    opened = open_rows(str(tmp_path / "rows.parquet"))
    order = [6, 0, 3, 2, 5, 1, 4]
    assert [opened[i][0] for i in order] == [rows[i] for i in order]
    assert str(opened[4][1]) == f"{tmp_path / 'rows.parquet'}:5"
    assert len(open_rows(str(tmp_path / "rows.parquet"), limit=4)) == 4
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"bad\.parquet: is not parquet"):
        open_rows(str(tmp_path / "bad.parquet"))


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        ('{"a": 1}\n{"a": 2}\nbroken', ".jsonl"),
        ('[{"a": 1}, {"a": 2}, broken', ".json"),
        ('{"rows": [{"a": 1}, {"a": 2}, broken', ".json"),
        ('a\n1\n2\n"bro"ken"', ".csv"),
        ("1\n\n\n2\n\n\n\x003", ".txt"),
    ],
)
def test_limit_keeps_the_first_rows_and_reads_no_further(content: str, suffix: str) -> None:
    path = written(content, suffix)
    rows = open_rows(str(path), limit=2)
    assert [str(next(iter(rows[i][0].values()))) for i in range(len(rows))] == ["1", "2"]
    with pytest.raises(DataError):
        read_all(path)


def test_nan_is_a_number_and_long_cells_are_cells() -> None:
    ((row, _),) = read_all(written('{"score": NaN, "low": -Infinity}\n', ".jsonl"))
    assert math.isnan(row["score"])
    assert row["low"] == -math.inf


# Broken files --------------------------------------------------------------------------------------------------------

GOOD = '{"text": "fine"}\n'


@pytest.mark.parametrize(
    ("content", "suffix", "place", "cause"),
    [
        ("", ".jsonl", "", "the file is empty"),
        ("\n \n", ".jsonl", "", "holds no row"),
        ("text\n", ".csv", "", "holds no row"),
        ("[]", ".json", "", "holds no row"),
        (" \n\n", ".txt", "", "holds no row"),
        (GOOD * 2 + '{"text": }\n' + GOOD, ".jsonl", ":3", "not JSON (expecting value, column 10)"),
        (GOOD + "{'text': 1}\n", ".jsonl", ":2", "not JSON"),
        (GOOD + '"text"\n', ".jsonl", ":2", "not an object (it is a string)"),
        (GOOD + "[1]\n", ".jsonl", ":2", "not an object (it is a list)"),
        ("[\n" + GOOD + "]", ".jsonl", ":1", "one JSON list"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', ".jsonl", ":1", "same key twice ('c')"),
        ('{"a": ' + "9" * 5000 + "}", ".jsonl", ":1", "too many digits"),
        ('{"a": ' + "[" * 100_000 + "}", ".jsonl", ":1", "nested too deeply"),
        ('{"text": "a\\u0000b"}', ".jsonl", ":1:text", "NUL character"),
        ('{"text": "a\x00b"}', ".jsonl", ":1", "NUL character"),
        ('{"m": [{"t": "a\\ud800b"}]}', ".jsonl", ":1:m[0].t", "surrogate"),
        ('{"m": {"a\\udc00\\nb": 1}}', ".jsonl", ":1:m.a\\udc00\\nb", "surrogate"),
        ('{"a": 1}\n{"a": 2}', ".json", ":2", "several JSON values"),
        ('[{"a": 1},\n{"a" 2}]', ".json", ":2", "not JSON (expecting ':' delimiter, column 6)"),
        ('[{"a": 1},\n]', ".json", ":2", "not JSON"),
        ('[{"a": 1},\n{"a": 2', ".json", ":2", "the file ends where"),
        ('[{"a": 1}\n{"a": 2}]', ".json", ":2", "',' is expected"),
        ('{"rows": [{"a": 1}],}', ".json", ":1", "a key in double quotes"),
        ('{"rows": [{"a": 1}], "more": [1]}', ".json", "", "more than one list (rows, more)"),
        ('{"rows": 1}', ".json", "", "no list of rows"),
        ("rows", ".json", ":1", "does not begin with"),
        ('[{"a": 1},\n{"a": 1, "a": 2}]', ".json", ":2", "same key twice"),
        ("[1]", ".json", ":1", "not an object (it is a number)"),
        ('a,b\n1,2\n"3', ".csv", ":3", "not CSV"),
        ('a,b\n"x"y,2\n', ".csv", ":2", "not CSV"),
        ("a,b\n1,2\n3\n", ".csv", ":3", "another number of cells than the header (1 under 2 columns)"),
        ("a,a\n1,2\n", ".csv", ":1:a", "two columns"),
        ("a,\n1,2\n", ".csv", ":1", "column 2 has no proper name"),
        ("a,b\n1,x\x00y\n", ".csv", ":2:b", "NUL character"),
        ("fine\n\n\na\x00b", ".txt", ":4:text", "NUL character"),
    ],
)
def test_broken_content_names_file_line_field_and_fix(content: str, suffix: str, place: str, cause: str) -> None:
    error = broken(content, suffix)
    assert error.place.endswith(f"rows{suffix}{place}")
    assert cause in error.cause
    assert error.fix.endswith(".")
    # What is shown must be printable whatever the file held.
    str(error).encode()


@pytest.mark.parametrize(
    ("content", "suffix", "line", "offset"),
    [
        (b'{"text": "fine"}\n{"text": "caf\xe9"}\n', ".jsonl", 2, 30),
        (b'[{"text": "fine"},\n {"text":\n "caf\xe9"}]', ".json", 3, 34),
        (b'text\nfine\n"a\ncaf\xe9"\n', ".csv", 4, 16),
        (b"caf\xe9\nfine\n", ".csv", 1, 3),
        (b"fine\n\n\ncaf\xe9", ".txt", 4, 10),
    ],
)
def test_bytes_that_are_not_utf8_are_named_by_offset(content: bytes, suffix: str, line: int, offset: int) -> None:
    assert content[offset] == 0xE9
    error = broken(content, suffix)
    assert error.place.endswith(f"rows{suffix}:{line}")
    assert f"byte 0xe9 at offset {offset}" in error.cause
    assert "UTF-8" in error.fix


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_other_unicode_encodings_are_named(encoding: str) -> None:
    error = broken(GOOD.encode(encoding), ".jsonl")
    assert encoding.upper() in error.cause
    assert "iconv" in error.fix


def test_a_bad_row_leaves_the_others_readable() -> None:
    rows = open_rows(str(written(GOOD.encode() + b'{"text": "\xff"}\nbroken\n' + GOOD.encode(), ".jsonl")))
    assert len(rows) == 4
    for i in (1, 2):
        with pytest.raises(RowError):
            rows[i]
    assert rows[3][0] == {"text": "fine"}


# Sources -------------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_by_the_usual_names(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(GOOD)
    (tmp_path / "dev.csv").write_text("text\nchecked\n")
    assert open_rows(str(tmp_path))[0][0] == {"text": "fine"}
    assert open_rows(str(tmp_path), split="validation")[0][0] == {"text": "checked"}
    with pytest.raises(DataError, match=r"no test file; it holds dev\.csv, train\.jsonl"):
        open_rows(str(tmp_path), split="test")
    (tmp_path / "valid.jsonl").write_text(GOOD)
    with pytest.raises(DataError, match=r"several files claim the validation split: valid\.jsonl, dev\.csv"):
        open_rows(str(tmp_path), split="validation")


@pytest.mark.parametrize(
    ("name", "cause"), [("none.jsonl", "no such file"), ("rows.xlsx", "not a format"), ("./none", "no such file")]
)
def test_paths_that_cannot_be_read(tmp_path: Path, name: str, cause: str) -> None:
    (tmp_path / "rows.xlsx").write_text("x")
    source = name if name.startswith(".") else str(tmp_path / name)
    with pytest.raises(DataError, match=cause):
        open_rows(source)


def test_an_upper_case_ending_is_the_same_format(tmp_path: Path) -> None:
    (tmp_path / "ROWS.JSONL").write_text(GOOD)
    assert len(open_rows(str(tmp_path / "ROWS.JSONL"))) == 1


def refuse_network(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(-2, "Name or service not known")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every look-up of a name fails, as without a network, and is noted."""
    calls: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: (calls.append(a), refuse_network())[1])
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    return calls


def test_a_hub_name_without_network_is_a_clear_error(no_network: list[Any]) -> None:
    with pytest.raises(DataError) as caught:
        open_rows("nobody/no-such-rows")
    assert caught.value.place == "nobody/no-such-rows"
    assert "hub (huggingface.co) cannot be reached" in caught.value.cause
    assert "HF_HUB_OFFLINE=1" in caught.value.fix
    assert len(no_network) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: written(GOOD, ".jsonl"),
        lambda folder: written(f"[{GOOD}]", ".json"),
        lambda folder: written("text\nfine\n", ".csv"),
        lambda folder: written("fine", ".txt"),
        lambda folder: folder / "missing.jsonl",
    ],
)
def test_local_files_never_touch_the_network(
    make: Callable[[Path], Path], tmp_path: Path, no_network: list[Any]
) -> None:
    path = make(tmp_path)
    if path.exists():
        read_all(path)
    else:
        with pytest.raises(DataError, match="no such file"):
            open_rows(str(path))
    assert no_network == []


def test_offline_mode_asks_the_cache_only_and_local_files_load_no_hub_library(tmp_path: Path) -> None:
    code = (
        "import sys, socket\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.getaddrinfo = refuse\n"
        "from tunesmith.data.load import DataConfig, load_data\n"
        "from tunesmith.errors import DataError\n"
        "load_data(DataConfig(train=sys.argv[1], validation_share=0))\n"
        "heavy = {'datasets', 'pyarrow', 'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "try:\n"
        "    load_data(DataConfig(train='nobody/no-such-rows'))\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    (tmp_path / "rows.jsonl").write_text(GOOD)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "rows.jsonl")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("nobody/no-such-rows: is no local file or folder")
    assert "unset HF_HUB_OFFLINE" in done.stdout
