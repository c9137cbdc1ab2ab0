"""A blind match on a tiny base: fair draws, a judge that is told nothing, scores in their places, whole files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.config import build_config
from tunesmith.data.prompts import PromptRow
from tunesmith.errors import ConfigError
from tunesmith.evals.match import MatchConfig, play
from tunesmith.models.adapters import AdapterConfig, add_adapter, save_role
from tunesmith.models.forward import forward
from tunesmith.models.heads import add_head
from tunesmith.recipes.winrate import WinRateConfig, refuse_seen, run_winrate
from tunesmith.records import Example, Message, Where
from tunesmith.rollout.generate import LocalGenerator
from tunesmith.rollout.reward_function import FunctionReward
from tunesmith.rollout.reward_open import SourceConfig, open_rewards
from tunesmith.rollout.rewards import Answered, WeightedSum
from tunesmith.rollout.sampling import Sampling
from tunesmith.tokens.pack import pack

PROMPTS = [
    PromptRow(messages=(Message(role="user", content=text),), row_id=i * 3, where=Where("p", i))
    for i, text in enumerate(["Hi", "the one?", "on and on", "a third", "more of it", "last"])
]
CONFIG = MatchConfig(num_samples=2, sampling=Sampling(max_new_tokens=12, temperature=1.0, seed=3), num_examples=2)


def adapter(base: Any, name: str, seed: int, scale: float) -> Any:
    role = add_adapter(base, name, AdapterConfig(r=4), seed=seed)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in role.parameters.values():
            parameter.add_(scale * torch.randn(parameter.shape, generator=draws).to(parameter.dtype))
    return role


@pytest.fixture
def base(load: Callable[..., Any]) -> Any:
    base = load("llama", "float64")
    adapter(base, "sft", 1, 0.05)
    adapter(base, "tuned", 2, 0.2)
    return base


def judge_of(score: Callable[..., Any]) -> WeightedSum:
    return WeightedSum([(FunctionReward(score, "judge"), 1.0)])


LENGTH = judge_of(lambda prompt, answer: len(answer))


def test_a_model_against_itself_ties_everywhere_because_the_draws_are_the_same(base: Any) -> None:
    match = play(base, LocalGenerator(base), ("a", "sft"), [("b", "sft")], PROMPTS, LENGTH, CONFIG)
    assert [r.text for r in match.sides[0].rollouts] == [r.text for r in match.sides[1].rollouts]
    assert len({r.text for r in match.sides[0].rollouts}) > 6, "samples of one prompt differ"
    result, kl = match.results["b"], match.divergences["b"]
    assert (result.wins, result.ties, result.losses, result.rate.value) == (0, 12, 0, 0.5)
    assert kl.token == 0 and kl.sequence.value == 0


def test_the_judge_cannot_tell_whose_answer_it_scores(base: Any) -> None:
    seen: list[Answered] = []

    class Recorder(FunctionReward):
        def score(self, items: Sequence[Answered]) -> Any:
            seen.extend(items)
            return super().score(items)

    recorder = Recorder(lambda prompt, answer: len(answer), "judge")
    match = play(
        base, LocalGenerator(base), ("a", "sft"), [("b", "tuned")], PROMPTS, WeightedSum([(recorder, 1.0)]), CONFIG
    )
    ours = [rollout.text for rollout in match.sides[0].rollouts]
    sides = [item.text in ours for item in seen]
    assert len(seen) == 24
    assert sides != sorted(sides) and sides != sorted(sides, reverse=True)
    assert not {"a", "b", "sft", "tuned"} & {str(value) for item in seen for value in (item.row_id, item.sample)}
    # Each answer's score lands with that answer.
    for side in match.sides:
        assert side.scores.total.tolist() == [len(rollout.text) for rollout in side.rollouts]
    for row in match.rows():
        assert {label: len(text) for label, text in row["answers"].items()} == row["scores"]


def test_another_order_of_scoring_changes_nothing(base: Any) -> None:
    generator = LocalGenerator(base)
    one = play(base, generator, ("a", "sft"), [("b", "tuned")], PROMPTS, LENGTH, CONFIG)
    both = play(base, generator, ("a", "sft"), [("c", None), ("b", "tuned")], PROMPTS, LENGTH, CONFIG)
    assert one.results["b"] == both.results["b"] and one.divergences["b"] == both.divergences["b"]
    assert both.results["c"] != both.results["b"]
    assert one.examples == both.examples and len(one.examples) == 2


def test_divergence_is_that_of_answers_run_one_by_one(base: Any) -> None:
    match = play(base, LocalGenerator(base), ("a", "sft"), [("b", "tuned")], PROMPTS, LENGTH, CONFIG)
    sums = []
    for rollout in match.sides[1].rollouts:
        weight = np.concatenate([np.zeros(len(rollout.prompt_ids)), np.ones(len(rollout.ids))]).astype(np.float32)
        ids = np.concatenate([rollout.prompt_ids, rollout.ids])
        example = Example(ids=ids, loss_weight=weight, row_id=0, where=Where("x"))
        own, other = (
            float(forward(base, pack([example], name), "reference_logprobs")[0].sum()) for name in ("tuned", "sft")
        )
        assert own == pytest.approx(float(rollout.logprobs.sum()), abs=1e-4)
        sums.append(own - other)
    kl = match.divergences["b"]
    assert kl.sequence.value == pytest.approx(np.mean(sums), rel=1e-9)
    assert kl.token == pytest.approx(sum(sums) / sum(match.sides[1].lengths), rel=1e-9)
    assert kl.sequence.value > 0
    cold = CONFIG.model_copy(update={"sampling": Sampling(max_new_tokens=12, temperature=0.5)})
    assert play(base, LocalGenerator(base), ("a", "sft"), [("b", "tuned")], PROMPTS, LENGTH, cold).divergences == {}


def test_two_models_of_one_name_are_refused(base: Any) -> None:
    with pytest.raises(ConfigError, match="called alike"):
        play(base, LocalGenerator(base), ("a", "sft"), [("a", "tuned")], PROMPTS, LENGTH, CONFIG)


@pytest.fixture
def folders(load: Callable[..., Any], tmp_path: Path) -> Path:
    """SFT, a policy, two reward models and prompts, as a user has them on disk."""
    base = load("llama", "float32")
    save_role(base, adapter(base, "s", 1, 0.05), tmp_path / "sft")
    for name, seed in (("reward-1", 3), ("reward-2", 4)):
        save_role(base, add_head(base, adapter(base, name, seed, 0.1), seed), tmp_path / name)
    trained_with, _ = open_rewards([SourceConfig(model=str(tmp_path / "reward-1"))], base)
    extra = {"rewards": dict(trained_with.identity)}
    save_role(base, adapter(base, "p", 2, 0.2), tmp_path / "ppo", extra)
    lines = [json.dumps({"prompt": prompt.messages[0].content}) for prompt in PROMPTS]
    (tmp_path / "held-out.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def config(folders: Path, reward: str, **more: Any) -> WinRateConfig:
    settings = {
        "prompts": str(folders / "held-out.jsonl"),
        "policies": [str(folders / "ppo")],
        "baseline": str(folders / "sft"),
        "rewards": [{"model": str(folders / reward)}],
        "sampling": {"max_new_tokens": 12, "temperature": 1.0},
        "dtype": "float32",
        "output_dir": str(folders / "wins"),
    }
    return build_config(WinRateConfig, settings | more, place="test")


def test_a_judge_the_policy_was_trained_with_is_refused(folders: Path) -> None:
    with pytest.raises(ConfigError, match=r"what a policy was trained with \(ppo: reward-1\)"):
        run_winrate(config(folders, "reward-1"), say=lambda _: None)
    facts = run_winrate(config(folders, "reward-1", allow_seen=True), say=lambda _: None)
    assert facts["seen_in_training"] == ["ppo: reward-1"]
    assert "the judge was trained with (ppo: reward-1)" in (folders / "wins" / "winrate.html").read_text()


def test_a_source_that_was_only_watched_may_judge(folders: Path) -> None:
    path = folders / "ppo" / "tunesmith_provenance.json"
    told = json.loads(path.read_text())
    digest = told["rewards"]["reward-1.reward_model"]
    judge = WeightedSum([(FunctionReward(lambda prompt, answer: 0.0, "j", {"reward_model": digest}), 1.0)])
    assert refuse_seen([folders / "ppo"], judge, allow=True) == ["ppo: j"]
    path.write_text(json.dumps({**told, "rewards": {**told["rewards"], "reward-1.weight": "0.0"}}))
    assert refuse_seen([folders / "ppo"], judge, allow=False) == []


def test_the_verb_writes_what_it_says(folders: Path) -> None:
    command = [
        "winrate", str(folders / "held-out.jsonl"),
        "--policy", str(folders / "ppo"), "--baseline", str(folders / "sft"), "--reward", str(folders / "reward-2"),
        "--output", str(folders / "out"), "--samples", "2", "--max-new-tokens", "12", "--examples", "3",
    ]  # fmt: skip
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.stderr
    facts = json.loads((folders / "out" / "winrate.json").read_text())
    rows = [json.loads(line) for line in (folders / "out" / "winrate.jsonl").read_text().splitlines()]
    page = (folders / "out" / "winrate.html").read_text()
    assert len(rows) == 12 and facts["num_prompts"] == 6 and facts["against"] == "sft"
    result = facts["win_rates"]["ppo"]
    wins = sum(row["scores"]["ppo"] > row["scores"]["sft"] for row in rows)
    assert result["wins"] == wins and result["rate"]["low"] <= wins / 12 <= result["rate"]["high"]
    assert facts["sides"]["ppo"]["tokens"]["value"] == pytest.approx(np.mean([row["tokens"]["ppo"] for row in rows]))
    assert page.count('<div class="label">prompt</div>') == 3
    assert f"win rate {100 * result['rate']['value']:.1f} %" in done.stdout and "next:" in done.stdout
    again = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(again.stdout)["win_rates"] == facts["win_rates"]
