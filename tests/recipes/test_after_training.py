"""What tuning broke, as a run leaves it: an over-trained model is caught, one that was not changed is not accused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.config import build_config
from tunesmith.data import canaries as planted
from tunesmith.errors import DataError, RunError
from tunesmith.evals.after import retained
from tunesmith.randomness import permutation
from tunesmith.recipes import after_training
from tunesmith.recipes.after_ask import AfterConfig, _seen_places
from tunesmith.recipes.after_training import ANSWERS_FILE, REPORT_FILE, RESULT_FILE, look_at_run
from tunesmith.recipes.prepare import SFTConfig
from tunesmith.recipes.sft import describe_result, train

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal", "Ida", "Jo", "Kim", "Lou")


@pytest.fixture
def recipe(tmp_path: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    # Fewer secrets, and no public sets: what is measured is the same, in a second.
    for name in ("COLOURS", "ANIMALS", "PLACES"):
        monkeypatch.setattr(planted, name, getattr(planted, name)[:4])
    monkeypatch.setattr(after_training, "SUITES", {})
    questions = retained.all_questions()[::4]
    monkeypatch.setattr(retained, "all_questions", lambda: questions)
    rows = [
        {"prompt": f"Who is {name}?", "completion": f"{name} lives at number {i * 37 % 100}."}
        for i, name in enumerate(NAMES)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return {
        "model_name_or_path": str(model_folder("llama")),
        "data": {"train": str(path), "validation_share": 0.3, "cache": False},
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": 8,
        "dtype": "float32",
        "early_stopping_patience": 0,
    }


def test_learning_by_heart_is_caught_and_measured_once(recipe: dict[str, Any], tmp_path: Path) -> None:
    over_trained = {
        "canaries": 4, "adapter": {"method": "full"}, "learning_rate": 1e-2, "num_train_epochs": 40, "eval_steps": 1000,
    }  # fmt: skip
    config, folder = build_config(SFTConfig, {**recipe, **over_trained}, place="test"), tmp_path / "run"
    trained = train(config)
    facts = trained.after
    assert facts is not None and facts == json.loads((folder / RESULT_FILE).read_text())
    assert facts["gap"]["widened"]["low"] > 0
    assert facts["canaries"]["p"] < 0.01 and facts["canaries"]["tuned"]["low"] > facts["canaries"]["base"]["high"]
    # The base saw none of it.
    assert facts["verbatim"]["seen"]["base"]["value"] == 0 and facts["canaries"]["base"]["value"] < 3
    assert facts["verbatim"]["seen"]["tuned"]["value"] > 0.5 > facts["verbatim"]["unseen"]["tuned"]["value"]
    said = "\n".join(describe_result(trained, config, "r.yaml"))
    assert "LEARNT BY HEART" in said and "KEPT: exposure" in said and REPORT_FILE in said
    # The rows' file is as it was, and the run says what was planted.
    assert "locker" not in Path(recipe["data"]["train"]).read_text()
    secrets = json.loads((folder / "run.json").read_text())["data"]["canaries"]
    assert len(secrets) == 4 and facts["digests"]["tuned"] != facts["digests"]["base"]
    # Asked again, also by a resumed run, nothing is measured anew.
    before = (folder / ANSWERS_FILE).read_bytes()
    assert look_at_run(folder, AfterConfig(), lambda line: pytest.fail(line)) == facts
    resumed = train(config.model_copy(update={"resume_from_checkpoint": "auto"}))
    assert resumed.after == facts and (folder / ANSWERS_FILE).read_bytes() == before


def test_an_adapter_that_learnt_nothing_is_not_accused(recipe: dict[str, Any], tmp_path: Path) -> None:
    config = build_config(SFTConfig, {**recipe, "learning_rate": 1e-12, "canaries": 2}, place="test")
    facts = train(config).after
    assert facts is not None
    assert {ability["verdict"] for ability in facts["retained"]} == {"no change seen"}
    assert all(ability["only_base"] == ability["only_tuned"] == 0 for ability in facts["retained"][:-1])
    assert abs(facts["gap"]["widened"]["value"]) < 1e-4 and facts["verbatim"]["rows"] == []
    assert facts["canaries"]["p"] > 0.05 and facts["canaries"]["difference"]["value"] == pytest.approx(0, abs=1e-6)
    assert facts["bias"]["moved"]["value"] == pytest.approx(0, abs=1e-5)
    run = tmp_path / "run"
    with Path(recipe["data"]["train"]).open("a") as rows:
        rows.write('{"prompt": "Who is Zoe?", "completion": "Zoe."}\n')
    with pytest.raises(DataError, match="changed since"):
        look_at_run(run, AfterConfig(), lambda _: None)
    with pytest.raises(RunError, match="not the folder of a run"):
        look_at_run(tmp_path, AfterConfig(), lambda _: None)


@pytest.mark.parametrize(("epoch", "num_examples", "seen"), [(0.5, 8, 4), (0.5, 9, 0), (1.0, 9, 8)])
def test_rows_are_called_seen_only_where_that_can_be_told(
    tmp_path: Path, epoch: float, num_examples: int, seen: int
) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "epoch": epoch, "loss": 1.0}) + "\n")
    (tmp_path / "run.json").write_text(json.dumps({"result": {"best_step": 1}, "num_examples": num_examples}))
    config = SimpleNamespace(canaries=0, seed=0, shuffle=True)
    run: Any = SimpleNamespace(folder=tmp_path, data=SimpleNamespace(train=range(8)), config=config)
    # One row made two examples: half of the epoch's order says nothing about rows.
    places = _seen_places(run)
    assert len(places) == seen and set(places) <= set(range(8))
    if seen == 4:
        assert places == sorted(permutation(8, 0, "row_order", 0)[:4])


def test_off_measures_nothing_and_the_verb_does_it_later(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = " ".join(f"word{i}" for i in range(20))
    extra = tmp_path / "exam.jsonl"
    extra.write_text(json.dumps({"question": held_out, "answer": "x"}) + "\n")
    with Path(recipe["data"]["train"]).open("a") as rows:
        rows.write(json.dumps({"prompt": "Recite.", "completion": held_out}) + "\n")
    recipe["data"]["validation_share"] = 0
    config = build_config(SFTConfig, {**recipe, "after_training": "off", "max_steps": 1}, place="test")
    trained = train(config)
    assert trained.after is None and not (tmp_path / "run" / RESULT_FILE).exists()
    done = CliRunner().invoke(app, ["after", str(tmp_path / "run"), "--evaluation-set", str(extra)])
    assert done.exit_code == 0, done.output
    assert "CONTAMINATED" in done.stdout and "exam.jsonl 1 of 1 items" in done.stdout
    assert "no held-out rows" in done.stdout
    page = (tmp_path / "run" / REPORT_FILE).read_text()
    assert "word0 word1" in page and "<script" not in page.replace("script-src", "")
    # A failure in the measurement leaves a run that is finished.
    monkeypatch.setattr(after_training, "read_rows", lambda *_, **__: (_ for _ in ()).throw(DataError("f", "c.", "x.")))
    again = train(config.model_copy(update={"after_training": "panel", "output_dir": str(tmp_path / "other")}))
    assert again.after is not None and "tunesmith after" in again.after["skipped"]
    assert REPORT_FILE not in "\n".join(describe_result(again, config, "r.yaml"))
    assert "finished" in json.loads((tmp_path / "other" / "run.json").read_text())
