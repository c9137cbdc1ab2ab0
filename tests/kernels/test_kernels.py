"""Every kernel equals its plain reference in fp64, passes gradcheck, and a broken one is noticed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tunesmith.kernels import elementwise
from tunesmith.kernels.attention import AttentionRules, attention_reference, packed_attention, plan_attention
from tunesmith.kernels.frozen import DenseWeight, TransposedWeight, frozen_linear
from tunesmith.kernels.head_loss import (
    Head,
    ce_sum,
    ce_sum_reference,
    logits_of,
    reference_logprobs,
    target_logprobs,
    token_logprobs,
)
from tunesmith.kernels.lora import dropout_rows, lora_group, lora_linear, lora_linear_reference
from tunesmith.records import Example, Where
from tunesmith.tokens.pack import Packed, pack


def randn(*shape: int, seed: int = 0, grad: bool = False, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_(grad)


def roots(*lengths: int, parents: list[int] | None = None) -> Packed:
    rows = [
        Example(ids=np.arange(n), loss_weight=np.zeros(n, np.float32), row_id=i, where=Where("t", i))
        for i, n in enumerate(lengths)
    ]
    return pack(rows, parents=parents)


def gradients(out: Tensor, *inputs: Tensor) -> list[Tensor]:
    weighted = (out * torch.arange(out.numel()).view(out.shape).sin()).sum()
    return list(torch.autograd.grad(weighted, inputs, retain_graph=True))


@pytest.mark.parametrize("transposed", [False, True])
def test_lora_linear_equals_reference_and_passes_gradcheck(transposed: bool) -> None:
    weight = randn(7, 5)
    frozen = TransposedWeight(weight.T.contiguous()) if transposed else DenseWeight(weight)
    x, a, b = randn(4, 5, grad=True), randn(3, 5, seed=1, grad=True), randn(7, 3, seed=2, grad=True)
    ours, theirs = lora_linear(x, frozen, a, b, 0.7), lora_linear_reference(x, frozen, a, b, 0.7)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(ours, x, a, b), gradients(theirs, x, a, b), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *t: lora_linear(t[0], frozen, t[1], t[2], 0.7), (x, a, b))
    assert torch.autograd.gradcheck(lambda t: frozen_linear(t, frozen), (x,))
    # Negative control: without the scale the values differ.
    assert not torch.allclose(ours, lora_linear(x, frozen, a, b, 1.0))


def test_lora_group_equals_its_members_and_passes_gradcheck() -> None:
    widths, ranks, scalings = (7, 3, 3), (3, 2, 1), (0.7, 0.7, 1.3)
    weights = [randn(n, 5, seed=n + i) for i, n in enumerate(widths)]
    frozen = [DenseWeight(weights[0]), TransposedWeight(weights[1].T.contiguous()), DenseWeight(weights[2])]
    x = randn(4, 5, grad=True)
    a_list = [randn(r, 5, seed=10 + i, grad=True) for i, r in enumerate(ranks)]
    b_list = [randn(n, r, seed=20 + i, grad=True) for i, (n, r) in enumerate(zip(widths, ranks, strict=True))]
    together = lora_group(x, frozen, a_list, b_list, scalings)
    alone = [lora_linear_reference(x, *parts) for parts in zip(frozen, a_list, b_list, scalings, strict=True)]
    inputs = (x, *a_list, *b_list)
    ours, theirs = torch.cat(together, 1), torch.cat(alone, 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(ours, *inputs), gradients(theirs, *inputs), rtol=1e-11, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *t: lora_group(t[0], frozen, t[1:4], t[4:], scalings), inputs)
    # Negative control: with two members' scales exchanged the values differ.
    assert not torch.allclose(ours, torch.cat(lora_group(x, frozen, a_list, b_list, (1.3, 0.7, 0.7)), 1))


def test_lora_dropout_feeds_only_the_low_rank_branch() -> None:
    frozen = DenseWeight(randn(7, 5))
    x, a, b = randn(4, 5, grad=True), randn(3, 5, seed=1, grad=True), randn(7, 3, seed=2, grad=True)
    dropped = dropout_rows(x, 0.5, [11, 12], (1, 3), site=2)
    ours = lora_linear(x, frozen, a, b, 0.7, dropped)
    theirs = frozen.matmul(x) + 0.7 * (dropped @ a.T) @ b.T
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, x, a, b), gradients(theirs, x, a, b))


def test_dropout_mask_depends_on_the_row_not_on_the_pack() -> None:
    x = torch.ones(5, 64)
    together = dropout_rows(x, 0.3, [5, 9], (2, 3), site=0)
    alone = dropout_rows(x[2:], 0.3, [9], (3,), site=0)
    assert torch.equal(together[2:], alone)
    assert not torch.equal(together[2:], dropout_rows(x[2:], 0.3, [9], (3,), site=1))
    share = float((dropout_rows(torch.ones(500, 64), 0.3, [1], (500,), 0) == 0).float().mean())
    assert abs(share - 0.3) < 0.02


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("weight_grad", ["none", "rows", "full"])
def test_ce_sum_equals_reference(softcap: float | None, weight_grad: str) -> None:
    hidden, weight = randn(300, 6, grad=True), randn(11, 6, seed=3, grad=True)
    targets = torch.arange(300) % 11
    weights = randn(300, seed=5).abs()
    head = Head(weight, None, softcap, 0.5)
    rows = torch.tensor([2, 7]) if weight_grad == "rows" else None
    ours = ce_sum(hidden, targets, weights, head, weight_grad, rows)  # type: ignore[arg-type]
    theirs = ce_sum_reference(hidden, targets, weights, head)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-10)
    expected_hidden, expected_weight = torch.autograd.grad(3 * theirs, (hidden, weight))
    if weight_grad == "none":
        (got,) = torch.autograd.grad(3 * ours, (hidden,))
        assert torch.autograd.grad(ce_sum(hidden, targets, weights, head), (weight,), allow_unused=True) == (None,)
    else:
        got, got_weight = torch.autograd.grad(3 * ours, (hidden, weight))
        if rows is not None:
            kept = torch.zeros_like(expected_weight)
            kept[rows] = expected_weight[rows]
            expected_weight = kept
        torch.testing.assert_close(got_weight, expected_weight, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got, expected_hidden, rtol=1e-10, atol=1e-10)


def test_token_logprobs_equal_log_softmax_with_gradients() -> None:
    hidden, weight = randn(200, 6, grad=True), randn(11, 6, seed=3, grad=True)
    targets, head = torch.arange(200) % 11, Head(weight, None, 4.0, 1.0)
    logprobs, entropy = token_logprobs(hidden, targets, head, "full")
    full = torch.log_softmax(logits_of(hidden, head), -1)
    torch.testing.assert_close(logprobs, full.gather(1, targets[:, None]).squeeze(1))
    torch.testing.assert_close(entropy, -(full.exp() * full).sum(-1))
    mix = lambda lp, e: (lp * targets).sum() - 0.3 * (e * e).sum()
    ours = torch.autograd.grad(mix(logprobs, entropy), (hidden, weight))
    expected = torch.autograd.grad(
        mix(full.gather(1, targets[:, None]).squeeze(1), -(full.exp() * full).sum(-1)), (hidden, weight)
    )
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(reference_logprobs(hidden, targets, head)[0], logprobs.detach())


@pytest.mark.parametrize(("softcap", "scale"), [(None, 1.0), (3.0, 0.5)])
def test_target_logprobs_make_their_gradient_in_the_forward_pass(softcap: float | None, scale: float) -> None:
    # More rows than a chunk holds.
    hidden, weight = randn(300, 6, grad=True), randn(11, 6, seed=3)
    targets, head = torch.arange(300) % 11, Head(weight, randn(11, seed=9), softcap, scale)
    ours = target_logprobs(hidden, targets, head)
    theirs = torch.log_softmax(logits_of(hidden, head), -1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    # What becomes of a log-probability need not be linear.
    (got,) = torch.autograd.grad(torch.nn.functional.softplus(-0.3 * ours.view(3, 100).sum(1)).sum(), hidden)
    (expected,) = torch.autograd.grad(torch.nn.functional.softplus(-0.3 * theirs.view(3, 100).sum(1)).sum(), hidden)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    few = randn(5, 6, seed=2, grad=True)
    assert torch.autograd.gradcheck(lambda h: target_logprobs(h, targets[:5], head), (few,))
    with torch.no_grad():
        assert torch.equal(target_logprobs(hidden, targets, head), ours.detach())
    # Negative control: the gradient of another sum is another one.
    assert not torch.allclose(got, torch.autograd.grad(target_logprobs(hidden, targets, head).sum(), hidden)[0])


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("used", [0, 1])
def test_either_output_of_token_logprobs_may_be_used_alone(used: int, softcap: float | None) -> None:
    hidden, weight = randn(30, 6, grad=True), randn(11, 6, seed=3)
    targets, head = torch.arange(30) % 11, Head(weight, None, softcap, 1.0)
    full = torch.log_softmax(logits_of(hidden, head), -1)
    theirs = (full.gather(1, targets[:, None]).squeeze(1), -(full.exp() * full).sum(-1))[used]
    ours = token_logprobs(hidden, targets, head)[used]
    torch.testing.assert_close(gradients(ours, hidden), gradients(theirs, hidden), rtol=1e-9, atol=1e-10)


def test_elementwise_kernels_equal_references() -> None:
    x, w = randn(5, 8, grad=True), randn(8, seed=1, grad=True)
    pairs = [
        (elementwise.rms_norm(x, w, 1e-5), elementwise.rms_norm_reference(x, w, 1e-5), (x, w)),
    ]
    q, angle = randn(5, 3, 8, grad=True), randn(5, 4, seed=4)
    cos, sin = torch.cat((angle, angle), -1).cos(), torch.cat((angle, angle), -1).sin()
    pairs.append((elementwise.rope(q, cos, sin), elementwise.rope_reference(q, cos, sin), (q,)))  # type: ignore[arg-type]
    gate, up = randn(5, 6, grad=True), randn(5, 6, seed=8, grad=True)
    pairs.append((elementwise.swiglu(gate, up), elementwise.swiglu_reference(gate, up), (gate, up)))
    for ours, theirs, inputs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(gradients(ours, *inputs), gradients(theirs, *inputs), rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        # Without gradients they go another way, to the same bits.
        again = (elementwise.rms_norm(x, w, 1e-5), elementwise.rope(q, cos, sin), elementwise.swiglu(gate, up))
    assert all(torch.equal(one, ours) for one, (ours, _, _) in zip(again, pairs, strict=True))
    assert torch.autograd.gradcheck(lambda a, b: elementwise.rms_norm(a, b, 1e-5), (x, w))
    assert torch.autograd.gradcheck(lambda a: elementwise.rope(a, cos, sin), (q,))
    assert torch.autograd.gradcheck(elementwise.swiglu, (gate, up))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.sampled_from([(4, 2), (3, 3), (2, 1)]))
def test_packed_attention_equals_reference(lengths: list[int], heads: tuple[int, int]) -> None:
    packed, total = roots(*lengths), sum(lengths)
    q, k = randn(total, heads[0], 8, grad=True), randn(total, heads[1], 8, seed=1, grad=True)
    v, rules = randn(total, heads[1], 8, seed=2, grad=True), AttentionRules(scale=0.35)
    ours = packed_attention(q, k, v, plan_attention(packed, rules), rules)
    theirs = attention_reference(q, k, v, packed, rules)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients(ours, q, k, v), gradients(theirs, q, k, v), rtol=1e-8, atol=1e-10)


def test_padding_of_a_bucket_adds_nothing_to_a_gradient() -> None:
    packed, rules = roots(9, 8, 7, 9), AttentionRules(scale=0.35)
    buckets = plan_attention(packed, rules).buckets
    assert buckets is not None and len(buckets.padding_N) == 3 and not buckets.in_order
    assert buckets.gather_P[buckets.place_T].tolist() == list(range(33))
    alone = plan_attention(roots(9), rules).buckets
    assert alone is not None and alone.in_order and not len(alone.padding_N)
    q, k, v = (randn(33, h, 8, seed=h, grad=True) for h in (4, 2, 2))
    out = packed_attention(q, k, v, plan_attention(packed, rules), rules)
    theirs = attention_reference(q, k, v, packed, rules)
    torch.testing.assert_close(gradients(out, q, k, v), gradients(theirs, q, k, v), rtol=1e-9, atol=1e-11)


def test_long_rows_take_flash_and_still_agree() -> None:
    packed, rules = roots(300, 20), AttentionRules(scale=0.35)
    q, k, v = (randn(320, h, 16, seed=h, grad=True, dtype=torch.float32) for h in (4, 2, 2))
    ours = packed_attention(q, k, v, plan_attention(packed, rules), rules)
    theirs = attention_reference(q, k, v, packed, rules)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients(ours, q, k, v), gradients(theirs, q, k, v), rtol=1e-3, atol=1e-4)


def test_segments_do_not_see_each_other() -> None:
    packed, rules = roots(6, 5), AttentionRules(scale=0.35)
    q, k, v = (randn(11, h, 8, seed=h) for h in (4, 2, 2))
    before = packed_attention(q, k, v, plan_attention(packed, rules), rules)
    v2 = v.clone()
    v2[:6] += 100.0
    after = packed_attention(q, k, v2, plan_attention(packed, rules), rules)
    assert torch.equal(before[6:], after[6:])
    assert not torch.equal(before[:6], after[:6])


@pytest.mark.parametrize("rules", [AttentionRules(scale=0.3, window=3), AttentionRules(scale=0.3, softcap=2.0)])
def test_forest_equals_each_path_alone(rules: AttentionRules) -> None:
    packed = roots(4, 3, 2, 5, parents=[-1, 0, 0, 2])
    q, k, v = (randn(14, h, 8, seed=h) for h in (4, 2, 2))
    out = packed_attention(q, k, v, plan_attention(packed, rules), rules)
    for path in ([0, 1], [0, 2, 3]):
        index = torch.cat([torch.arange(packed.start_S[s], packed.start_S[s] + packed.length_S[s]) for s in path])
        assert packed.positions_T[index].tolist() == list(range(len(index)))
        alone = attention_reference(q[index], k[index], v[index], roots(len(index)), rules)
        tail = packed.length_S[path[-1]]
        torch.testing.assert_close(out[index[-tail:]], alone[-tail:], rtol=1e-10, atol=1e-10)
