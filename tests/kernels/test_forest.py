"""Attention over a forest equals its plain reference: any depth, any lengths, both ways of computing it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tunesmith.kernels import attention
from tunesmith.kernels.attention import AttentionRules, attention_reference, packed_attention, plan_attention
from tunesmith.records import Example, Where
from tunesmith.tokens.pack import ROOT, Packed, pack

RULES = AttentionRules(scale=0.35)


def forest(lengths: Sequence[int], parents: Sequence[int]) -> Packed:
    rows = [
        Example(ids=np.arange(n), loss_weight=np.zeros(n, np.float32), row_id=i, where=Where("t", i))
        for i, n in enumerate(lengths)
    ]
    return pack(rows, parents=parents)


def inputs(num_tokens: int, heads: tuple[int, int] = (4, 2), dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)
    shapes = [(num_tokens, heads[0], 8), (num_tokens, heads[1], 8), (num_tokens, heads[1], 8)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def run(packed: Packed, qkv: Sequence[Tensor]) -> Tensor:
    plan = plan_attention(packed, RULES)
    assert plan.buckets is not None, "this forest was left to the reference"
    return packed_attention(*qkv, plan, RULES)


def gradients(out: Tensor, qkv: Sequence[Tensor]) -> list[Tensor]:
    weighted = (out * torch.arange(out.numel(), dtype=out.dtype).view(out.shape).sin()).sum()
    return list(torch.autograd.grad(weighted, qkv))


def assert_equals_reference(packed: Packed, qkv: Sequence[Tensor], rtol: float, atol: float) -> None:
    ours, theirs = run(packed, qkv), attention_reference(*qkv, packed, RULES)
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
    torch.testing.assert_close(gradients(ours, qkv), gradients(theirs, qkv), rtol=rtol, atol=atol)


@st.composite
def forests(draw: st.DrawFn) -> Packed:
    """Up to nine segments: chains, parents with and without children, several roots, single tokens beside long ones."""
    lengths = draw(st.lists(st.one_of(st.just(1), st.integers(1, 30)), min_size=1, max_size=9))
    return forest(lengths, [draw(st.integers(ROOT, i - 1)) for i in range(len(lengths))])


@settings(max_examples=60, deadline=None)
@given(forests(), st.sampled_from([(4, 2), (3, 3), (3, 1)]), st.booleans())
def test_any_forest_equals_the_reference(packed: Packed, heads: tuple[int, int], by_sdpa: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if by_sdpa:
            patch.setattr(attention, "MATMUL_MAX_TOKENS", 0)
        assert_equals_reference(packed, inputs(packed.num_tokens, heads), rtol=1e-10, atol=1e-10)


CASES = {
    "a prompt with two answers": ([7, 4, 4], [ROOT, 0, 0]),
    "answers of very different lengths": ([5, 1, 40, 3, 39], [ROOT, 0, 0, 0, 0]),
    "three floors, a parent without children": ([4, 3, 2, 5, 6, 1], [ROOT, 0, 1, 2, ROOT, 1]),
    "two trees laid between each other": ([3, 6, 2, 4, 2, 4], [ROOT, ROOT, 0, 1, 0, 1]),
}


@pytest.mark.parametrize("case", CASES)
def test_named_forests_equal_the_reference(case: str) -> None:
    packed = forest(*CASES[case])
    assert_equals_reference(packed, inputs(packed.num_tokens), rtol=1e-10, atol=1e-10)
    assert_equals_reference(packed, inputs(packed.num_tokens, dtype=torch.float32), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("lengths", [(30, 300, 20), (300, 10, 280), (1100, 240, 250)])
def test_long_rows_take_torchs_kernel_and_agree(lengths: tuple[int, int, int]) -> None:
    packed = forest(lengths, [ROOT, 0, 0])
    assert_equals_reference(packed, inputs(packed.num_tokens, dtype=torch.float32), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_backward_pass_is_the_gradient(case: str) -> None:
    lengths, parents = CASES[case]
    packed = forest([min(n, 6) for n in lengths], parents)
    qkv = [x[:, :2, :3].detach().requires_grad_() for x in inputs(packed.num_tokens)]
    assert torch.autograd.gradcheck(lambda *x: run(packed, x), qkv)


def test_a_parents_gradient_is_the_sum_over_its_children_to_the_bit_each_time() -> None:
    packed = forest([20, 9, 8, 9, 3], [ROOT, 0, 0, 0, 0])
    qkv = inputs(packed.num_tokens, dtype=torch.float32)
    first, again = (gradients(run(packed, qkv), qkv) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    only = [torch.zeros(packed.num_tokens, 1, 1) for _ in range(5)]
    for s, mask in enumerate(only):
        mask[packed.start_S[s] : packed.start_S[s] + packed.length_S[s]] = 1
    out = run(packed, qkv)
    parts = [torch.autograd.grad((out * mask).sum(), qkv[1], retain_graph=True)[0][:20] for mask in only]
    whole = torch.autograd.grad(out.sum(), qkv[1])[0][:20]
    assert all(bool(part.any()) for part in parts)
    torch.testing.assert_close(sum(parts), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_mask_off_by_one_is_noticed(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(length: int, num_keys: int, device: torch.device) -> Tensor:
        hidden_LM = torch.ones(length, num_keys, dtype=torch.bool, device=device)
        return hidden_LM.triu_(num_keys - length + 1 + shift)

    monkeypatch.setattr(attention, "_hidden", wrong)
    packed = forest([7, 4, 4], [ROOT, 0, 0])
    with pytest.raises(AssertionError, match="not close"):
        assert_equals_reference(packed, inputs(15), rtol=1e-3, atol=1e-3)


def test_a_wrong_parent_is_noticed() -> None:
    packed = forest([5, 5, 3, 3], [ROOT, ROOT, 0, 1])
    qkv = inputs(16)
    wrong = dataclasses.replace(packed, parent_S=(ROOT, ROOT, 1, 0))
    assert not torch.allclose(run(wrong, qkv), attention_reference(*qkv, packed, RULES))


def test_siblings_and_other_trees_are_not_seen() -> None:
    packed = forest([5, 4, 4, 6, 3], [ROOT, 0, 0, ROOT, 3])
    q, k, v = (x.detach() for x in inputs(22))
    before = run(packed, (q, k, v))
    changed = v.clone()
    changed[5:9] += 100.0
    after = run(packed, (q, k, changed))
    others = torch.ones(22, dtype=torch.bool)
    others[5:9] = False
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[5:9], after[5:9])
    changed = v.clone()
    changed[:5] += 100.0
    after = run(packed, (q, k, changed))
    assert torch.equal(before[13:], after[13:])
    assert bool((before[:13] != after[:13]).any(-1).any(-1).all())


def test_windows_and_caps_of_a_path_longer_than_its_segments_are_left_to_the_reference() -> None:
    packed = forest([6, 5], [ROOT, 0])
    assert plan_attention(packed, AttentionRules(scale=1.0, window=10)).buckets is None
    assert plan_attention(packed, AttentionRules(scale=1.0, window=11)).buckets is not None
    assert plan_attention(packed, AttentionRules(scale=1.0, softcap=2.0)).buckets is None
