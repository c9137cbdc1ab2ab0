"""One pass over the rows: faults collected, whatever the processes, on every format and on shapes nobody knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data import survey as module
from tunesmith.data.duplicates import Checked, find_copies, find_near_copies, jaccard, shingles_of
from tunesmith.data.load import DataConfig
from tunesmith.data.survey import LAST_ANSWER, Survey, make_plan, survey


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def checked(path: str, split: Any = "train") -> Checked:
    plan, rows, _ = make_plan(DataConfig(train=path), path, split, 0)
    return Checked(plan, rows, survey(plan, rows))


def plain(found: Survey) -> dict[str, Any]:
    out = {name: getattr(found, name) for name in found.__slots__ if name != "faults"}
    return {**out, "faults": found.faults.as_list()}


def mixed_rows(count: int) -> list[Any]:
    rows: list[Any] = []
    for i in range(count):
        if i % 11 == 3:
            rows.append('{"prompt": "cut off')
        elif i % 13 == 4:
            rows.append({"prompt": f"question {i}", "completion": " "})
        else:
            rows.append({"prompt": f"question {i % 40} to u{i}@b.org", "completion": "yes" if i % 3 else "no"})
    return rows


def test_processes_and_chunks_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", mixed_rows(300))
    whole = plain(checked(path).survey)
    assert len(whole["bad_row_ids"]) == 48 and whole["num_rows"] == 300
    assert len(whole["row_ids"]) + len(whole["bad_row_ids"]) == 300
    monkeypatch.setattr(module, "CHUNK_ROWS", 7)
    assert plain(checked(path).survey) == whole
    monkeypatch.setattr(module, "CHUNK_ROWS", 90)
    monkeypatch.setattr(module, "PARALLEL_FROM_ROWS", 1)
    plan, rows, _ = make_plan(DataConfig(train=path), path, "train", 0)
    assert plain(survey(plan, rows, num_workers=2)) == whole


def test_faults_are_collected_by_cause_with_their_places(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", mixed_rows(30))
    faults = {fault["cause"]: fault for fault in checked(path).survey.faults.as_list()}
    assert faults["the row is not JSON."]["rows"] == 3
    assert faults["the row is not JSON."]["places"][0].startswith(f"{path}:4 (")
    assert faults["the text is empty."]["places"] == [f"{path}:{line}:completion" for line in (5, 18)]


def test_a_shape_nobody_knows_still_has_its_texts_looked_at(tmp_path: Path) -> None:
    rows = [
        {"left": {"deep": [f"a{i}@b.org", "x\u200by"]}, "right": "один два", "n": 3, "phone": 5550132} for i in range(4)
    ]
    path = write(tmp_path / "a.jsonl", rows)
    plan, opened, reason = make_plan(DataConfig(train=path), path, "train", 0)
    found = survey(plan, opened)
    assert plan.shape is None and reason is not None and "fit no known shape" in reason
    assert (found.pii["email"].count, found.pii["email"].places[0]) == (4, f"{path}:1:left.deep[0]")
    assert found.pii["phone"].count == 4
    assert list(found.odd) == [module.odd_characters("x\u200by")[0]]
    assert found.scripts == {"Latin": 4, "Cyrillic": 4}
    assert len(found.row_ids) == 4 and list(found.words) == [5] * 4
    assert checked(path).survey.bad_row_ids.tolist() == []


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".txt"])
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [{"text": f"mail {i}@b.org"} for i in range(5)]
    path = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        texts = {
            ".jsonl": "\n".join(map(json.dumps, rows)),
            ".json": json.dumps(rows),
            ".csv": "\n".join(["text", *(row["text"] for row in rows)]),
            ".txt": "\n\n\n".join(row["text"] for row in rows),
        }
        path.write_text(texts[suffix])
    found = checked(str(path)).survey
    assert (len(found.row_ids), found.pii["email"].count, list(found.words)) == (5, 5, [2] * 5)


def test_columns_with_few_short_values_are_counted_and_others_are_not(tmp_path: Path) -> None:
    rows = [
        {
            "messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "ab"[i % 2]}],
            "id": f"x{i}",
        }
        for i in range(300)
    ]
    labels = checked(write(tmp_path / "a.jsonl", rows)).survey.labels
    assert labels[LAST_ANSWER] == {"a": 150, "b": 150}
    assert labels["id"] is None and labels["messages"] is None


BASE = "the patient came in with a cough that had lasted three weeks and was sent home with advice and a leaflet"


def test_exact_and_near_copies_and_leaks(tmp_path: Path) -> None:
    near = BASE.replace("three", "four")
    train = [BASE, "something else altogether stands here", near, BASE, f"{BASE} {BASE[::-1]}"]
    valid = ["something else altogether stands here", BASE.replace("leaflet", "letter"), "not seen before at all"]
    a = checked(write(tmp_path / "a.jsonl", [{"text": text} for text in train]))
    b = checked(write(tmp_path / "b.jsonl", [{"text": text} for text in valid]), "validation")
    found = find_copies(a, b)
    assert found.num_copies == 1 and found.copy_of() == {3: 0}
    assert found.copies == [(f"{a.rows.path}:4", f"{a.rows.path}:1")]
    assert found.num_leaks == 1 and found.leaks == [(f"{b.rows.path}:1", f"{a.rows.path}:2")]
    assert found.num_near is None
    find_near_copies(found, a, b, threshold=0.7)
    assert found.near == [(f"{a.rows.path}:3", f"{a.rows.path}:1")]
    assert found.near_leaks == [(f"{b.rows.path}:2", f"{a.rows.path}:1")]
    strict = find_copies(a, b)
    find_near_copies(strict, a, b, threshold=0.95)
    assert (strict.num_near, strict.num_near_leaks) == (0, 0)


def test_near_copies_are_found_among_many_and_none_is_invented(tmp_path: Path) -> None:
    import random

    draw = random.Random(1)
    vocabulary = [f"w{i}" for i in range(500)]
    texts = [" ".join(draw.choices(vocabulary, k=40)) for _ in range(120)]
    for i in range(0, 60, 2):
        texts.append(f"{texts[i]} end")
    source = checked(write(tmp_path / "a.jsonl", [{"text": text} for text in texts]))
    found = find_copies(source, None)
    find_near_copies(found, source, None, threshold=0.8)
    # Recall of the signatures at a similarity of 0.97 is far above 99 %.
    assert found.num_near == 30
    sets = [shingles_of([text]) for text in texts]
    assert sum(jaccard(sets[i], sets[j]) >= 0.8 for i in range(150) for j in range(i)) == 30


def test_words_of_scripts_without_spaces_are_characters() -> None:
    assert len(shingles_of(["日本語のテスト"])) == 5
    assert shingles_of(["!?"]) == frozenset()
    assert shingles_of(["One, two THREE four"]) == shingles_of(["one two three; four"])
