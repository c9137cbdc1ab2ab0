"""head.c against log-softmax in fp64, and the head's functions that rest on it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tunesmith.kernels import head_loss
from tunesmith.kernels import native_elementwise as native
from tunesmith.kernels.head_loss import Head, ce_sum, ce_sum_reference, target_logprobs, token_logprobs
from tunesmith.kernels.native import library

pytestmark = pytest.mark.skipif(isinstance(library(), str), reason=f"no compiled kernels: {library()}")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-3}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("words", [1, 5, 16, 31, 300])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_logprobs_and_gradients_are_those_of_log_softmax(dtype: torch.dtype, words: int, scale: float) -> None:
    logits, targets = (drawn(7, words) * 6).to(dtype), torch.arange(7) * 13 % words
    weights = torch.tensor([1.0, 0.5, 0.0, -1.0, 2.0, 1.0, 1.0])
    wide = logits.double().requires_grad_()
    wanted = torch.log_softmax(wide * scale, -1).gather(1, targets[:, None]).squeeze(1)
    (wanted_grad,) = torch.autograd.grad(-(wanted * weights).sum(), wide)
    plain = native.target_logprobs_(logits.clone(), targets, weights, scale, False)
    found = native.target_logprobs_(logits, targets, weights, scale, True)
    assert torch.equal(plain, found)
    torch.testing.assert_close(found.double(), wanted.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.double(), wanted_grad, rtol=TOLERANCE[dtype], atol=1e-6)
    if words > 1:
        # The control: the neighbour's word.
        others = torch.log_softmax(wide * scale, -1).gather(1, ((targets + 1) % words)[:, None]).squeeze(1)
        assert not torch.allclose(found.double(), others.detach(), rtol=1e-2, atol=1e-2)


def test_huge_logits_and_what_is_no_number() -> None:
    logits = torch.tensor([[3e38, -3e38, 0.0, 1.0], [1.0, float("nan"), 0.0, 0.0], [0.0, -float("inf"), 0.0, 0.0]])
    found = native.target_logprobs_(logits, torch.tensor([0, 0, 2]), torch.ones(3), 1.0, True)
    assert found[0] == 0.0 and logits[0].tolist() == [0.0, 0.0, 0.0, 0.0]
    assert bool(found[1].isnan()) and bool(logits[1].isnan().all())
    assert found[2].item() == pytest.approx(-1.0986123) and logits[2, 1] == 0.0
    for target in (-1, 4):
        with pytest.raises(IndexError, match="outside the vocabulary of 4"):
            native.target_logprobs_(torch.zeros(1, 4), torch.tensor([target]), torch.ones(1), 1.0, False)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_heads_functions_rest_on_it_and_agree(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_loss, "CHUNK_ROWS", 4)
    head = Head(drawn(37, 12, seed=1).to(dtype), scale=0.5)
    hidden, targets = drawn(11, 12).to(dtype).requires_grad_(), torch.arange(11) * 3
    weights, called = torch.rand(11, generator=torch.Generator().manual_seed(2)), []
    real = native.target_logprobs_
    monkeypatch.setattr(native, "target_logprobs_", lambda *given: called.append(1) or real(*given))
    loss = ce_sum(hidden, targets, weights, head)
    scores = target_logprobs(hidden, targets, head)
    assert len(called) == 6
    wide = hidden.detach().double().requires_grad_()
    wide_head = Head(head.weight_VD.double(), scale=0.5)
    wanted = ce_sum_reference(wide, targets, weights.double(), wide_head)
    torch.testing.assert_close(loss.double(), wanted.float().double(), rtol=TOLERANCE[dtype], atol=0)
    wanted_scores, _ = token_logprobs(wide, targets, wide_head)
    torch.testing.assert_close(scores.double(), wanted_scores, rtol=TOLERANCE[dtype], atol=2e-2)
    for ours, theirs in ((loss, wanted), (scores.square().sum(), wanted_scores.square().sum())):
        (mine,), (right,) = torch.autograd.grad(ours, hidden), torch.autograd.grad(theirs, wide)
        gap = float((mine.double() - right).abs().max() / right.abs().max())
        assert gap < 3 * TOLERANCE[dtype]


def test_a_bias_or_a_cap_goes_by_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "target_logprobs_", lambda *given: pytest.fail("it knows neither"))
    hidden, targets, weights = drawn(5, 8), torch.arange(5), torch.ones(5)
    for head in (Head(drawn(9, 8, seed=1), bias_V=drawn(9, seed=2)), Head(drawn(9, 8, seed=1), softcap=3.0)):
        torch.testing.assert_close(
            ce_sum(hidden, targets, weights, head), ce_sum_reference(hidden, targets, weights, head)
        )
