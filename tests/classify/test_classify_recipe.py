"""``tunesmith classify`` and ``predict`` from rows to a measured folder, and back from a crash bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.classify.class_rows import parcel_rows, write_rows
from tunesmith.cli.main import app
from tunesmith.config import build_config
from tunesmith.errors import ConfigError, DataError, ModelError
from tunesmith.models.adapters import PROVENANCE_FILE, WEIGHTS_FILE, AdapterConfig, add_adapter, save_role
from tunesmith.models.heads import add_head
from tunesmith.models.load import load_base
from tunesmith.models.roles import Role
from tunesmith.recipes.classify import TrainedClassifier, train_classifier
from tunesmith.recipes.classify_predict import PredictConfig, Predicted, predict_rows
from tunesmith.recipes.classify_prepare import ClassifyConfig, prepare_classifier


@pytest.fixture
def settings(tmp_path: Path, model_folder: Callable[[str], Path]) -> dict[str, Any]:
    return {
        "model_name_or_path": str(model_folder("llama")),
        "device": "cpu",
        "dtype": "float32",
        "data": {"train": str(write_rows(tmp_path / "rows.jsonl", parcel_rows(0, 12))), "validation_share": 0.25},
        "adapter": {"r": 4, "lora_dropout": 0.1},
        "output_dir": str(tmp_path / "run"),
        "learning_rate": 0.01,
        "max_steps": 20,
        "eval_steps": 5,
        "micro_batch_tokens": 128,
    }


def config(settings: dict[str, Any], **more: Any) -> ClassifyConfig:
    return build_config(ClassifyConfig, {**settings, **more}, place="recipe")


def trained(settings: dict[str, Any], **more: Any) -> TrainedClassifier:
    return train_classifier(config(settings, **more))


def predicted(settings: dict[str, Any], rows: Path, **more: Any) -> Predicted:
    asked = {"model_name_or_path": settings["model_name_or_path"], "dtype": "float32", "rows": str(rows)}
    asked |= {"adapter": settings["output_dir"], "output": str(rows.with_name("out.jsonl")), **more}
    return predict_rows(build_config(PredictConfig, asked, place="command line"))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def same(one: Path, two: Path) -> bool:
    a, b = load_file(one / WEIGHTS_FILE), load_file(two / WEIGHTS_FILE)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_it_learns_measures_saves_and_predicts_the_same(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["data"]["test"] = str(write_rows(tmp_path / "test.jsonl", parcel_rows(12, 17)))
    done = trained(settings)
    facts, folder = done.facts, tmp_path / "run"
    held = facts["held_out"]
    assert (facts["measured_on"], held["rows"], facts["kept_by"]) == ("test", 15, "eval_loss")
    assert facts["initial"] == pytest.approx(1.0986, abs=1e-4) and facts["kept"] < 0.5 * facts["initial"]
    assert held["accuracy"][0] > 0.9 and held["others"]["the most frequent class"]["accuracy"][0] == pytest.approx(
        1 / 3
    )
    assert {p.name for p in folder.iterdir()} >= {
        WEIGHTS_FILE, "adapter_config.json", "report.html", "report.json", "classify.png", "loss.png", "metrics.jsonl",
        "run.json", PROVENANCE_FILE,
    }  # fmt: skip
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(facts))
    logged = lines_of(folder / "metrics.jsonl")
    assert sum("eval_accuracy" in line for line in logged) == 5 and logged[1].keys() >= {"loss", "accuracy"}
    said = predicted(settings, tmp_path / "test.jsonl")
    out = lines_of(tmp_path / "out.jsonl")
    assert said.accuracy == pytest.approx(held["accuracy"]) and said.rows_classified == 15
    assert [row["id"] for row in out] == [row["id"] for row in parcel_rows(12, 17)]
    for row in out:
        assert sum(row["probabilities"].values()) == pytest.approx(1) and set(row["probabilities"]) == set(
            said.by_label
        )
        assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["predicted"]]
    # A checkpoint is a classifier too, and one of another step says other things.
    earlier = predicted(settings, tmp_path / "test.jsonl", adapter=str(folder / "checkpoint-10"), overwrite=True)
    assert earlier.classifier_digest != said.classifier_digest
    # A row's probabilities do not hang on what stands beside it.
    write_rows(tmp_path / "one.jsonl", parcel_rows(12, 13)[:1])
    predicted(settings, tmp_path / "one.jsonl", output=str(tmp_path / "alone.jsonl"))
    alone = lines_of(tmp_path / "alone.jsonl")[0]["probabilities"]
    assert alone == pytest.approx(out[0]["probabilities"], abs=1e-5)


@pytest.mark.usefixtures("undrawn")
def test_a_crash_and_a_resume_give_the_same_weights(settings: dict[str, Any], tmp_path: Path) -> None:
    whole = trained(settings, output_dir=str(tmp_path / "whole"), save_steps=3)
    steps: list[int] = []

    def die(_: Role) -> None:
        steps.append(1)
        if len(steps) == 9:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train_classifier(config(settings, save_steps=3), tweak_gradients=die)
    resumed = trained(settings, save_steps=3, resume_from_checkpoint="auto")
    assert same(tmp_path / "run", tmp_path / "whole")
    assert resumed.facts == whole.facts
    # The control: another seed is another run.
    trained(settings, output_dir=str(tmp_path / "other"), seed=1)
    assert not same(tmp_path / "other", tmp_path / "whole")


@pytest.mark.usefixtures("undrawn")
def test_the_weights_are_kept_by_what_was_asked_and_a_flipped_gradient_does_not_learn(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    done = trained(settings, metric_for_best_model="eval_accuracy", class_weights="balanced", label_smoothing=0.1)
    logged = {line["step"]: line for line in lines_of(tmp_path / "run" / "metrics.jsonl") if "eval_accuracy" in line}
    best = max(logged[step]["eval_accuracy"] for step in logged if step)
    assert done.facts["kept"] == pytest.approx(best) == logged[done.best_step]["eval_accuracy"]
    assert done.best_step == min(step for step in logged if step and logged[step]["eval_accuracy"] == best)

    def flip(role: Role) -> None:
        for parameter in role.parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(-1)

    flipped = config(settings, output_dir=str(tmp_path / "flipped"), early_stopping_patience=0)
    assert train_classifier(flipped, tweak_gradients=flip).facts["held_out"]["accuracy"][0] < 0.7


def test_texts_are_laid_before_the_model_as_asked(settings: dict[str, Any]) -> None:
    plain = prepare_classifier(config(settings))
    tokenizer = plain.base.tokenizer
    first = plain.train[0]
    assert tokenizer.decode(first.ids) == f"{first.row.text}<|im_end|>"
    chat = prepare_classifier(config(settings, chat_template=True))
    wanted = f"<|im_start|>user\n{first.row.text}<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(chat.train[0].ids) == wanted


def test_long_texts_are_an_error_dropped_or_cut_and_counted(settings: dict[str, Any], tmp_path: Path) -> None:
    rows = parcel_rows(0, 12)
    rows[4]["text"] = "parcel " * 60
    settings["data"] = {"train": str(write_rows(tmp_path / "long.jsonl", rows)), "validation_share": 0}
    with pytest.raises(DataError, match=r"long.jsonl:5: the text has \d+ tokens, 40 are allowed"):
        prepare_classifier(config(settings, max_length=40))
    dropped = prepare_classifier(config(settings, max_length=40, over_length="drop"))
    assert dropped.reports["train"].texts_dropped == 1 and len(dropped.train) == 35
    cut = prepare_classifier(config(settings, max_length=40, over_length="truncate"))
    assert cut.reports["train"].texts_cut == 1 and len(cut.train) == 36
    assert len(cut.train[4].ids) == 40 and cut.train[4].ids[-1] == cut.base.tokenizer.eos_token_id
    with pytest.raises(ConfigError, match="cuts plain text"):
        config(settings, chat_template=True, over_length="truncate")


@pytest.mark.usefixtures("undrawn")
def test_rows_to_predict_are_checked_counted_and_never_cut_in_silence(settings: dict[str, Any], tmp_path: Path) -> None:
    trained(settings, max_steps=2, eval_steps=2)
    rows = [
        {"body": "parcel 1 is late"}, {"body": ""}, {"body": "thanks " * 300},
        {"body": "parcel 2 thanks", "label": "never heard of"},
    ]  # fmt: skip
    source, columns = write_rows(tmp_path / "new.jsonl", rows), {"columns": {"text": "body"}}
    with pytest.raises(DataError, match=r"new.jsonl:2:body: the text is empty"):
        predicted(settings, source, **columns)
    with pytest.raises(DataError, match=r"new.jsonl:3:body: the text has \d+ tokens"):
        predicted(settings, source, on_bad_row="drop", **columns)
    done = predicted(settings, source, on_bad_row="drop", over_length="drop", **columns)
    assert (done.rows_read, done.rows_classified) == (4, 2)
    assert done.rows_dropped == {"the text is empty": 1, "the text is too long": 1}
    assert (done.labelled, done.unknown_labels, done.accuracy[0]) == (1, 1, 0.0)
    cut = predicted(settings, source, on_bad_row="drop", over_length="truncate", overwrite=True, **columns)
    assert (cut.rows_classified, cut.texts_cut) == (3, 1)
    with pytest.raises(DataError, match="there is a column 'predicted' already"):
        predicted(settings, tmp_path / "out.jsonl", output=str(tmp_path / "again.jsonl"), **columns)


def test_what_means_nothing_is_refused_and_an_adapter_without_a_head_is_a_start(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="full is none"):
        config(settings, adapter={"method": "full"})
    with pytest.raises(ConfigError, match="Did you mean 'class_weights'"):
        config(settings, class_weight="balanced")
    with pytest.raises(ConfigError, match="adapter_path brings its own settings"):
        config(settings, adapter_path="somewhere")
    base = load_base(config(settings))
    sft = add_adapter(base, "default", AdapterConfig(r=3), seed=5)
    for parameter in sft.parameters.values():
        parameter.data += 0.1
    save_role(base, sft, tmp_path / "sft")
    start = {key: value for key, value in settings.items() if key != "adapter"}
    prepared = prepare_classifier(config(start, adapter_path=str(tmp_path / "sft")))
    save_role(prepared.base, prepared.role, tmp_path / "begun")
    ours, theirs = load_file(tmp_path / "begun" / WEIGHTS_FILE), load_file(tmp_path / "sft" / WEIGHTS_FILE)
    assert set(ours) - set(theirs) == {"base_model.model.score.weight"}
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    save_role(base, add_head(base, sft, 1), tmp_path / "reward")
    with pytest.raises(ModelError, match="has a head of its own"):
        prepare_classifier(config(start, adapter_path=str(tmp_path / "reward")))


@pytest.mark.usefixtures("undrawn")
def test_the_verbs_say_what_they_did_and_what_comes_next(settings: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"message": row["text"], "label": row["label"]} for row in parcel_rows(0, 12)]
    write_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"task": "classify", **settings}))
    called = ["classify", str(tmp_path / "recipe.yaml"), "max_steps=4", "--column", "text=message"]
    done = CliRunner().invoke(app, called)
    assert done.exit_code == 0, done.output
    assert "9 validation rows; macro-F1" in done.stdout and "the most frequent class: 33.3 %" in done.stdout
    assert done.stdout.splitlines()[-1] == f"next:  tunesmith predict ROWS --adapter {tmp_path / 'run'}"
    asked = ["predict", str(tmp_path / "rows.jsonl"), "--adapter", str(tmp_path / "run"), "--column", "text=message"]
    asked += ["--model", settings["model_name_or_path"], "--output", str(tmp_path / "said.jsonl"), "--json"]
    said = CliRunner().invoke(app, asked)
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["rows_classified"] == 36
    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 2 and "the file exists" in again.stderr
    bad = CliRunner().invoke(app, ["classify", str(tmp_path / "recipe.yaml"), "data.train=nowhere.jsonl"])
    assert bad.exit_code == 2 and "no such file or folder" in bad.stderr
