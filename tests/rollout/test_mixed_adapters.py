"""Several adapters answer in one batch on one base, each as it would alone; taking another one copies no weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tunesmith.kernels.frozen import DenseWeight
from tunesmith.models.adapters import AdapterConfig, adapter_digest, add_adapter
from tunesmith.models.decoding import start_decoding
from tunesmith.models.extended import add_token_rows
from tunesmith.models.roles import Base
from tunesmith.randomness import generator
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling
from tunesmith.tokens.pack import distinct_rows


def with_adapters(base: Base, *names: str, **methods: str) -> Base:
    """Adapters far from their start: LoRA by name alone, others as name=method."""
    for number, (name, method) in enumerate({**dict.fromkeys(names, "lora"), **methods}.items()):
        config = AdapterConfig(r=2) if method == "lora" else AdapterConfig(method=method)
        role = add_adapter(base, name, config, seed=number)
        for i, parameter in enumerate(role.parameters.values()):
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * number + i))
            parameter.data += drawn.to(parameter.dtype) * 0.3
    return base


def asked(*lengths: int) -> list[Prompt]:
    return [Prompt(ids=generator(5, "mixed", n).integers(3, 260, n), row_id=n) for n in lengths]


@pytest.mark.parametrize(
    ("kind", "kernels"), [("llama", "auto"), ("mistral", "auto"), ("gpt2", "auto"), ("llama", "reference")]
)
def test_a_mixed_batch_gives_what_each_adapter_gives_alone(load: Callable[..., Any], kind: str, kernels: str) -> None:
    base = with_adapters(load(kind, "float32" if kernels == "reference" else "float64", kernels), "first", "second")
    # Interleaved, so that no order of rows is that of the adapters, and sampled, so that rows end one by one.
    prompts = [prompt for prompt in asked(9, 5) for _ in range(3)]
    adapters = ["first", None, "second"] * 2
    for sampling in (Sampling(max_new_tokens=4), Sampling(max_new_tokens=9, temperature=2.0, seed=1)):
        mixed = LocalGenerator(base).generate_mixed(prompts, sampling, adapters)
        alone = [
            LocalGenerator(base).generate([prompt], sampling, adapter)[0]
            for prompt, adapter in zip(prompts, adapters, strict=True)
        ]
        assert [r.ids.tolist() for r in mixed] == [r.ids.tolist() for r in alone]
        assert [r.adapter_digest for r in mixed] == [adapter_digest(base, adapter) for adapter in adapters]
        for one, other in zip(mixed, alone, strict=True):
            if kernels == "reference":
                assert one.logprobs.tobytes() == other.logprobs.tobytes()
            np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=1e-5, atol=1e-6)
        # A row that another adapter answered would be seen: no two answer a prompt alike.
        for row in (0, 3):
            assert len({tuple(r.ids.tolist()) for r in mixed[row : row + 3]}) == 3


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_methods_of_all_kinds_answer_in_one_batch(load: Callable[..., Any], kind: str) -> None:
    own = {"narrow": "bottleneck", "vectors": "ia3", "before": "prefix", "soft": "prompt"}
    base = with_adapters(load(kind), "low", "other", **own)
    adapters = [None, *base.methods]
    prompts = [prompt for prompt in asked(9, 5) for _ in adapters]
    sampling = Sampling(max_new_tokens=5)
    mixed = LocalGenerator(base).generate_mixed(prompts, sampling, adapters * 2)
    for prompt, adapter, rollout in zip(prompts, adapters * 2, mixed, strict=True):
        (alone,) = LocalGenerator(base).generate([prompt], sampling, adapter)
        assert rollout.ids.tolist() == alone.ids.tolist(), adapter
        np.testing.assert_allclose(rollout.logprobs, alone.logprobs, rtol=1e-5, atol=1e-6)
    assert len({r.logprobs.tobytes() for r in mixed}) == len(mixed)


def test_the_base_is_read_once_a_step_whatever_the_number_of_adapters(
    load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, heights = with_adapters(load(), "first", "second", "third"), list[int]()
    product = DenseWeight.matmul

    def counted(weight: DenseWeight, x_TI: torch.Tensor) -> torch.Tensor:
        heights.append(len(x_TI))
        return product(weight, x_TI)

    monkeypatch.setattr(DenseWeight, "matmul", counted)
    adapters = ["first", None, "second", "third"]
    state, _ = start_decoding(base, [prompt.ids for prompt in asked(5, 6, 7, 8)], 2, adapters)
    heights.clear()
    state.step(torch.tensor([5, 6, 7, 8]))
    assert heights == [4] * 14


def test_an_adapter_with_new_tokens_answers_beside_others(load: Callable[..., Any]) -> None:
    base = load()
    tokenizer = base.tokenizer
    add_token_rows(base, "wide", tokenizer, {272: [5, 9]})
    with_adapters(base, "plain", "wide")
    prompts, adapters = [p for p in asked(6, 8) for _ in range(2)], ["wide", "plain"] * 2
    sampling = Sampling(max_new_tokens=6)
    mixed = LocalGenerator(base).generate_mixed(prompts, sampling, adapters)
    for prompt, adapter, rollout in zip(prompts, adapters, mixed, strict=True):
        (alone,) = LocalGenerator(base).generate([prompt], sampling, adapter)
        assert rollout.ids.tolist() == alone.ids.tolist()


def test_rows_share_a_prefill_only_under_one_adapter(load: Callable[..., Any]) -> None:
    one, other = (prompt.ids for prompt in asked(7, 4))
    firsts, of_row = distinct_rows([one, other, one, one, other], ["a", "b", "b", "a", "a"])
    assert firsts == [0, 4, 1, 2] and of_row == [0, 2, 3, 0, 1]
    base = with_adapters(load(), "first", "second")
    local = LocalGenerator(base)
    prompts = [Prompt(ids=one, row_id=0, sample=s) for s in range(4)]
    local.generate_mixed(prompts, Sampling(max_new_tokens=1, temperature=1.0), ["first", "second"] * 2)
    assert local.tokens.prefilled == 2 * len(one)


class Allocations(TorchDispatchMode):
    """The size in bytes of every storage that an operation makes anew."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in given:
                self.num_bytes.append(x.untyped_storage().nbytes())
        return out


def test_another_adapter_takes_over_without_a_copy_of_any_base_weight(load: Callable[..., Any]) -> None:
    base = with_adapters(load(), "first", "second")
    weights = {name: p for name, p in base.model.named_parameters() if "lora_" not in name}
    before = {name: (p.data_ptr(), p._version) for name, p in weights.items()}
    smallest = min(p.untyped_storage().nbytes() for p in weights.values() if p.dim() == 2)
    (prompt,), local = asked(4), LocalGenerator(base)
    with Allocations() as made:
        rollouts = [
            local.generate([prompt], Sampling(max_new_tokens=4), adapter)[0]
            for adapter in ("first", "second", None, "first")
        ]
    answers = [rollout.ids.tolist() for rollout in rollouts]
    assert answers[0] == answers[3] and answers[0] != answers[1] != answers[2]
    assert made.num_bytes and max(made.num_bytes) < smallest
    assert {name: (p.data_ptr(), p._version) for name, p in weights.items()} == before
    # The measure sees a copy where there is one.
    with Allocations() as copied:
        next(p for p in weights.values() if p.dim() == 2).clone()
    assert max(copied.num_bytes) >= smallest
