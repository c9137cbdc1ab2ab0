"""A forest gives what each of its paths gives alone: log-probabilities, loss and gradients, on every path we have."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.forward import forward, hidden_states
from tunesmith.models.roles import Role
from tunesmith.randomness import generator
from tunesmith.records import Example, Where
from tunesmith.tokens.forest import forest_of
from tunesmith.tokens.pack import ROOT, Packed, pack

# Two trees laid between each other: an inner turn with two answers and one without, and a prompt with two answers.
LENGTHS = (9, 4, 7, 1, 6, 5, 12)
PARENTS = (ROOT, ROOT, 0, 0, 1, 2, 1)
ADAPTERS = ("default", "other", "default", "default", "other", "default", "other")


def segments() -> list[Example]:
    out = []
    for i, n in enumerate(LENGTHS):
        draws = generator(2, "test_rows", i)
        weight = (draws.random(n) < 0.7).astype(np.float32)
        weight[0], weight[-1] = 0.0 if PARENTS[i] == ROOT else 0.5, 1.0
        out.append(Example(ids=draws.integers(3, 260, n), loss_weight=weight, row_id=i, where=Where("t", i)))
    return out


def whole_forest() -> Packed:
    return dataclasses.replace(pack(segments(), None, PARENTS), adapter_S=ADAPTERS)


def paths_alone() -> list[Packed]:
    """Each segment behind its ancestors as one row that trains the segment alone."""
    rows, tree = segments(), pack(segments(), None, PARENTS)
    out = []
    for s, row in enumerate(rows):
        above = [rows[a] for a in tree.ancestors(s)]
        ids = np.concatenate([*(a.ids for a in above), row.ids])
        weight = np.concatenate([*(np.zeros_like(a.loss_weight) for a in above), row.loss_weight])
        alone = Example(ids=ids, loss_weight=weight, row_id=row.row_id, where=row.where)
        out.append(pack([alone], ADAPTERS[s]))
    return out


def two_roles(base: Any) -> list[Role]:
    roles = []
    for number, name in enumerate(("default", "other")):
        role = add_adapter(base, name, AdapterConfig(r=3 + number), seed=number)
        for i, parameter in enumerate(role.parameters.values()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * number + i))
            parameter.data = noise.to(base.dtype) * 0.2
        roles.append(role)
    return roles


def loss_and_gradients(base: Any, roles: list[Role], packs: list[Packed], **how: Any) -> tuple[Tensor, list[Tensor]]:
    parameters = [p for role in roles for p in role.parameters.values()]
    total = torch.stack([forward(base, packed, "ce_sum", **how)[0] for packed in packs]).sum()
    return total.detach(), list(torch.autograd.grad(total, parameters))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gpt2"])
def test_forest_equals_each_path_alone(load: Callable[..., Any], kind: str, checkpointing: bool) -> None:
    base = load(kind)
    assert (base.decoder is None) == (kind == "gpt2")
    roles = two_roles(base)
    together, _ = forward(base, whole_forest(), "token_logprobs", checkpointing=checkpointing)
    alone = torch.cat([forward(base, packed, "reference_logprobs")[0] for packed in paths_alone()])
    torch.testing.assert_close(together.detach(), alone, rtol=1e-10, atol=1e-10)
    loss, gradients = loss_and_gradients(base, roles, [whole_forest()], checkpointing=checkpointing)
    expected_loss, expected = loss_and_gradients(base, roles, paths_alone())
    torch.testing.assert_close(loss, expected_loss, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-10)
    assert all(bool(g.any()) for g in gradients)


def test_forest_on_the_fast_path_equals_the_reference_path(load: Callable[..., Any]) -> None:
    fast, slow = load(), load(kernels="reference")
    assert fast.decoder is not None and slow.decoder is None
    results = [loss_and_gradients(base, two_roles(base), [whole_forest()]) for base in (fast, slow)]
    # transformers makes its rotary angles in fp32, whatever the model is in.
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


def test_fp32_forest_keeps_to_the_paths(load: Callable[..., Any]) -> None:
    base = load(dtype="float32")
    two_roles(base)
    together, _ = forward(base, whole_forest(), "reference_logprobs")
    alone = torch.cat([forward(base, packed, "reference_logprobs")[0] for packed in paths_alone()])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrong", ["parent", "position", "adapter"])
def test_a_forest_laid_wrong_gives_other_numbers(load: Callable[..., Any], wrong: str) -> None:
    base, right = load(), whole_forest()
    two_roles(base)
    changed = {
        "parent": {"parent_S": (ROOT, ROOT, 0, 2, 1, 0, 1)},
        "position": {"positions_T": torch.cat([torch.arange(n) for n in LENGTHS])},
        "adapter": {"adapter_S": ("default",) * len(LENGTHS)},
    }[wrong]
    ours, _ = forward(base, right, "reference_logprobs")
    theirs, _ = forward(base, dataclasses.replace(right, **changed), "reference_logprobs")
    assert not torch.allclose(ours, theirs, atol=1e-3)


def test_answers_of_one_prompt_equal_whole_rows(load: Callable[..., Any]) -> None:
    base = load("qwen3")
    roles = two_roles(base)[:1]
    prompts = [np.arange(3, 3 + n) for n in (11, 6)]
    rows = []
    for i, prompt in enumerate(prompts):
        answers = [generator(5, "test_answers", i, k).integers(3, 260, 4 + 3 * k) for k in range(3)]
        weights = [np.r_[np.zeros(len(prompt)), np.ones(len(a))].astype(np.float32) for a in answers]
        rows.append(
            [
                Example(ids=np.r_[prompt, a], loss_weight=w, row_id=3 * i + k, where=Where("t", i))
                for k, (a, w) in enumerate(zip(answers, weights, strict=True))
            ]
        )
    shared, parents, _ = forest_of(rows)
    whole = pack([row for group in rows for row in group], "default")
    tree = pack(shared, "default", parents)
    assert whole.num_tokens - tree.num_tokens == 2 * (11 + 6)
    ours, theirs = (loss_and_gradients(base, roles, [packed]) for packed in (tree, whole))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    states = hidden_states(base, tree)
    torch.testing.assert_close(states[:11], hidden_states(base, whole)[:11], rtol=1e-10, atol=1e-10)
