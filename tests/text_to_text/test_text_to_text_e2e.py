"""The verbs on encoder-decoder models, a resumed run, and a T5 that learns a task from nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from date_task import held_out_rows, write_date_task
from safetensors.numpy import load_file
from text_to_text_models import save_model
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.config import load_config
from tunesmith.evals.run import run_task
from tunesmith.evals.scorers import exact_text
from tunesmith.evals.subject import local_subject
from tunesmith.evals.task import Item, Task, bare_prompt
from tunesmith.models.adapters import adapter_digest
from tunesmith.models.roles import Role
from tunesmith.recipes.chat import Session, talk
from tunesmith.recipes.prepare import SFTConfig
from tunesmith.recipes.sft import train
from tunesmith.records import Message
from tunesmith.rollout.generate import Sampling

ROOT = Path(__file__).parents[2]


def tunesmith(*arguments: str, code: int = 0) -> Any:
    """A verb in this process: the imports of a new one would cost ten seconds a call."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done


@pytest.fixture(params=["t5", "bart"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The shipped recipe on a tiny model and rows of our own."""
    save_model(request.param, tmp_path / "model")
    rows = [{"input": f"number {i}", "output": f"it is {i * 7 % 13}"} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        str(ROOT / "recipes" / "text_to_text.yaml"), f"model_name_or_path={tmp_path / 'model'}", "device=cpu",
        f"data.train={tmp_path / 'rows.jsonl'}", f"output_dir={tmp_path / 'run'}", "dtype=float32",
        "per_device_train_batch_size=4", "max_steps=8", "eval_steps=4", "save_steps=2", "warmup_ratio=0",
    ]  # fmt: skip


def test_plan_sft_generate_and_chat(settings: list[str], tmp_path: Path) -> None:
    plan = json.loads(tunesmith("plan", *settings, "--json").stdout)
    assert any("encoder-decoder" in note for note in plan["notes"])
    assert plan["memory"]["fits"]
    assert plan["training"]["end_of_turn_share"] == 1.0
    assert any("in padded batches" in note for note in plan["notes"])
    done = json.loads(tunesmith("sft", *settings, "--json").stdout)
    assert done["num_steps"] == 8
    assert done["num_tokens"] == plan["training_tokens"]
    assert done["final_eval_loss"] < done["initial_eval_loss"]
    asked = ["number 3", "--max-new-tokens", "6"]
    model, run = ["--model", str(tmp_path / "model")], ["--adapter", str(tmp_path / "run")]
    said = json.loads(tunesmith("generate", *asked, *model, *run, "--json").stdout)
    # An adapter brings its base.
    assert json.loads(tunesmith("generate", *asked, *run, "--json").stdout) == said
    assert json.loads(tunesmith("generate", *asked, *model, "--json").stdout) != said
    session, shown = Session.open(str(tmp_path / "model"), tmp_path / "run"), []
    lines = iter(["number 3", None])
    talk(session, None, Sampling(max_new_tokens=6), read=lambda: next(lines), write=shown.append)
    assert "".join(shown[1:]) == said["answer"] + "\n"


def test_the_end_of_a_run_names_generate(settings: list[str], tmp_path: Path) -> None:
    end = tunesmith("sft", *settings, "max_steps=2").stdout.splitlines()[-1]
    assert end == f"next:  tunesmith generate --adapter {tmp_path / 'run'}"


def test_resumed_equals_uninterrupted_bit_for_bit(settings: list[str], tmp_path: Path) -> None:
    config, _ = load_config(SFTConfig, Path(settings[0]), [*settings[1:], "adapter.lora_dropout=0.1"])
    whole = train(config)
    broken = config.model_copy(update={"output_dir": str(tmp_path / "broken")})
    steps = []

    def die(_: Role) -> None:
        steps.append(1)
        if len(steps) == 6:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(broken, tweak_gradients=die)
    again = train(broken.model_copy(update={"resume_from_checkpoint": "auto"}))
    assert again.num_steps == whole.num_steps == 8
    assert again.final_eval_loss == whole.final_eval_loss
    assert adapter_digest(again.base, "default") == adapter_digest(whole.base, "default")
    ours, theirs = (load_file(t.output_dir / "adapter_model.safetensors") for t in (again, whole))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    # Control: another seed is another run.
    other = train(config.model_copy(update={"output_dir": str(tmp_path / "other"), "seed": 1}))
    assert other.final_eval_loss != whole.final_eval_loss


def test_rows_an_encoder_decoder_model_cannot_learn_are_one_clear_paragraph(
    settings: list[str], tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("some raw text\n")
    done = tunesmith("sft", *settings, f"data.train={tmp_path / 'text.txt'}", "data.validation_share=0", code=2)
    assert "raw text has no source and target" in done.stderr
    done = tunesmith("sft", *settings, "max_length=8", "over_length=error", code=2)
    assert "the row's source has" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_t5_learns_a_task_from_nothing(tmp_path: Path) -> None:
    config, notes = load_config(SFTConfig, write_date_task(tmp_path))
    assert notes == []
    trained = train(config)
    session = Session.open(str(trained.output_dir), None)
    items = tuple(
        Item(id=f"date-{i}", messages=(Message(role="user", content=row["input"]),), target=row["output"])
        for i, row in enumerate(held_out_rows())
    )
    task = Task(name="dates", version=1, items=items, solver=bare_prompt, scorer=exact_text, metrics=("exact",))
    shares = {}
    for label, answering in (("tuned", session), ("untrained", Session.open(config.model_name_or_path, None))):
        subject = local_subject(answering.base, answering.generator, None, label)
        result = run_task(task, subject, Sampling(max_new_tokens=8), tmp_path / "results.jsonl")
        shares[label] = result.interval("exact").value
    print(shares, trained.final_eval_loss, trained.train_seconds)
    assert shares["tuned"] >= 0.95
    assert shares["untrained"] <= 0.05
