"""The real 135M model writes rows from three seeds: what it says may change, that nothing is lost may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.recipes.bootstrap import make_rows
from tunesmith.recipes.bootstrap_config import BootstrapConfig
from tunesmith.recipes.bootstrap_open import open_local

SEEDS = [
    {"instruction": "Name a river in the given country.", "input": "Germany", "output": "The Elbe."},
    {"instruction": "Write a greeting for a neighbour.", "input": "", "output": "Good morning, Ada!"},
    {"instruction": "Give the opposite of the word.", "input": "early", "output": "late"},
]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_the_real_model_writes_rows_and_is_not_asked_twice(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text("".join(json.dumps(row) + "\n" for row in SEEDS))
    opened = open_local("smollm2-135m-instruct", None)
    assert opened.scheme == "small" and "135M" in opened.notes[-1]
    config = BootstrapConfig(
        seeds=str(seeds),
        output_dir=str(tmp_path / "out"),
        writer=dict(opened.writer.identity),
        scheme=opened.scheme,
        num=20,
        requests_at_once=4,
        max_idle_requests=4,
        max_instruction_tokens=40,
        max_instance_tokens=40,
    )
    with pytest.MonkeyPatch.context() as patch:
        # One round is enough here, whatever it yields.
        patch.setattr("tunesmith.recipes.bootstrap._end_of", lambda config, made: "idle")
        with make_rows(config, opened.writer) as (made, asker, _):
            assert asker.num_asked["instruction"] == 4 and asker.num_asked["answer"] <= asker.num_asked["instance"]
            told = {row["lineage"]["step"] for row in made.rows} | {row["step"] for row in made.rejected}
            assert told == {0, 1, 2, 3}
        first = [(tmp_path / "out" / name).read_bytes() for name in ("data.jsonl", "rejected.jsonl")]
        with make_rows(config, opened.writer) as (_, asker, _):
            assert asker.num_asked.total() == 0 and asker.num_found.total() >= 4
    assert [(tmp_path / "out" / name).read_bytes() for name in ("data.jsonl", "rejected.jsonl")] == first
    for row in lines(tmp_path / "out" / "data.jsonl"):
        assert row["instruction"] and row["output"]
        assert row["lineage"]["writer"]["model_digest"] == opened.writer.identity["model_digest"]
