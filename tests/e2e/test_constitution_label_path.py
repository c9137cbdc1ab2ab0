"""From a judge's labels to tuned adapters: label, prefer, then reward and dpo as on people's judgements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import build_model, build_tokenizer
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.feedback.judgements import Compared
from tunesmith.feedback.store import FeedbackStore

PROMPTS = "How do I calm an upset customer?\nIs it safe to mix bleach and vinegar?\n"
# Ours has rules that need the sentence encoder, which is not what is tested here.
RULES = """
name: one
version: "1"
principles:
  - {id: kind, text: The answer is kind., category: manners, critique_request: "Unkind?", revision_request: Kindly.}
"""
TRAIN = ["max_steps=1", "per_device_train_batch_size=2", "dtype=float32", "adapter.r=2", "data.validation_share=0"]


def tunesmith(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("both_ways", [False, True])
def test_reward_and_dpo_take_a_step_on_what_a_judge_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, both_ways: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    model = build_model("llama")
    model.config.max_position_embeddings = 8192
    model.save_pretrained("tiny")
    build_tokenizer().save_pretrained("tiny")
    Path("prompts.txt").write_text(PROMPTS)
    label = ["constitution", "label", "prompts.txt", "--store", "f.db", "--model", "tiny", "--max-new-tokens", "6"]
    Path("c.yaml").write_text(RULES)
    told = json.loads(tunesmith(*label, "--constitution", "c.yaml", "--json"))
    assert told["kept"] == 2 and told["decisive"] > 0 and told["tokens"]["judged"] > 0
    tunesmith("feedback", "prefer", "pairs", "--store", "f.db", f"both_ways={both_ways}", "source_weights.ai=0.5")
    rows = [json.loads(line) for line in Path("pairs/pairs.jsonl").read_text().splitlines()]
    assert len(rows) == (4 if both_ways else 2) and all(row["provenance"]["sources"] == ["ai"] for row in rows)
    if both_ways:
        assert rows[0]["weight"] + rows[1]["weight"] == pytest.approx(0.5)
    Path("own.yaml").write_text("{}")
    common = ["data.train=pairs/pairs.jsonl", "model_name_or_path=tiny", *TRAIN]
    for verb in ("reward", "dpo"):
        tunesmith(verb, "own.yaml", *common, f"output_dir={verb}")
        assert (tmp_path / verb / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_the_real_model_labels_two_prompts_and_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    (tmp_path / "c.yaml").write_text(RULES)
    words = ["constitution", "label", str(tmp_path / "prompts.txt"), "--store", str(tmp_path / "f.db")]
    words += ["--max-new-tokens", "8", "--constitution", str(tmp_path / "c.yaml")]
    said = tunesmith(*words)
    assert "4 questions to the judge, 0 of them answered before" in said and "position bias, cancelled:" in said
    with FeedbackStore.open(tmp_path / "f.db") as store:
        made: list[Any] = list(store.judgements())
    assert len(made) == 2
    for one in made:
        assert isinstance(one.value, Compared) and one.value.p is not None and 0 < one.value.p < 1
        ((first, second),) = [opinion["log_odds"] for opinion in one.provenance["opinions"]]
        assert one.provenance["constitution"]["name"] == "one" and first != second
    again = json.loads(tunesmith(*words, "--json"))
    assert again["stored"] == {"new": 0, "before": 2} and again["tokens"]["judged"] == 0
