"""A chain of jobs: what makes one due, and that a record is written last."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import RunError
from tunesmith.recipes.stages import BEGUN_FILE, STAGE_FILE, Stage, path_digest, run_stage, why_due
from tunesmith.runs import file_digest


def stage(folder: Path, heard: list[bool], **settings: Any) -> Stage:
    def work(going_on: bool) -> Mapping[str, Any]:
        heard.append(going_on)
        if settings.get("fails") and len(heard) == 1:
            raise RuntimeError("power cut")
        (folder / "out.txt").write_text("x")
        return {"number": len(heard)}

    reads = {"rows": folder.with_name("rows.jsonl")}
    return Stage(name="one", folder=folder, settings=settings, reads=reads, leaves=(folder / "out.txt",), work=work)


def test_a_stage_is_due_until_it_is_done_and_when_something_changes(tmp_path: Path) -> None:
    rows, folder, heard = tmp_path / "rows.jsonl", tmp_path / "one", list[bool]()
    rows.write_text("a\n")
    one = stage(folder, heard, rate=1, group={"a": 1, "b": 2})
    assert why_due(one) == "it was not done yet"
    record = run_stage(one)
    assert record["facts"] == {"number": 1} and not record["resumed"] and why_due(one) is None
    assert why_due(stage(folder, heard, rate=2, group={"a": 1, "b": 3})) == "settings changed: group.b, rate"
    rows.write_text("b\n")
    assert why_due(one) == "what it reads changed: rows"
    rows.write_text("a\n")
    assert why_due(one) is None
    (folder / "out.txt").unlink()
    assert why_due(one) == "out.txt is gone"
    # Done again from the beginning: what was finished is not gone on with.
    run_stage(one)
    assert heard == [False, False]


def test_a_stage_that_died_goes_on_only_with_the_same_inputs(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("a\n")
    for change, afresh, expected in ((0, False, True), (1, False, False), (0, True, False)):
        folder, heard = tmp_path / f"stage{change}{afresh}", list[bool]()
        with pytest.raises(RuntimeError):
            run_stage(stage(folder, heard, fails=True, rate=0))
        assert not (folder / STAGE_FILE).exists()
        again = stage(folder, heard, fails=True, rate=change)
        assert why_due(again) == ("it was not done yet" if change else "it was stopped on its way")
        assert run_stage(again, afresh=afresh)["resumed"] == expected and heard == [False, expected]


def test_what_another_job_left_is_cleared_before_the_new_one_is_noted(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("a\n")
    folder, heard, cleared = tmp_path / "one", list[bool](), list[bool]()
    run_stage(stage(folder, heard, rate=1))

    def clear() -> None:
        cleared.append((folder / BEGUN_FILE).exists())
        if len(cleared) == 1:
            raise RunError(folder, "is somebody's.", "Move it.")

    changed = replace(stage(folder, heard, rate=2), clear=clear)
    # A refusal leaves what was done as it was, and the next try asks again.
    with pytest.raises(RunError):
        run_stage(changed)
    assert why_due(stage(folder, heard, rate=1)) is None and why_due(changed) == "settings changed: rate"
    run_stage(changed)
    assert cleared == [False, False] and heard == [False, False]


def test_a_record_does_not_outlive_what_it_speaks_of(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("a\n")
    folder, heard = tmp_path / "one", list[bool]()
    run_stage(stage(folder, heard, rate=1))
    broken = Stage(
        name="one", folder=folder, settings={"rate": 2}, work=lambda _: (_ for _ in ()).throw(RuntimeError("cut"))
    )  # fmt: skip
    with pytest.raises(RuntimeError):
        run_stage(broken)
    assert why_due(stage(folder, heard, rate=1)) == "it was not done yet"
    (folder / STAGE_FILE).write_text(json.dumps({"made_of": 3}))
    with pytest.raises(RunError, match="not the record of a stage"):
        why_due(broken)


def test_a_key_that_was_not_there_yet_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("a\n")
    folder = tmp_path / "one"
    run_stage(stage(folder, [], rate=1))
    # As after an update that brought a key which says nothing by itself.
    assert why_due(stage(folder, [], rate=1, limit=None)) == "settings changed: limit"


def test_what_a_database_has_only_in_its_journal_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    first = sqlite3.connect(path, isolation_level=None)
    first.execute("PRAGMA journal_mode = WAL")
    first.execute("CREATE TABLE told (word)")
    before, file = path_digest(path), path.read_bytes()
    first.execute("INSERT INTO told VALUES ('yes')")
    assert path.read_bytes() == file and path_digest(path) != before
    first.close()
    assert not path.with_name("a.db-wal").exists() and path_digest(path) == file_digest(path)


def test_an_adapters_digest_is_of_what_answers(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    assert path_digest(folder) is None
    folder.mkdir()
    assert path_digest(folder) is None
    (folder / "adapter_model.safetensors").write_bytes(b"1")
    first = path_digest(folder)
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "checkpoint-1").mkdir()
    assert path_digest(folder) == first
    (folder / "adapter_model.safetensors").write_bytes(b"2")
    assert path_digest(folder) != first
