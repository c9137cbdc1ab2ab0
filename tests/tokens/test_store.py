"""The store on disk: what goes in comes out, counted, also where a run goes on with files opened anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from conftest import build_tokenizer

from tunesmith.data.load import DataConfig, load_data
from tunesmith.records import Example
from tunesmith.tokens.render import RenderConfig, render
from tunesmith.tokens.store import TokenStore, build_store
from tunesmith.training.distribute import World
from tunesmith.training.schedule import TrainConfig, examples_of_step, num_steps_of


def write_rows(path: Path, count: int) -> str:
    rows = [{"prompt": f"number {i}", "completion": f"it is {i * i} " * (1 + i % 4)} for i in range(count)]
    path.write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def open_store(path: str, folder: Path) -> TokenStore:
    data = load_data(DataConfig(train=path, validation_share=0))
    return build_store(data.train, build_tokenizer(), RenderConfig(), folder, max_tokens=200)[0]


def same(a: Example, b: Example) -> bool:
    ids = np.array_equal(a.ids, b.ids) and np.array_equal(a.loss_weight, b.loss_weight)
    return ids and (a.row_id, a.where) == (b.row_id, b.where)


def test_examples_come_back_as_they_were_rendered(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", 20)
    data, tokenizer = load_data(DataConfig(train=path, validation_share=0)), build_tokenizer()
    store, report = build_store(data.train, tokenizer, RenderConfig(), tmp_path / "s", max_tokens=200)
    rendered = [e for record in data.train for e in render(record, tokenizer, RenderConfig(), max_tokens=200)]
    assert len(store) == len(rendered) == report.num_examples == 20
    assert all(same(a, b) for a, b in zip(store, rendered, strict=True))
    assert store[7].where.line == 9 and store[7].row_id == 7
    assert report.num_tokens == store.num_tokens == sum(e.num_tokens for e in rendered)
    assert report.num_loss_tokens == sum(e.num_loss_tokens for e in rendered)
    assert report.end_share == 1.0 and 0 < report.loss_share < 1


def test_a_run_that_goes_on_sees_the_rows_it_would_have_seen(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", 23)
    config = TrainConfig(num_train_epochs=3, per_device_train_batch_size=4, seed=5)
    world = World(rank=0, size=1, device="cpu")
    first = open_store(path, tmp_path / "first")
    num_steps = num_steps_of(config, len(first), world)

    def seen(store: TokenStore, steps: range) -> list[Any]:
        return [store[i] for step in steps for i in examples_of_step(config, len(store), world, step)]

    whole = seen(first, range(num_steps))
    assert len(whole) == 69 and sorted(e.row_id for e in whole) == sorted([*range(23)] * 3)
    for stop in (1, 7, num_steps - 1):
        # A new process: the file, its index, the split and the tokens are made anew.
        again = open_store(path, tmp_path / f"again{stop}")
        rest = seen(again, range(stop, num_steps))
        assert len(rest) == 69 - 4 * stop
        assert all(same(a, b) for a, b in zip(whole[4 * stop :], rest, strict=True))
    other = config.model_copy(update={"seed": 6})
    assert examples_of_step(other, 23, world, 1) != examples_of_step(config, 23, world, 1)
