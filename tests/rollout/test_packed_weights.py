"""Packed weights multiply as their numbers say, adapters act on them, and what they cannot do they refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.errors import ConfigError
from tunesmith.kernels.elementwise import rope_reference, rope_rolled, signed_sin
from tunesmith.kernels.head_loss import logits_of
from tunesmith.kernels.native import library
from tunesmith.kernels.packed import HalfWeight, Int8Weight, fits_half, int8_matmul_reference, packs_here, quantize_rows
from tunesmith.models import packed as packed_module
from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.blocks import read_blocks
from tunesmith.models.decoding import start_decoding
from tunesmith.models.packed import PackedWeights
from tunesmith.models.roles import Base
from tunesmith.randomness import generator
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling

pytestmark = pytest.mark.skipif(not packs_here(), reason="torch has no fbgemm kernels on this processor")
needs_library = pytest.mark.skipif(isinstance(library(), str), reason=f"token.c: {library()}")
METHODS = {"low": "lora", "narrow": "bottleneck", "vectors": "ia3", "before": "prefix"}


def numpy_int8(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x W^T with each row of W rounded to 127 steps of its largest magnitude, that W), in double precision."""
    steps = np.abs(weight).max(1, keepdims=True).astype(np.float64) / 127
    rounded = np.rint(weight / steps) * steps
    return x.astype(np.float64) @ rounded.T, rounded


def test_int8_equals_numpy_up_to_the_digits_kept_of_x() -> None:
    draws = np.random.default_rng(0)
    x, weight = draws.standard_normal((9, 96)).astype(np.float32), draws.standard_normal((40, 96)).astype(np.float32)
    x[1], x[2, 5], x[3] = 0.0, 300.0, 1.0
    # Every product at its largest: sums in 16 bits would be cut.
    weight[7], weight[8] = 2.0, -2.0
    wanted, rounded = numpy_int8(x, weight)
    got = Int8Weight(torch.from_numpy(weight)).matmul(torch.from_numpy(x))
    # Half a step of the second digit at every place, all in one direction, and fp32's own rounding.
    bound = (np.abs(x).max(1) / (2 * 63 * 126))[:, None] * np.abs(rounded).sum(1)[None] * 1.001 + 1e-4
    assert np.all(np.abs(got.numpy() - wanted) <= bound)
    assert not got[1].any()
    one_digit = np.rint(x / np.abs(x).max(1, keepdims=True).clip(1e-9) * 63) / 63 * np.abs(x).max(1, keepdims=True)
    assert np.any(np.abs(one_digit @ rounded.T - wanted) > bound)
    reference = int8_matmul_reference(torch.from_numpy(x).double(), *quantize_rows(torch.from_numpy(weight)))
    np.testing.assert_allclose(reference.numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_a_row_of_an_int8_product_does_not_depend_on_its_neighbours() -> None:
    draws = torch.Generator().manual_seed(1)
    x, packed = torch.randn(33, 64, generator=draws), Int8Weight(torch.randn(50, 64, generator=draws))
    whole = packed.matmul(x)
    for size in (1, 2, 7, 32):
        assert torch.equal(packed.matmul(x[:size].clone()), whole[:size])


def test_half_multiplies_with_the_same_numbers_where_they_fit() -> None:
    draws = torch.Generator().manual_seed(2)
    weight, x = torch.randn(50, 64, generator=draws).bfloat16().float(), torch.randn(5, 64, generator=draws)
    assert fits_half(weight) and not fits_half(weight / 3)
    wanted = x.double() @ weight.double().T
    torch.testing.assert_close(HalfWeight(weight).matmul(x).double(), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(HalfWeight(weight / 3).matmul(x).double(), wanted / 3, rtol=1e-6, atol=1e-6)


def test_a_weight_beyond_fp16_is_refused_and_stays(load: Callable[..., Any]) -> None:
    base = load("llama", "float32")
    weight = base.head.weight_VD
    with torch.no_grad():
        weight[3, 4] = 1e5
    with pytest.raises(ConfigError, match="65,504"):
        PackedWeights(base, "half")
    assert float(weight[3, 4]) == 1e5
    assert not PackedWeights(base, "int8").exact


def with_adapters(base: Base) -> Base:
    for number, (name, method) in enumerate(METHODS.items()):
        config = AdapterConfig(r=2) if method == "lora" else AdapterConfig(method=method)
        for i, parameter in enumerate(add_adapter(base, name, config, seed=number).parameters.values()):
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * number + i))
            parameter.data += drawn.to(parameter.dtype) * 0.3
    return base


def round_to_int8(base: Base) -> None:
    """The base's own weights become the numbers that the packed ones stand for, in the same groups."""
    assert base.decoder is not None
    for block in base.decoder.blocks:
        for site in (block.q, block.k, block.v, block.o, block.gate, block.up, block.down):
            codes_OI, scale_O = quantize_rows(site.layer.weight)
            site.layer.weight.data.copy_(codes_OI * scale_O[:, None])
    codes_VD, scale_V = quantize_rows(base.head.weight_VD)
    base.head = replace(base.head, weight_VD=(codes_VD * scale_V[:, None]).to(base.dtype))


@torch.no_grad()
def stepped(base: Base, stepping: Any, head: Any, names: list[str | None]) -> torch.Tensor:
    """(steps, B, V) logits of forced tokens under each row's adapter."""
    prompts = [generator(5, "packed", row).integers(3, 260, 4 + row) for row in range(len(names))]
    state, _ = start_decoding(base, prompts, 6, names, stepping)
    forced = generator(6, "packed", 0).integers(3, 260, (6, len(names)))
    return torch.stack([logits_of(state.step(torch.from_numpy(ids)), head) for ids in forced])


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral"])
def test_steps_over_packed_weights_are_those_over_their_numbers(load: Callable[..., Any], kind: str) -> None:
    base, numbers = load(kind, "float32"), with_adapters(load(kind, "float32"))
    round_to_int8(numbers)
    # Packed before there are adapters, which are then found all the same.
    packed = PackedWeights(base, "int8")
    with_adapters(base)
    for names in ([None], list(METHODS)[:1], [None, *METHODS, "low"]):
        wanted = stepped(base, numbers.decoder, numbers.head, names)
        got = stepped(base, packed.decoder(), packed.head, names)
        full = stepped(base, None, base.head, names)
        torch.testing.assert_close(got, wanted, rtol=2e-3, atol=2e-3 * float(wanted.abs().max()))
        assert float((full - wanted).norm()) > 4 * float((got - wanted).norm())
    assert len({row.numpy().tobytes() for row in got[0]}) == len(METHODS) + 2


def test_a_generator_answers_with_packed_weights_whatever_the_batch(load: Callable[..., Any]) -> None:
    base = load("llama", "float32")
    asked = [Prompt(ids=generator(7, "packed", n).integers(3, 260, n), row_id=n) for n in (5, 9, 7)]
    sampling = Sampling(max_new_tokens=8, temperature=1.0, seed=2)
    answers = {}
    for weights in ("full", "half", "int8"):
        local = LocalGenerator(base, weights=weights)
        together = local.generate(asked, sampling)
        alone = [local.generate([prompt], sampling)[0] for prompt in asked]
        assert [r.ids.tolist() for r in together] == [r.ids.tolist() for r in alone]
        answers[weights] = np.concatenate([r.logprobs for r in together])
        # These weights are fp32's: in fp16 they are other numbers, and answers are told apart by that.
        assert together[0].adapter_digest == {"full": "base"}.get(weights, f"base+{weights}")
    assert answers["full"].tobytes() != answers["int8"].tobytes()
    for parameter in base.model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    base.head = replace(base.head, weight_VD=base.head.weight_VD.bfloat16().float())
    assert LocalGenerator(base, weights="half").sync(None) == "base"


def in_fp16(base: Base) -> Base:
    """The same base with numbers that fp16 holds."""
    for parameter in base.model.parameters():
        parameter.data = parameter.data.half().to(parameter.dtype)
    assert base.decoder is not None
    base.decoder = read_blocks(base.model)
    base.head = replace(base.head, weight_VD=base.head.weight_VD.half().to(base.dtype))
    return base


@needs_library
def test_auto_packs_where_that_says_the_same(load: Callable[..., Any]) -> None:
    asked = [Prompt(ids=generator(8, "packed", n).integers(3, 260, n), row_id=n) for n in (5, 9)]
    longer = Sampling(max_new_tokens=12, temperature=1.0, seed=2)
    base = in_fp16(load("llama", "float32"))
    local = LocalGenerator(base)
    answers = local.generate(asked, longer)
    assert local.packed is not None and local.packed.exact and local.sync(None) == "base"
    # Once for a base, however many answer on it.
    assert LocalGenerator(base).packed is local.packed and LocalGenerator(base, weights="full").packed is None
    wanted = LocalGenerator(base, weights="full").generate(asked, longer)
    assert [r.ids.tolist() for r in answers] == [r.ids.tolist() for r in wanted]
    # Weights that were written are packed anew, here into numbers that fp16 holds again.
    with torch.no_grad():
        for block in base.decoder.blocks:
            block.down.layer.weight.mul_(2.0)
    changed, wanted = local.generate(asked, longer), LocalGenerator(base, weights="full").generate(asked, longer)
    for ours, full in zip(changed, wanted, strict=True):
        np.testing.assert_allclose(ours.logprobs, full.logprobs, rtol=1e-4, atol=1e-4)
    assert np.abs(changed[0].logprobs[0] - answers[0].logprobs[0]) > 1e-4
    # A base that learns is answered with as it is now.
    role = add_adapter(base, "full", AdapterConfig(method="full"), 0)
    with torch.no_grad():
        for parameter in role.parameters.values():
            parameter.mul_(1.5)
    assert local.packed is None
    changed = local.generate(asked, longer, role.adapter)
    wanted = LocalGenerator(base, weights="full").generate(asked, longer, role.adapter)
    assert [r.logprobs.tolist() for r in changed] == [r.logprobs.tolist() for r in wanted]


@needs_library
def test_a_base_in_bf16_is_answered_with_in_fp16_whatever_the_batch(load: Callable[..., Any]) -> None:
    base = load("llama", "bfloat16")
    local = LocalGenerator(base)
    assert local.packed is not None and local.packed.exact and local.sync(None) == "base"
    asked = [Prompt(ids=generator(8, "packed", n).integers(3, 260, n), row_id=n) for n in (5, 9, 7)]
    greedy = Sampling(max_new_tokens=12, temperature=0.0)
    together = local.generate(asked, greedy)
    for prompt, one in zip(asked, together, strict=True):
        (alone,) = local.generate([prompt], greedy)
        assert alone.ids.tolist() == one.ids.tolist() and alone.logprobs.tolist() == one.logprobs.tolist()
    # Nearer to the same numbers in fp32 than bf16's own products are.
    wide = load("llama", "float32")
    wide.model.load_state_dict(base.model.state_dict())
    wanted = LocalGenerator(wide, weights="full").generate(asked, greedy)[1].logprobs[:4]
    full = LocalGenerator(base, weights="full").generate(asked, greedy)[1].logprobs[:4]
    assert np.abs(together[1].logprobs[:4] - wanted).max() < np.abs(full - wanted).max()


@needs_library
def test_without_a_compiler_auto_answers_as_before_and_says_so_once(
    load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = in_fp16(load("llama", "float32"))
    monkeypatch.setattr(packed_module, "library", lambda: "there is no C compiler (cc)")
    assert LocalGenerator(base).packed is None and LocalGenerator(base).packed is None
    assert [note for note in base.notes if "compiler" in note] == [
        "decoding by torch's operators: there is no C compiler (cc)."
    ]


def test_tiny_numbers_do_not_pass_for_fp16s() -> None:
    weight = torch.randn(20, 30, generator=torch.Generator().manual_seed(3)).bfloat16().float()
    assert fits_half(weight) and fits_half(1e-3 * weight.bfloat16().float().half().float()) is False
    # Each is off by less than half of fp16's smallest step, and all of them by a hundredth of what they are.
    assert not fits_half((1e-6 * weight).bfloat16().float())


@pytest.mark.parametrize("kind", ["other numbers", "other path", "other dtype", "no room"])
def test_auto_leaves_other_bases_as_they_are(
    load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    base = load("gpt2") if kind == "other path" else load("llama", "float64" if kind == "other dtype" else "float32")
    if kind in ("other dtype", "no room"):
        base = in_fp16(base)
    if kind == "no room":
        monkeypatch.setattr(packed_module, "memory_available_bytes", lambda _: 1000)
    local = LocalGenerator(base)
    (answer,) = local.generate([Prompt(ids=np.arange(5, 12), row_id=0)], Sampling(max_new_tokens=12))
    assert local.packed is None and len(answer.ids)


def test_what_cannot_be_packed_is_refused(load: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="our own blocks"):
        LocalGenerator(load("gpt2"), weights="int8")
    base = load("llama", "float32")
    packed = PackedWeights(base, "half")
    add_adapter(base, "full", AdapterConfig(method="full"), 0)
    with pytest.raises(ConfigError, match="learn"):
        packed.decoder()


def test_rotation_by_rolling_equals_the_plain_one() -> None:
    draws = torch.Generator().manual_seed(3)
    x, angles = (torch.randn(size, generator=draws, dtype=torch.float64) for size in ((5, 3, 8), (5, 4)))
    cos, sin = (f(torch.cat([angles, angles], dim=1)) for f in (torch.cos, torch.sin))
    wanted = rope_reference(x, cos, sin)
    torch.testing.assert_close(rope_rolled(x, cos, signed_sin(sin)), wanted)
    assert not torch.allclose(rope_rolled(x, cos, sin), wanted)
