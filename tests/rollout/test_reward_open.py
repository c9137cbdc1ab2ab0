"""A recipe's rewards opened on a tiny base: each kind, their sum, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.config import Config, build_config
from tunesmith.errors import AdapterMismatchError, ConfigError, ModelError, RewardError
from tunesmith.models.adapters import AdapterConfig, add_adapter, save_role
from tunesmith.models.heads import add_head
from tunesmith.records import Message
from tunesmith.rollout.reward_function import FunctionReward
from tunesmith.rollout.reward_open import ModelReward, SourceConfig, open_rewards
from tunesmith.rollout.rewards import Answered
from tunesmith.tokens.render import end_of_turn, render_prompt


class Recipe(Config):
    """What a recipe that takes rewards looks like."""

    rewards: list[SourceConfig]


def configs(*rewards: dict[str, Any]) -> list[SourceConfig]:
    return build_config(Recipe, {"rewards": list(rewards)}, place="recipe.yaml").rewards


@pytest.fixture
def saved(load: Callable[..., Any], tmp_path: Path) -> Path:
    """A reward model's folder, with matrices that are not zero."""
    base = load("llama", "float32")
    role = add_head(base, add_adapter(base, "reward", AdapterConfig(r=4), seed=1), seed=1)
    with torch.no_grad():
        for parameter in role.parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    save_role(base, role, tmp_path / "polite")
    return tmp_path / "polite"


def answered(base: Any, text: str, row_id: int = 0, stop: str = "end_of_turn", prompt: str = "Hi there") -> Answered:
    messages = (Message(role="user", content=prompt),)
    ids = np.array(base.tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)
    if stop == "end_of_turn":
        ids = np.append(ids, base.tokenizer.eos_token_id)
    prompt_ids = render_prompt(messages, base.tokenizer)
    return Answered(messages=messages, text=text, ids=ids, prompt_ids=prompt_ids, stop_reason=stop, row_id=row_id)  # type: ignore[arg-type]


def test_a_reward_model_scores_the_answers_of_its_base(load: Callable[..., Any], saved: Path) -> None:
    base = load("llama", "float32")
    rewards, notes = open_rewards(configs({"model": str(saved)}), base)
    items = [answered(base, text, i) for i, text in enumerate(["fine", "the one on top", "no"])]
    together = rewards.score(items)
    assert len(set(together.round(4))) == 3
    alone = np.concatenate([rewards.score([item]) for item in items])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert list(rewards.score_parts(items).parts) == ["polite"]
    assert len(rewards.identity["polite.reward_model"]) == 64
    assert notes == [] and rewards.score([]).shape == (0,)


def test_an_answer_cut_off_is_scored_as_if_it_ended_there(load: Callable[..., Any], saved: Path) -> None:
    base = load("llama", "float32")
    rewards, _ = open_rewards(configs({"model": str(saved)}), base)
    ended, cut = answered(base, "the one"), answered(base, "the one", stop="length")
    assert len(cut.ids) == len(ended.ids) - 1
    assert rewards.score([cut]) == pytest.approx(rewards.score([ended]), rel=1e-5)
    # Control: read at its last word, the same model says something else.
    (source, _), *_ = rewards.sources
    assert isinstance(source, ModelReward)
    raw = source.model.score([cut.prompt_ids], [cut.ids])
    assert abs(raw - rewards.score([ended])) > 1e-3
    assert end_of_turn(base.tokenizer) == base.tokenizer.eos_token_id


def test_an_answer_that_ended_with_another_end_token_is_read_at_the_models_own(
    load: Callable[..., Any], saved: Path
) -> None:
    base = load("llama", "float32")
    rewards, _ = open_rewards(configs({"model": str(saved)}), base)
    ended = answered(base, "the one")
    # Some models may end with any of several tokens; the reward model was trained on the template's alone.
    other = np.append(ended.ids[:-1], base.tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    assert rewards.score([replace(ended, ids=other)]) == pytest.approx(rewards.score([ended]), rel=1e-5)


def test_an_answer_that_fills_the_context_leaves_room_for_its_end(load: Callable[..., Any], tmp_path: Path) -> None:
    """Learned positions: there is none behind the last."""
    base = load("gpt2", "float32")
    save_role(base, add_head(base, add_adapter(base, "made", AdapterConfig(r=2), 1), 1), tmp_path / "reward")
    rewards, _ = open_rewards(configs({"model": str(tmp_path / "reward")}), base)
    cut = answered(base, "x", stop="length")
    full = replace(cut, ids=np.full(base.context_tokens - len(cut.prompt_ids), 40))
    shorter = replace(full, ids=full.ids[:-1])
    assert rewards.score([full]) == pytest.approx(rewards.score([shorter]), rel=1e-5)


def test_an_answer_without_tokens_is_refused(load: Callable[..., Any], saved: Path) -> None:
    rewards, _ = open_rewards(configs({"model": str(saved)}), load("llama", "float32"))
    text_only = Answered(messages=(), text="fine", stop_reason="end_of_turn", row_id=12)
    with pytest.raises(RewardError, match="prompt row 12: a reward model reads tokens"):
        rewards.score([text_only])


def test_a_reward_model_of_another_base_is_refused(load: Callable[..., Any], saved: Path) -> None:
    with pytest.raises(AdapterMismatchError, match="was trained with base"):
        open_rewards(configs({"model": str(saved)}), load("qwen3", "float32"))


def test_an_adapter_without_a_head_is_refused(load: Callable[..., Any], tmp_path: Path) -> None:
    base = load("llama", "float32")
    save_role(base, add_adapter(base, "policy", AdapterConfig(r=4), seed=1), tmp_path / "sft")
    with pytest.raises(ModelError, match="without a scalar head"):
        open_rewards(configs({"model": str(tmp_path / "sft")}), base)


def test_models_and_functions_are_summed_and_their_code_is_said_to_run(
    load: Callable[..., Any], saved: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("def short(prompts, answers):\n    return [-len(a) for a in answers]\n")
    base = load("llama", "float32")
    rewards, notes = open_rewards(
        configs(
            {"model": str(saved)},
            {"model": str(saved), "weight": 0.0, "name": "watched"},
            {"function": f"{tmp_path / 'mine.py'}:short", "weight": 0.5},
        ),
        base,
    )
    scores = rewards.score_parts([answered(base, "fine"), answered(base, "no")])
    assert list(scores.parts) == ["polite", "watched", "short"]
    np.testing.assert_array_equal(scores.parts["polite"], scores.parts["watched"])
    np.testing.assert_allclose(scores.total, scores.parts["polite"] + 0.5 * np.array([-4.0, -2.0]))
    assert notes == [f"the code of {tmp_path / 'mine.py'} was run to load 'short' (all answers at once)."]
    assert [isinstance(source, FunctionReward) for source, _ in rewards.sources] == [False, False, True]


@pytest.mark.parametrize(
    ("rewards", "cause"),
    [
        ([{}], "this one has none of them"),
        ([{"model": "a", "function": "b.py:c"}], r"this one has \['model', 'function'\]"),
        ([{"function": "b.py:c", "weight": float("nan")}], "finite number"),
        ([{"modell": "a"}], "unknown key"),
        ([{"judge": {"url": "http://localhost:1/v1"}}], "field required"),
        ([{"function": "b.py:c", "name": "two words"}], "pattern"),
    ],
)
def test_a_source_that_cannot_be_is_refused_in_the_recipe(rewards: list[dict[str, Any]], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        configs(*rewards)


def test_names_follow_what_is_named() -> None:
    judge = {"url": "http://localhost:1/v1", "model": "org/judge-7b"}
    named = configs(
        {"model": "runs/reward/"}, {"function": "a/b.py:polite"}, {"judge": judge}, {"model": "x", "name": "y"}
    )
    assert [one.label for one in named] == ["reward", "polite", "judge-7b", "y"]
