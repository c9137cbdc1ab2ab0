"""attention.c against its definition in fp64: any forest, heads, widths, windows, fp32 and bf16; whom it serves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.test_forest import CASES, forest, forests
from tunesmith.kernels import attention, native
from tunesmith.kernels.attention import AttentionRules, attention_reference, packed_attention, plan_attention
from tunesmith.kernels.native import library
from tunesmith.kernels.native_attention import plan_trees, tree_attention
from tunesmith.models import load as load_module
from tunesmith.models.load import ModelConfig
from tunesmith.tokens.pack import ROOT, Packed

pytestmark = pytest.mark.skipif(isinstance(library(), str), reason=f"no compiled kernels: {library()}")
# Of the largest number: fp32's rounding of some hundred terms; bf16's of the probabilities and of what is given back.
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 3e-2}
HEADS = [(4, 2), (3, 3), (3, 1), (9, 3), (1, 1)]
WIDTHS = [1, 3, 8, 16, 24, 64, 80]


def drawn(packed: Packed, heads: tuple[int, int], width: int, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v and the gradient of what comes out, in fp64 with no more digits than ``dtype`` has."""
    generator = torch.Generator().manual_seed(packed.num_tokens)
    shapes = [(packed.num_tokens, h, width) for h in (heads[0], heads[1], heads[1], heads[0])]
    return [torch.randn(shape, generator=generator).to(dtype).double() for shape in shapes]


def results(attend: Callable[..., Tensor], numbers: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """What attention gives and the gradients of q, k, v."""
    qkv = [x.to(dtype).requires_grad_() for x in numbers[:3]]
    out = attend(*qkv)
    return [out.detach(), *torch.autograd.grad(out, qkv, numbers[3].to(dtype))]


def far(
    packed: Packed, heads: tuple[int, int], width: int, dtype: torch.dtype, window: int | None = None, **ours: Any
) -> list[float]:
    """How far what is compiled is from the definition, of each result's largest number.

    ours: another pack or window than the definition gets, for controls.
    """
    rules, numbers = AttentionRules(scale=width**-0.5, window=window), drawn(packed, heads, width, dtype)
    trees, our_window = plan_trees(ours.get("packed_of_ours", packed)), ours.get("window_of_ours", window)
    found = results(lambda *qkv: tree_attention(*qkv, trees, rules.scale, our_window), numbers, dtype)
    theirs = results(lambda *qkv: attention_reference(*qkv, packed, rules), numbers, torch.float64)
    # A gradient of rounding alone has no scale of its own: one key gives the queries none.
    pairs = zip(found, theirs, strict=True)
    return [float((a.double() - b).abs().max() / b.abs().max().clamp_min(1.0)) for a, b in pairs]


@settings(max_examples=80, deadline=None)
@given(
    forests(),
    st.sampled_from(HEADS),
    st.sampled_from(WIDTHS),
    st.sampled_from([None, 1, 5, 20]),
    st.sampled_from(list(TOLERANCE)),
)
def test_any_forest_equals_the_definition(
    packed: Packed, heads: tuple[int, int], width: int, window: int | None, dtype: torch.dtype
) -> None:
    assert max(far(packed, heads, width, dtype, window=window)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("window", [None, 64, 65, 100])
@pytest.mark.parametrize("lengths", [(64, 65, 130), (200, 63, 129, 1), (300,)])
def test_rows_of_many_blocks_equal_the_definition(
    lengths: tuple[int, ...], window: int | None, dtype: torch.dtype
) -> None:
    for parents in ([ROOT] * len(lengths), [ROOT, *range(len(lengths) - 1)]):
        assert max(far(forest(lengths, parents), (6, 2), 64, dtype, window=window)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_wrong_parent_or_window_is_far(dtype: torch.dtype) -> None:
    packed = forest([5, 5, 3, 3], [ROOT, ROOT, 0, 1])
    assert max(far(packed, (4, 2), 8, dtype)) < TOLERANCE[dtype]
    others = dataclasses.replace(packed, parent_S=(ROOT, ROOT, 1, 0))
    assert max(far(packed, (4, 2), 8, dtype, packed_of_ours=others)) > 4 * TOLERANCE[dtype]
    assert max(far(packed, (4, 2), 8, dtype, window_of_ours=4)) > 4 * TOLERANCE[dtype]
    assert max(far(packed, (4, 2), 8, dtype, window=3, window_of_ours=4)) > 4 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_bits_do_not_depend_on_threads_nor_on_what_other_trees_hold(dtype: torch.dtype) -> None:
    lengths, parents = [70, 9, 130, 5, 40, 12], [ROOT, 0, ROOT, 2, ROOT, ROOT]
    packed, before = forest(lengths, parents), torch.get_num_threads()
    numbers, found = drawn(packed, (6, 3), 32, dtype), {}
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            found[threads] = results(lambda *qkv: tree_attention(*qkv, plan_trees(packed), 0.3, None), numbers, dtype)
        finally:
            torch.set_num_threads(before)
    for threads in (2, 5):
        assert all(torch.equal(a, b) for a, b in zip(found[1], found[threads], strict=True))
    changed = [x.clone() for x in numbers]
    for x in changed:
        x[79:214] += 1.0
    others = [*range(79), *range(214, packed.num_tokens)]
    again = results(lambda *qkv: tree_attention(*qkv, plan_trees(packed), 0.3, None), changed, dtype)
    assert all(torch.equal(a[others], b[others]) for a, b in zip(again, found[2], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(again, found[2], strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_shows_in_its_row_and_no_other(dtype: torch.dtype, which: int, wrong: float) -> None:
    packed = forest([70, 80, 5], [ROOT] * 3)
    numbers = drawn(packed, (2, 1), 8, dtype)
    numbers[which][80] = wrong
    found = results(lambda *qkv: tree_attention(*qkv, plan_trees(packed), 0.3, None), numbers, dtype)
    others = [*range(70), *range(150, 155)]
    assert all(bool(x[others].isfinite().all()) for x in found)
    assert not bool(found[0][80].isfinite().any())


def test_huge_scores_are_softened_as_torch_does_it() -> None:
    packed = forest([90], [ROOT])
    q, k, v, g = drawn(packed, (2, 1), 8, torch.float32)
    numbers = [q * 60, k * 60, v, g]
    ours = results(lambda *qkv: tree_attention(*qkv, plan_trees(packed), 1.0, None), numbers, torch.float32)
    theirs = results(lambda *qkv: attention_reference(*qkv, packed, AttentionRules(scale=1.0)), numbers, torch.float64)
    torch.testing.assert_close(ours[0].double(), theirs[0], rtol=1e-2, atol=1e-2)
    assert all(bool(x.isfinite().all()) for x in ours)


def test_nothing_of_a_rows_square_is_kept() -> None:
    packed = forest([300, 280], [ROOT, ROOT])
    q, k, v, _ = (x.float().requires_grad_() for x in drawn(packed, (4, 2), 16, torch.float32))
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        tree_attention(q, k, v, plan_trees(packed), 0.25, None)
    assert sum(sizes) == q.numel() * 2 + k.numel() * 2 + 4 * packed.num_tokens


def test_it_serves_fp32_and_bf16_and_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, rules = forest(*CASES["a prompt with two answers"]), AttentionRules(scale=0.35)
    served: list[torch.dtype] = []

    def noted(q: Tensor, *rest: Any) -> Tensor:
        served.append(q.dtype)
        return tree_attention(q, *rest)

    monkeypatch.setattr(attention, "tree_attention", noted)
    numbers = drawn(packed, (4, 2), 8, torch.float32)[:3]
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        packed_attention(*(x.to(dtype) for x in numbers), plan_attention(packed, rules), rules)
    assert served == [torch.float32, torch.bfloat16]
    capped = AttentionRules(scale=0.35, softcap=2.0)
    assert plan_attention(packed, capped).trees is None
    monkeypatch.setattr(native, "available", lambda: False)
    plain = packed_attention(*(x.float() for x in numbers), plan_attention(packed, rules), rules)
    assert served == [torch.float32, torch.bfloat16]
    wanted = attention_reference(*numbers, packed, rules)
    torch.testing.assert_close(plain.double(), wanted, rtol=1e-4, atol=1e-5)


def test_a_base_says_what_it_lacks_without_them(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(model_folder("llama"))
    assert not any("operators" in note for note in load_module.load_base(ModelConfig(model_name_or_path=folder)).notes)
    monkeypatch.setattr(load_module, "library", lambda: "there is no C compiler (cc)")
    (told,) = (
        note for note in load_module.load_base(ModelConfig(model_name_or_path=folder)).notes if "operators" in note
    )
    assert told == "attention, norms and gates by torch's operators, which take longer: there is no C compiler (cc)."
