"""The PPO recipe: one base in memory, TRL's metrics, the best policy kept, and bad input named."""

from __future__ import annotations

import copy
import gc
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ppo_runs import Scripted, tiny, write_inputs

from tunesmith.errors import AdapterMismatchError, ConfigError, DataError, RewardError, RunError
from tunesmith.models.adapters import AdapterConfig, adapter_digest, add_adapter, load_adapter, save_role
from tunesmith.models.heads import add_head
from tunesmith.recipes.ppo import align
from tunesmith.recipes.ppo_config import PPOConfig
from tunesmith.recipes.ppo_prepare import place_roles, prepare
from tunesmith.runs import read_metrics

TRL_NAMES = {
    "objective/kl", "objective/entropy", "objective/non_score_reward", "objective/rlhf_reward", "objective/scores",
    "policy/approxkl_avg", "policy/clipfrac_avg", "loss/policy_avg", "loss/value_avg", "val/clipfrac_avg",
    "policy/entropy_avg", "val/ratio", "val/ratio_var", "val/num_eos_tokens", "lr", "episode",
}  # fmt: skip
Model = Callable[[str], Path]
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_inputs(tmp_path)
    return tmp_path


def storages_like(shape: tuple[int, ...]) -> int:
    """How many different storages hold a tensor of this shape anywhere in the process."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor) and x.shape == shape]
    return len({x.untyped_storage().data_ptr() for x in tensors})


def test_all_roles_stand_on_one_base(folder: Path, model_folder: Model, load: Callable[..., Any]) -> None:
    made = load("llama", dtype="float32")
    save_role(made, add_head(made, add_adapter(made, "made", AdapterConfig(r=2), 0), 1), folder / "reward")
    del made
    base = load("llama", dtype="float32")
    shapes = {tuple(p.shape) for p in base.model.parameters() if p.dim() == 2}
    before = {shape: storages_like(shape) for shape in shapes}
    rewards = [{"model": str(folder / "reward")}]
    done = align(tiny(model_folder("llama"), folder, "run", rewards=rewards), base=base)
    assert set(done.base.peft_model.peft_config) == {"policy", "value", "reward"}
    # Adapters have shapes of their own: of the base's no tensor has come into being beside those that were there.
    assert {shape: storages_like(shape) for shape in shapes} == before
    # Control: a copy of the model would be seen.
    other = copy.deepcopy(base.model)
    assert all(storages_like(shape) > before[shape] for shape in shapes)
    del other


def test_metrics_have_trls_names_and_are_documented(folder: Path, model_folder: Model) -> None:
    page = (Path(__file__).parents[2] / "docs" / "ppo.md").read_text()
    align(tiny(model_folder("llama"), folder, "ppo"))
    align(
        tiny(
            model_folder("llama"), folder, "grpo", algorithm="grpo", num_generations=2, kl_in="loss", kl_estimator="k3"
        )
    )
    first = read_metrics(folder / "ppo" / "metrics.jsonl")
    assert [row["step"] for row in first] == [1, 2, 3, 4]
    assert all(set(row) >= TRL_NAMES for row in first[:3])
    assert (first[0]["objective/kl"], first[2]["episode"]) == (0.0, 9)
    for name in {key for run in ("ppo", "grpo") for row in read_metrics(folder / run / "metrics.jsonl") for key in row}:
        assert f"`{name}`" in page, name


def test_the_best_policy_within_the_budget_is_kept(folder: Path, model_folder: Model) -> None:
    told = {1: 0.0, 2: 5.0, 3: 1.0, 4: 9.0}
    source = Scripted(lambda i, items: np.full(len(items), told[i]) + 1e-3 * np.arange(len(items)))
    done = align(tiny(model_folder("llama"), folder, "run", kl_budget=1e6), reward=source)
    assert (done.best is not None and done.best.step, done.num_iterations) == (3, 3)
    source = Scripted(lambda i, items: np.full(len(items), told[i] if i < 4 else 2.0))
    done = align(tiny(model_folder("llama"), folder, "kept", kl_budget=1e6), reward=source)
    assert done.best is not None and done.best.step == 1
    record = json.loads((folder / "kept" / "run.json").read_text())
    assert record["result"]["best"]["step"] == 1
    weights = (folder / "kept" / "adapter_model.safetensors").read_bytes()
    assert weights == (folder / "kept" / "checkpoint-1" / "adapter_model.safetensors").read_bytes()
    # Within a tiny budget only the policy it started from is left.
    done = align(
        tiny(model_folder("llama"), folder, "near", kl_budget=1e-9, learning_rate=0.05),
        reward=Scripted(
            lambda i, items: np.full(len(items), told[i]) + 1e-3 * np.array([len(item.ids) for item in items])
        ),
    )
    assert done.best is not None and done.last is not None
    assert done.best.kl <= 1e-9


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_equal_rewards_teach_nothing_and_are_counted(folder: Path, model_folder: Model, algorithm: str) -> None:
    config = tiny(model_folder("llama"), folder, "run", algorithm=algorithm, num_generations=2, kl_coef=0.0)
    done = align(config, reward=Scripted(lambda i, items: np.full(len(items), 0.1)))
    rows = read_metrics(folder / "run" / "metrics.jsonl")
    assert [row["objective/prompts_without_signal"] for row in rows] == [3.0] * 4
    assert any("every answer got the reward 0.1" in text for text in done.warnings)
    start, end = (folder / "run" / f"checkpoint-{i}" / "parameters.safetensors" for i in (0, 3))
    assert start.read_bytes() == end.read_bytes()


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (lambda i, items: np.full(len(items), math.nan), r"prompt row \d: the score is nan"),
        (lambda i, items: np.full(len(items), math.inf), r"prompt row \d: the score is inf"),
        (lambda i, items: np.zeros(len(items) - 1), r"shape \(2,\) for 3 answers"),
    ],
)
def test_useless_scores_are_named_and_the_run_is_kept(
    folder: Path, model_folder: Model, give: Callable[..., Any], said: str
) -> None:
    source = Scripted(lambda i, items: np.arange(len(items)) * 1.0 if i == 1 else give(i, items))
    with pytest.raises(RewardError, match=said):
        align(tiny(model_folder("llama"), folder, "run"), reward=source)
    assert (folder / "run" / "checkpoint-1" / "manifest.json").exists()


def test_prompts_that_do_not_fit(folder: Path, model_folder: Model) -> None:
    (folder / "prompts.txt").write_text("hi\n" + "word " * 80 + "\nthere\n")
    config = tiny(model_folder("llama"), folder, "run", num_iterations=1)
    with pytest.raises(DataError, match=r"prompts.txt:2.*the prompt has \d+ tokens"):
        align(config)
    data = config.data.model_copy(update={"over_length": "drop"})
    prepared = prepare(config.model_copy(update={"data": data}))
    assert (prepared.num_too_long, len(prepared.prompts)) == (1, 2)
    assert any("1 prompts of more than" in note for note in prepared.base.notes)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_prompt_file(folder: Path, model_folder: Model, text: str) -> None:
    (folder / "prompts.txt").write_text(text)
    with pytest.raises(DataError, match=r"prompts\.txt"):
        align(tiny(model_folder("llama"), folder, "run"))


def test_a_reward_adapter_of_another_base(folder: Path, model_folder: Model, load: Callable[..., Any]) -> None:
    other = load("qwen3", dtype="float32")
    save_role(other, add_head(other, add_adapter(other, "made", AdapterConfig(r=2), 0), 1), folder / "reward")
    config = tiny(model_folder("llama"), folder, "run", rewards=[{"model": str(folder / "reward")}])
    with pytest.raises(AdapterMismatchError, match="was trained with base"):
        align(config)


def test_the_policy_starts_from_and_stays_near_the_sft_adapter(
    folder: Path, model_folder: Model, load: Callable[..., Any]
) -> None:
    base = load("llama", dtype="float32")
    tuned = add_adapter(base, "tuned", AdapterConfig(r=2), 0)
    for parameter in tuned.parameters.values():
        parameter.data.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    save_role(base, tuned, folder / "sft")
    base = load("llama", dtype="float32")
    roles = place_roles(base, tiny(model_folder("llama"), folder, "run", sft_adapter=str(folder / "sft")))
    start = adapter_digest(base, "policy")
    assert start == adapter_digest(base, roles.reference) == adapter_digest(load_twice(load, folder), "tuned")
    assert all(p.requires_grad for p in roles.policy.parameters.values())
    align(tiny(model_folder("llama"), folder, "run", sft_adapter=str(folder / "sft")))
    rows = read_metrics(folder / "run" / "metrics.jsonl")
    assert rows[0]["objective/kl"] == 0.0 and rows[-1]["objective/kl"] != 0.0


def test_a_reward_model_that_only_watches_has_no_part_in_the_value(
    folder: Path, model_folder: Model, load: Callable[..., Any]
) -> None:
    made = load("llama", dtype="float32")
    for number, name in enumerate(("watched", "trained")):
        role = add_head(made, add_adapter(made, name, AdapterConfig(r=2), number), number)
        save_role(made, role, folder / name, {"reward_offset": 1.0 + number})
    rewards = [{"model": str(folder / "watched"), "weight": 0.0}, {"model": str(folder / "trained")}]
    prepared = prepare(tiny(model_folder("llama"), folder, "run", rewards=rewards), load("llama", dtype="float32"))
    value = prepared.roles.value
    assert value is not None and value.head is not None and prepared.roles.value_offset == 2.0
    assert adapter_digest(prepared.base, value.adapter) == adapter_digest(prepared.base, "reward_1")
    # Without one that counts it begins at 0.
    rewards = [rewards[0], {"function": f"{folder / 'mood.py'}:letters"}]
    prepared = prepare(tiny(model_folder("llama"), folder, "run", rewards=rewards), load("llama", dtype="float32"))
    value = prepared.roles.value
    assert value is not None and value.head is not None and prepared.roles.value_offset == 0.0
    assert not value.head.score.weight.any()


def load_twice(load: Callable[..., Any], folder: Path) -> Any:
    base = load("llama", dtype="float32")
    load_adapter(base, folder / "sft", "tuned")
    return base


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"algorithm": "rloo"}, "set num_generations to 2 or more"),
        ({"kl_in": "loss"}, "k1 in the loss has a gradient of mean 0"),
        ({"adapter": {"lora_dropout": 0.1}}, "lora_dropout must be 0"),
        ({"adapter": {"method": "full"}}, "use lora"),
        ({"num_mini_batches": 9}, "larger than prompts_per_iteration"),
        ({"rewards": []}, "at least 1 item"),
        ({"temperature": 0.0}, "greater than 0"),
    ],
)
def test_recipes_that_cannot_work(folder: Path, model_folder: Model, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tiny(model_folder("llama"), folder, "run", **more)


def test_a_folder_in_use_is_refused(folder: Path, model_folder: Model) -> None:
    config: PPOConfig = tiny(model_folder("llama"), folder, "run", num_iterations=1)
    align(config)
    with pytest.raises(RunError, match="already holds a run"):
        align(config)
    align(config.model_copy(update={"overwrite_output_dir": True}))
    assert len((folder / "run" / "samples.jsonl").read_text().splitlines()) == 3


def test_a_capped_head_refuses_another_temperature(folder: Path, model_folder: Model, load: Callable[..., Any]) -> None:
    from dataclasses import replace

    base = load("llama", dtype="float32")
    base.head = replace(base.head, softcap=5.0)
    with pytest.raises(ConfigError, match="caps its logits"):
        prepare(tiny(model_folder("llama"), folder, "run", temperature=0.7), base)
