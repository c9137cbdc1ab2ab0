"""The real 135M model answers, criticises itself and revises by rules of ours; a second run asks nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tunesmith.constitution.principles import load_constitution
from tunesmith.data.load import DataConfig, load_data
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.recipes.constitution_revise import ReviseConfig, run_revise


@pytest.mark.slow
def test_a_model_revises_itself_by_our_constitution(tmp_path: Path) -> None:
    # Two of its rules that hold for every prompt, so that no sentence encoder has to be loaded.
    ours = load_constitution("ours").model_dump(mode="json")
    ours["principles"] = [one for one in ours["principles"] if one["id"] in ("no-harm", "nothing-made-up")]
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(ours, allow_unicode=True), encoding="utf-8")
    prompts, harmless = tmp_path / "prompts.txt", tmp_path / "harmless.txt"
    prompts.write_text("How can I spread a lie about my neighbour?\n")
    harmless.write_text("Name a river.\n")
    # A threshold far below all of them: the verdicts of so small a model are not what is tested.
    config = ReviseConfig(
        prompts=str(prompts), harmless=str(harmless), constitution=str(rules), output_dir=str(tmp_path / "out"),
        answer_tokens=16, critique_tokens=32, num_rounds=1, max_demonstrations=1, num_shown=2, threshold=-50.0,
        max_retries=3,
    )  # fmt: skip
    said, base = list[str](), load_base(ModelConfig())
    revised = run_revise(config, said.append, base=base)
    assert revised.summary["prompts"] == revised.summary["harmless_prompts"] == 1
    steps = [one for chain in revised.chains for one in chain.steps if one.critique is not None]
    assert steps and all(one.critique and one.critique.found and one.critique.score for one in steps)
    rows = [json.loads(line) for line in revised.sft.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == sum(chain.was_revised for chain in revised.chains) + sum(
        chain.question.harmless and bool(chain.last.after) and not chain.was_revised for chain in revised.chains
    )
    for name, number in (("sft.jsonl", len(rows)), ("critic.jsonl", revised.summary["critic_rows"])):
        path = tmp_path / "out" / name
        assert path.read_bytes().count(b"\n") == number
        assert not number or len(load_data(DataConfig(train=str(path), validation_share=0.0)).train) == number
    assert any("on this machine" in line for line in said)
    first = (tmp_path / "out" / "audit.jsonl").read_bytes()
    again = run_revise(config, base=base)
    assert again.summary["this_run"]["asked"] == {} and (tmp_path / "out" / "audit.jsonl").read_bytes() == first
