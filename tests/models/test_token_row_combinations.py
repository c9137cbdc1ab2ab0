"""New tokens together with what else a run may do: checkpointing, dropout, several adapters, half precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.extended import add_token_rows
from tunesmith.models.forward import forward, hidden_states
from tunesmith.models.roles import Role
from tunesmith.records import Example, Where
from tunesmith.tokens.extend import choose_tokens, count_words, extend_tokenizer
from tunesmith.tokens.pack import pack

TEXT = "the catheter and the other catheter; a tachycardia, the tachycardia ended. Überdruck, Überdruck!"
OTHER = "quartz and quartzite, quartz and quartzite again; basalt, basalt"


def extended(base: Any, name: str, text: str, *, num: int = 14, rank: int = 4, dtype: str = "float64") -> Role:
    tokens = choose_tokens(count_words([text], base.tokenizer), num, base.tokenizer.get_vocab())
    tokenizer, made_of = extend_tokenizer(base.tokenizer, tokens)
    add_token_rows(base, name, tokenizer, made_of)
    return plain(base, name, rank=rank, dtype=dtype)


def plain(base: Any, name: str, *, rank: int = 4, dtype: str = "float64", dropout: float = 0.2) -> Role:
    role = add_adapter(base, name, AdapterConfig(r=rank, lora_alpha=8, lora_dropout=dropout), seed=1)
    for number, parameter in enumerate(role.parameters.values()):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        parameter.data = (parameter.data.double() + noise.double() * 0.2).to(getattr(torch, dtype))
    return role


def example(base: Any, adapter: str | None, text: str, row_id: int = 0) -> Example:
    ids = np.array(base.tokenizer_of(adapter)(text)["input_ids"], np.int64)
    weight = np.ones(len(ids), np.float32)
    weight[0] = 0.0
    return Example(ids=ids, loss_weight=weight, row_id=row_id, where=Where("t"))


def gradients(base: Any, role: Role, rows: list[Example], **how: Any) -> tuple[float, list[Tensor]]:
    for parameter in role.parameters.values():
        parameter.grad = None
    loss, _ = forward(base, pack(rows, role.adapter), "ce_sum", **how)
    loss.backward()
    return float(loss.detach()), [p.grad.clone() for p in role.parameters.values() if p.grad is not None]


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_checkpointing_and_dropout_leave_the_gradients_of_the_rows(
    load: Callable[..., Any], kind: str, kernels: str
) -> None:
    base = load(kind, kernels=kernels)
    role = extended(base, "default", TEXT)
    rows = [example(base, "default", TEXT), example(base, "default", TEXT[20:], 1)]

    def seed(row_id: int) -> int:
        return 5 + row_id

    kept = gradients(base, role, rows, dropout_seed=seed)
    again = gradients(base, role, rows, dropout_seed=seed, checkpointing=True)
    assert len(kept[1]) == len(role.parameters)
    assert kept[0] == pytest.approx(again[0], rel=1e-12)
    torch.testing.assert_close(kept[1], again[1], rtol=1e-9, atol=1e-11)
    alone = [gradients(base, role, [row], dropout_seed=seed) for row in rows]
    sums = [a + b for a, b in zip(alone[0][1], alone[1][1], strict=True)]
    torch.testing.assert_close(kept[1], sums, rtol=1e-8, atol=1e-10)
    # Control: other seeds, other gradients.
    assert gradients(base, role, rows)[0] != pytest.approx(kept[0], rel=1e-6)


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_adapters_with_and_without_rows_share_a_base_and_change_nothing_for_each_other(
    load: Callable[..., Any], kind: str, kernels: str
) -> None:
    makers: dict[str, Callable[[Any], Role]] = {
        "one": lambda base: extended(base, "one", TEXT),
        "two": lambda base: extended(base, "two", OTHER, num=5, rank=2),
        "none": lambda base: plain(base, "none"),
    }
    shared = load(kind, kernels=kernels)
    roles = {name: make(shared) for name, make in makers.items()}
    for name, text in (("one", TEXT), ("two", OTHER), ("none", TEXT)):
        alone = load(kind, kernels=kernels)
        role = makers[name](alone)
        rows = [example(alone, name, text)]
        assert rows[0].ids.tolist() == example(shared, name, text).ids.tolist()
        expected, found = gradients(alone, role, rows), gradients(shared, roles[name], rows)
        assert expected[0] == pytest.approx(found[0], rel=1e-12)
        torch.testing.assert_close(expected[1], found[1], rtol=1e-10, atol=1e-12)
        for other in set(roles) - {name}:
            assert all(p.grad is None for p in roles[other].parameters.values())
        for parameter in roles[name].parameters.values():
            parameter.grad = None
    # The states of one pack are each adapter's own; only the head cannot be shared.
    mixed = [example(shared, n, t) for n, t in (("one", TEXT), ("two", OTHER), ("none", TEXT))]
    together, at = hidden_states(shared, replace(pack(mixed), adapter_S=("one", "two", "none"))), 0
    for row, name in zip(mixed, ("one", "two", "none"), strict=True):
        own = hidden_states(shared, pack([row], name))
        torch.testing.assert_close(together[at : at + row.num_tokens], own, rtol=1e-9, atol=1e-11)
        at += row.num_tokens
    with pytest.raises(ValueError, match="vocabularies"):
        forward(shared, replace(pack(mixed), adapter_S=("one", "two", "none")), "ce_sum")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_rows_on_a_half_precision_base_learn_in_fp32(load: Callable[..., Any], kind: str, dtype: str) -> None:
    found = {}
    for name in ("float32", dtype):
        base = load(kind, dtype=name)
        role = extended(base, "default", TEXT, dtype="float32")
        # Many rows, so that a sum kept in half precision would show.
        found[name] = gradients(base, role, [example(base, "default", TEXT * 2, i) for i in range(24)])
        assert all(p.dtype == torch.float32 for p in role.parameters.values())
    assert found[dtype][0] == pytest.approx(found["float32"][0], rel=0.05)
    for rounded, exact in zip(found[dtype][1][-1:], found["float32"][1][-1:], strict=True):
        assert rounded.dtype == torch.float32
        assert float(torch.cosine_similarity(rounded.flatten(), exact.flatten(), dim=0)) > 0.98
