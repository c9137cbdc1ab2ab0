"""The update that the recipe runs: exact at its start, the same however it is cut, and a climb towards the reward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_model
from peft import PeftModel
from rl_worlds import World, fresh_roles

from tunesmith.models.adapters import save_role
from tunesmith.rollout.experience import observe, packs, padded, sampler_difference
from tunesmith.training.rl_update import UpdateConfig, policy_gradients, split_evenly, value_gradients

Load = Callable[..., Any]


def config(algorithm: str = "ppo", **more: Any) -> UpdateConfig:
    samples = {"num_generations": 1 if algorithm == "ppo" else 4}
    basics = {"max_new_tokens": 5, "lr_scheduler_type": "constant", "learning_rate": 1e-2}
    return UpdateConfig(**{**basics, **samples, "algorithm": algorithm, **more})


def score(rollout: Any) -> float:
    return float(((rollout.ids >= 60) & (rollout.ids < 140)).mean())


@pytest.mark.parametrize("algorithm", ["ppo", "rloo", "grpo"])
def test_first_mini_batch_has_ratio_one_and_no_kl_in_the_reference_kernels(load: Load, algorithm: str) -> None:
    base = load("llama", dtype="float32", kernels="reference")
    world = World(base, fresh_roles(base, value=algorithm == "ppo"), config(algorithm), score)
    rollouts = world.answers(0)
    seen = world.observe(rollouts)
    credit = world.credit(seen, rollouts)
    assert torch.equal(seen.logprobs_BT, seen.reference_BT)
    assert credit.metrics["objective/kl"] == 0.0
    sums = policy_gradients(base, world.roles, seen, credit, [2, 0], world.config, 0.05)
    assert (sums["val/ratio"], sums["policy/approxkl_avg"], sums["policy/clipfrac_avg"]) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_micro_batches_never_change_the_gradients(load: Load, algorithm: str) -> None:
    base = load("llama")
    found = []
    roles = fresh_roles(base, value=algorithm == "ppo", stir=0.1)
    for tokens in (64, 4096):
        settings = config(algorithm, micro_batch_tokens=tokens, entropy_coef=0.1, kl_in="loss", kl_estimator="k3")
        world = World(base, roles, settings, score)
        rollouts = world.answers(0)
        seen = world.observe(rollouts)
        credit = world.credit(seen, rollouts)
        policy_gradients(base, roles, seen, credit, [0, 1, 3], settings, 0.2)
        learning = dict(roles.policy.parameters)
        if roles.value is not None:
            value_gradients(base, roles, seen, credit, [0, 1, 3], settings)
            learning |= roles.value.parameters
        found.append({name: p.grad.clone() for name, p in learning.items() if p.grad is not None})
        for parameter in learning.values():
            parameter.grad = None
    one, many = found
    assert one.keys() == many.keys() and len(one) > 20
    for name in one:
        torch.testing.assert_close(one[name], many[name], rtol=1e-9, atol=1e-12)
    assert any(float(grad.abs().max()) > 1e-4 for grad in one.values())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_old_logprobs_are_those_of_the_distribution_sampled_from(
    load: Load, temperature: float, tmp_path: Path
) -> None:
    base = load("llama")
    world = World(base, fresh_roles(base, stir=0.1), config(temperature=temperature), score)
    rollouts = world.answers(0)
    seen = world.observe(rollouts)
    save_role(base, world.roles.policy, tmp_path)
    peft_model = PeftModel.from_pretrained(build_model("llama").double(), str(tmp_path)).eval()
    for row, rollout in enumerate(rollouts):
        ids = torch.from_numpy(np.concatenate([rollout.prompt_ids, rollout.ids]))
        with torch.no_grad():
            logits = peft_model(ids[None]).logits[0, len(rollout.prompt_ids) - 1 : -1]
        expected = torch.log_softmax(logits / temperature, -1).gather(1, ids[len(rollout.prompt_ids) :, None])[:, 0]
        torch.testing.assert_close(seen.logprobs_BT[row, : len(rollout.ids)], expected, rtol=1e-6, atol=1e-6)
    assert sampler_difference(base, seen, rollouts, "policy", temperature) < 1e-6


@pytest.mark.parametrize("samples", [1, 3])
def test_values_are_those_of_the_state_before_each_token(load: Load, samples: int, tmp_path: Path) -> None:
    base = load("llama")
    world = World(base, fresh_roles(base, stir=0.1), config(num_generations=samples), score)
    rollouts = world.answers(0)
    seen, value = world.observe(rollouts), world.roles.value
    assert value is not None and value.head is not None and seen.values_BT is not None
    save_role(base, replace(value, head=None), tmp_path)
    peft_model = PeftModel.from_pretrained(build_model("llama").double(), str(tmp_path)).eval()
    weight_D = value.head.score.weight.detach()[0].double()
    for row, rollout in enumerate(rollouts):
        ids = torch.from_numpy(np.concatenate([rollout.prompt_ids, rollout.ids]))
        with torch.no_grad():
            states_TD = peft_model(ids[None], output_hidden_states=True).hidden_states[-1][0]
        # The last token of the prompt is the state in which the first token of the answer is chosen.
        expected = (states_TD @ weight_D)[len(rollout.prompt_ids) - 1 : -1]
        torch.testing.assert_close(seen.values_BT[row, : len(rollout.ids)], expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(expected, (states_TD @ weight_D)[len(rollout.prompt_ids) :], rtol=1e-2)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_sampler_says_what_the_trainer_says_in_fp32(load: Load, kind: str) -> None:
    base = load(kind, dtype="float32")
    world = World(base, fresh_roles(base, stir=0.1), config(), score)
    rollouts = world.answers(0)
    seen = world.observe(rollouts)
    assert sampler_difference(base, seen, rollouts, "policy") < 1e-4
    # Control: under another adapter it is not so.
    other = replace(world.roles, policy=replace(world.roles.policy, adapter=None))
    told = observe(base, other, rollouts, num_samples=1, micro_batch_tokens=2048)
    assert sampler_difference(base, told, rollouts, None) > 1e-3


def test_padded_lays_each_answers_numbers_into_its_row() -> None:
    values = torch.arange(1.0, 7.0, requires_grad=True)
    table = padded(values, [2, 1, 3])
    assert table.tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6]]
    (table * torch.tensor([[1.0, 2, 9], [3, 9, 9], [4, 5, 6]])).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [1, 2, 3, 4, 5, 6]


def test_packs_name_the_answers_whose_tokens_they_hold(load: Load) -> None:
    base = load("llama")
    world = World(base, fresh_roles(base), config("rloo"), score)
    seen = world.observe(world.answers(0))
    for rows, packed in packs(seen.examples, seen.num_samples, [3, 1], "policy", 64):
        _, targets, _ = packed.loss_pairs()
        answers = [seen.examples[row].ids[seen.examples[row].loss_weight > 0] for row in rows]
        assert targets.tolist() == np.concatenate(answers).tolist()
        assert {row // 4 for row in rows} <= {1, 3}


@pytest.mark.parametrize("algorithm", ["ppo", "rloo", "grpo"])
def test_every_algorithm_climbs(load: Load, algorithm: str) -> None:
    base = load("llama", dtype="float32")
    # The tiny model's frozen head is so flat that no hidden state could prefer some tokens by much.
    base.head = replace(base.head, scale=8.0)
    settings = config(algorithm, kl_coef=0.0, num_generations=8, num_mini_batches=2)
    world = World(base, fresh_roles(base, value=algorithm == "ppo"), settings, score)
    told = [world.iterate(i, 6) for i in range(6)]
    assert told[-1]["objective/scores"] > told[0]["objective/scores"] + 0.25
    assert told[-1]["objective/kl"] > 0.1


def test_split_evenly() -> None:
    assert split_evenly([5, 1, 2, 4, 3], 2) == [[5, 1], [2, 4, 3]]
    assert split_evenly([1, 2], 5) == [[1], [2]]
