"""The results file: lines survive what a model says, a torn end is reported, other damage is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import DiskFullError, RunError
from tunesmith.rollout.results import ResultsFile

STRANGE = "\U0001f69a \u2028 \x85 \r\n \x00 \ud800"


def row(key: str, answer: str = STRANGE) -> dict[str, str]:
    return {"key": key, "answer": answer, "stop_reason": "length"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "r.jsonl"
    results = ResultsFile(path)
    results.append([row("a"), row("b")])
    results.append([row("c"), row("d")])
    return path


def test_what_was_appended_is_read_again(path: Path) -> None:
    results = ResultsFile(path)
    assert len(results) == 4
    assert [results[key] for key in "abcd"] == [row(key) for key in "abcd"]
    assert "e" not in results
    assert path.read_bytes().count(b"\n") == 4, "an answer with line breaks is one line"
    results.append([row("a", "later")])
    assert ResultsFile(path)["a"]["answer"] == "later"


TORN = [b'{"key": "k', b'{"key": "k"}', b"\x00\x00\x00", '{"key": "k", "answer": "🚚'.encode()[:-2], b"[]", b"[" * 9999]


@pytest.mark.parametrize("tail", [*TORN, *(text + b"\n" for text in TORN)])
def test_a_torn_last_line_is_reported_and_cut_away_by_the_next_append(path: Path, tail: bytes) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    with pytest.warns(UserWarning, match=r"r\.jsonl:5: the last line was cut off"):
        results = ResultsFile(path)
    assert len(results) == 4
    assert path.read_bytes() == whole + tail, "reading changes nothing"
    results.append([row("e")])
    results.append([row("f")])
    assert path.read_bytes().startswith(whole)
    assert len(ResultsFile(path)) == 6


def test_a_last_line_cut_anywhere_never_breaks_the_file(path: Path) -> None:
    whole = path.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for size in range(start + 1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.warns(UserWarning, match="cut off"):
            kept = ResultsFile(path)
        assert len(kept) == 3
    path.write_bytes(whole[:start])
    assert len(ResultsFile(path)) == 3, "nothing is reported where nothing is torn"


@pytest.mark.parametrize(
    "line", ["not json", "[]", '{"answer": "a"}', '{"key": 1, "answer": "a", "stop_reason": "b"}', ""]
)
def test_damage_elsewhere_is_an_error_with_its_line(path: Path, line: str) -> None:
    lines = path.read_text().splitlines()
    damaged = "\n".join([lines[0], line, *lines[2:]]) + "\n"
    path.write_text(damaged)
    with pytest.raises(RunError, match=r"r\.jsonl:2: is not a result"):
        ResultsFile(path)
    assert path.read_text() == damaged, "nothing was repaired behind the user's back"


def test_a_file_that_another_process_writes_is_not_cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.warns(UserWarning, match="cut off"):
        results = ResultsFile(path)
    path.write_bytes(whole)
    with pytest.raises(RunError, match="is written by another process"):
        results.append([row("e")])
    assert path.read_bytes() == whole


def test_two_writers_lose_nothing(path: Path) -> None:
    one, two = ResultsFile(path), ResultsFile(path)
    one.append([row("e")])
    two.append([row("f")])
    one.append([row("g")])
    assert len(ResultsFile(path)) == 7


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is absent")
    path = tmp_path / "r.jsonl"
    results = ResultsFile(path)
    path.symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match="no space left"):
        results.append([row("k")])
    assert "k" not in results


def test_a_folder_is_no_results_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read"):
        ResultsFile(tmp_path)
