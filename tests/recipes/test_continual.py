"""Continual learning and fast adaptation on a tiny model: who answers what, what is kept, what is computed again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.errors import ConfigError
from tunesmith.models.adapters import AdapterConfig, load_adapter
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.recipes import tuning_cells
from tunesmith.recipes.continual import forgetting, replayed
from tunesmith.recipes.fast import FastConfig, run_fast
from tunesmith.recipes.prepare import SFTConfig
from tunesmith.recipes.sft import train
from tunesmith.recipes.tuning_cells import Measured, TaskConfig, TaskRows, read_task
from tunesmith.records import Conversation, Message, Where
from tunesmith.tokens.render import RenderConfig, render
from tunesmith.training.distribute import from_environment
from tunesmith.training.step import mean_loss

TASKS = {"yes": "yes", "why": "why"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, model_folder: Callable[[str], Path]) -> dict[str, Any]:
    """Tasks with one short answer each, which a tiny model learns in a few steps."""
    folder = tmp_path_factory.mktemp("tasks")
    for task, answer in TASKS.items():
        for side, count in (("train", 12), ("valid", 4)):
            rows = [{"prompt": f"{task} {side} {i}?", "completion": answer} for i in range(count)]
            (folder / f"{task}-{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model_name_or_path": str(model_folder("llama")),
        # How much so small a model forgets hangs on rounding, and auto is bf16 on some processors.
        "dtype": "float32",
        "output_dir": str(folder / "run"),
        "tasks": [
            {"name": t, "train": str(folder / f"{t}-train.jsonl"), "validation": str(folder / f"{t}-valid.jsonl")}
            for t in TASKS
        ],
        "learning_rate": 3e-2,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 6,
        "max_new_tokens": 2,
        "adapter": {"r": 4},
    }


@pytest.fixture(scope="module")
def run(recipe: dict[str, Any]) -> Path:
    """The experiment, stopped in its second cell and called again, then once more with all of it there."""
    folder = Path(recipe["output_dir"])
    (folder.parent / "continual.yaml").write_text(yaml.safe_dump(recipe))
    called = ["experiment", "continual", str(folder.parent / "continual.yaml")]
    real, begun = tuning_cells._train, list[Path]()

    def stops_at_second(base: Any, place: Path, *rest: Any) -> None:
        begun.append(place)
        if len(begun) == 2:
            raise tuning_cells.Interrupted(place)
        real(base, place, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, stream, **how: stream.write(b"\x89PNG\r\n"))
        patch.setattr(tuning_cells, "_train", stops_at_second)
        stopped = CliRunner().invoke(app, called)
        assert stopped.exit_code == 130 and "goes on there" in stopped.output, stopped.output
        done = CliRunner().invoke(app, [*called, "--json"])
        assert done.exit_code == 0, done.output
        # The second cell was begun twice; the first task's is one and the same in every arm: 4 cells, not 6.
        assert len(begun) == 5 and begun[1] == begun[2] and len(set(begun)) == 4
        # All that is on the disk is used again: neither training nor measuring happens.
        patch.setattr(tuning_cells, "_train", lambda *_: pytest.fail("trained again"))
        patch.setattr(tuning_cells, "_row_losses", lambda *_: pytest.fail("measured again"))
        again = CliRunner().invoke(app, called)
    assert again.exit_code == 0, again.output
    assert "shared, after the last task:" in again.output and "forgotten: loss" in again.output
    summary = json.loads(done.output.splitlines()[-1])
    assert json.loads((folder / "continual.json").read_text())["matrices"] == summary["matrices"]
    return folder


def test_the_matrix_says_who_answers_after_each_task(run: Path) -> None:
    summary = json.loads((run / "continual.json").read_text())
    matrices = summary["matrices"]
    assert summary["facts"]["adapters trained"] == 4 and set(matrices) == {"shared", "separate", "replay"}
    separate, shared, replay = matrices["separate"], matrices["shared"], matrices["replay"]
    assert separate[0] == shared[0] == replay[0] and separate[1][0] == shared[1][0] == replay[1][0]
    # One each: a task is the base's until it is learnt, and stays what it was afterwards.
    assert separate[1][1] == separate[0][1] != shared[1][1] and separate[2][0] == separate[1][0]
    (kept,), (lost,), (less,) = (summary["forgetting"][arm] for arm in ("separate", "shared", "replay"))
    assert kept["loss"]["value"] == 0 and kept["exact"]["value"] == 0
    # Learning helps on the task itself; one adapter overwrites what came before, less so with old rows among the new.
    assert all(separate[k + 1][k]["loss"][0] < 0.9 * separate[0][k]["loss"][0] for k in range(2))
    assert lost["loss"]["value"] > 0.1 and lost["loss"]["value"] > less["loss"]["value"]
    for cell in (cell for stages in matrices.values() for row in stages for cell in row):
        assert cell["rows"] == 4 and cell["loss"][1] <= cell["loss"][0] <= cell["loss"][2]
    page = (run / "report.html").read_text()
    assert "after why" in page and "What is left of earlier tasks" in page


def test_going_on_with_an_adapter_is_not_beginning_anew(recipe: dict[str, Any], run: Path, tmp_path: Path) -> None:
    written = {p.parent: json.loads(p.read_text()) for p in run.glob("cells/*/tunesmith_provenance.json")}
    going_on = [folder for folder, provenance in written.items() if "started_from" in provenance]
    (started_from,) = {written[folder]["started_from"] for folder in going_on}
    (first,) = (folder for folder, provenance in written.items() if provenance["adapter_digest"] == started_from)
    assert len(going_on) == 2 and first not in going_on
    # Its first step starts at the loss the first one left on those rows.
    base = load_base(ModelConfig(model_name_or_path=recipe["model_name_or_path"]))
    role = load_adapter(base, first, "first")
    task = read_task(TaskConfig(**recipe["tasks"][1]), limit=None, validation_limit=None, most_words=8, seed=0)
    rendering = RenderConfig()
    examples = [e for record in task.train for e in render(record, base.tokenizer, rendering, max_tokens=256)]
    before = mean_loss(base, role, examples, from_environment("cpu"), 1024)
    (shared,) = (folder for folder in going_on if len((folder / "train.jsonl").read_text().splitlines()) == 12)
    begun = json.loads((shared / "metrics.jsonl").read_text().splitlines()[0])
    assert begun["step"] == 1 and begun["loss"] == pytest.approx(before, rel=0.05)
    settings = {"data": {"train": recipe["tasks"][0]["train"]}, "adapter": {"r": 2}, "output_dir": str(tmp_path / "x")}
    with pytest.raises(ConfigError, match="come with adapter_name_or_path"):
        train(SFTConfig(**settings, adapter_name_or_path=str(first)), base=base)


def rows_of(name: str, count: int) -> TaskRows:
    def record(i: int) -> Conversation:
        turns = (Message(role="user", content=f"{name} {i}"), Message(role="assistant", content="-"))
        return Conversation(messages=turns, row_id=i, where=Where(name, i))

    return TaskRows(name=name, train=tuple(record(i) for i in range(count)), validation=(record(0),), gold=(None,))


def test_replay_draws_the_stated_share_from_all_earlier_tasks() -> None:
    earlier = [rows_of("a", 50), rows_of("b", 50), rows_of("c", 4)]
    old = replayed(earlier, 60, 0.25, seed=0)
    assert len(old) / (60 + len(old)) == pytest.approx(0.25)
    counts = {name: sum(r.where.file == name for r in old) for name in "abc"}
    assert counts == {"a": 8, "b": 8, "c": 4}
    assert len({(r.where.file, r.row_id) for r in old}) == len(old)
    assert replayed([], 60, 0.25, seed=0) == []
    assert [r.row_id for r in replayed(earlier, 60, 0.25, seed=1)] != [r.row_id for r in old]


def test_forgetting_is_the_best_less_the_last() -> None:
    def cell(losses: list[float], exact: list[bool]) -> Measured:
        return Measured(loss_sum=tuple(losses), weight=(2.0,) * len(losses), exact=tuple(exact))

    stages = [
        [cell([8, 8], [False, False])] * 2,
        [cell([2, 2], [True, True]), cell([8, 8], [False, False])],
        [cell([6, 4], [True, False]), cell([1, 1], [True, True])],
    ]
    (lost,) = forgetting(stages, [rows_of("a", 2), rows_of("b", 2)])
    assert lost.task == "a" and lost.loss.value == pytest.approx(5 / 2 - 1) and lost.exact is not None
    assert lost.exact.value == pytest.approx(0.5)
    assert lost.loss.low <= lost.loss.value <= lost.loss.high
    # What the last task helped is a gain, and no certain zero.
    stages[2][0] = cell([1, 1.5], [True, True])
    (gained,) = forgetting(stages, [rows_of("a", 2), rows_of("b", 2)])
    assert gained.loss.value == pytest.approx(1.25 / 2 - 1) and gained.loss.low < gained.loss.high < 0


@pytest.mark.usefixtures("undrawn")
def test_quality_against_rows_and_seconds(recipe: dict[str, Any], tmp_path: Path) -> None:
    own = {key: value for key, value in recipe.items() if key not in ("tasks", "num_train_epochs", "adapter")}
    methods = {"lora": AdapterConfig(r=4), "vectors": AdapterConfig(method="ia3")}
    own["output_dir"] = str(tmp_path / "run")
    config = FastConfig(**own, task=TaskConfig(**recipe["tasks"][0]), rows=[3, 12, 90], methods=methods, passes=3)
    said: list[str] = []
    points = run_fast(config, said.append)["points"]
    assert [(p["method"], p["num_rows"]) for p in points] == [
        ("base", 0), ("lora", 3), ("lora", 12), ("vectors", 3), ("vectors", 12),
    ]  # fmt: skip
    assert any("90 rows are left out" in line for line in said)
    assert points[2]["loss"][0] < points[1]["loss"][0] < points[0]["loss"][0]
    assert all(p["seconds"] > 0 and p["num_bytes"] > 0 for p in points[1:])
    assert "Quality against rows and seconds" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(ValueError, match="passes"):
        FastConfig(**own, task=TaskConfig(**recipe["tasks"][0]), max_steps=3)


def test_a_task_of_long_answers_is_not_asked_for_exact_match(recipe: dict[str, Any]) -> None:
    task = TaskConfig(**recipe["tasks"][0])
    short = read_task(task, limit=None, validation_limit=2, most_words=1, seed=0)
    assert short.gold == ("yes", "yes") and len(short.train) == 12
    assert read_task(task, limit=3, validation_limit=2, most_words=0, seed=0).gold == (None, None)
    assert np.isfinite(len(short.digest))
