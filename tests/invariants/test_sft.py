"""The invariants of supervised tuning: identities in fp64 on tiny models, each with a control that must fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.models.adapters import AdapterConfig, adapter_digest, add_adapter, load_adapter, save_role
from tunesmith.models.forward import forward, hidden_states
from tunesmith.models.roles import Role
from tunesmith.randomness import generator
from tunesmith.records import Example, Where
from tunesmith.tokens.pack import pack
from tunesmith.training.distribute import one_process
from tunesmith.training.optim import OptimConfig, build_optimizer
from tunesmith.training.step import accumulate_gradients

KINDS = ["llama", "qwen3", "mistral", "gpt2"]


def rows(*lengths: int, seed: int = 0) -> list[Example]:
    out = []
    for i, n in enumerate(lengths):
        draws = generator(seed, "test_rows", i)
        weight = (draws.random(n) < 0.6).astype(np.float32)
        weight[0], weight[-1] = 0.0, 1.0
        out.append(Example(ids=draws.integers(3, 260, n), loss_weight=weight, row_id=i, where=Where("t", i)))
    return out


def awake(base: Any, config: AdapterConfig | None = None) -> Role:
    """An adapter that does something: LoRA's B starts at zero."""
    role = add_adapter(base, "default", config or AdapterConfig(r=4, lora_alpha=8), seed=1)
    for i, (_, parameter) in enumerate(role.parameters.items()):
        parameter.data = (
            torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)).to(torch.float64) * 0.2
        )
    return role


def loss_and_gradients(base: Any, role: Role, examples: list[Example], **how: Any) -> tuple[float, list[torch.Tensor]]:
    for parameter in role.parameters.values():
        parameter.grad = None
    result = accumulate_gradients(base, role, examples, one_process(), **{"micro_batch_tokens": 10_000, **how})
    return result.loss, [p.grad.clone() for p in role.parameters.values() if p.grad is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_packed_equals_one_by_one_equals_transformers(load: Callable[..., Any], kind: str) -> None:
    base, examples = load(kind), rows(9, 14, 5)
    packed = hidden_states(base, pack(examples))
    at = 0
    for example in examples:
        with torch.no_grad():
            theirs = base.model(torch.from_numpy(example.ids)[None], output_hidden_states=True).hidden_states[-1][0]
        own = packed[at : at + example.num_tokens]
        torch.testing.assert_close(own, hidden_states(base, pack([example])), rtol=1e-10, atol=1e-12)
        # transformers' RMSNorm and rotary table work in fp32 even here.
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5)
        at += example.num_tokens
    # Control: rows that could see each other would differ.
    joined = Example(
        ids=np.concatenate([e.ids for e in examples]),
        loss_weight=np.concatenate([e.loss_weight for e in examples]),
        row_id=0,
        where=Where("t"),
    )
    assert not torch.allclose(hidden_states(base, pack([joined]))[9:], packed[9:], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_equals_padded_batch_of_transformers(load: Callable[..., Any], kind: str) -> None:
    base, examples = load(kind), rows(9, 14, 5)
    loss, count = forward(base, pack(examples), "ce_sum")
    longest = max(e.num_tokens for e in examples)
    ids, labels, mask = (torch.full((3, longest), fill) for fill in (2, -100, 0))
    for i, e in enumerate(examples):
        ids[i, : e.num_tokens] = torch.from_numpy(e.ids)
        mask[i, : e.num_tokens] = 1
        labels[i, : e.num_tokens] = torch.from_numpy(np.where(e.loss_weight > 0, e.ids, -100))
    with torch.no_grad():
        theirs = base.model(ids, attention_mask=mask, labels=labels).loss
    assert float(loss / count) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_accumulation_equals_one_batch(load: Callable[..., Any], kind: str) -> None:
    base, examples = load(kind), rows(9, 14, 5, 11, 3)
    role = awake(base)
    loss, gradients = loss_and_gradients(base, role, examples)
    loss_cut, gradients_cut = loss_and_gradients(base, role, examples, micro_batch_tokens=15)
    assert loss == pytest.approx(loss_cut, rel=1e-12)
    torch.testing.assert_close(gradients, gradients_cut, rtol=1e-9, atol=1e-12)
    # Control: the mean of the rows' means is another number.
    means = [loss_and_gradients(base, role, [example])[0] for example in examples]
    assert sum(means) / len(means) != pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_fast_path_equals_reference_path_with_adapter(load: Callable[..., Any], kind: str) -> None:
    fast, plain, examples = load(kind), load(kind, kernels="reference"), rows(9, 14, 5)
    assert (fast.decoder is None) == (kind == "gpt2")
    assert plain.decoder is None
    ours, theirs = (loss_and_gradients(base, awake(base), examples) for base in (fast, plain))
    # transformers' fp32 norms and rotary table bound the agreement, not our kernels.
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("level", [True, "attention"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_checkpointing_changes_nothing(load: Callable[..., Any], kind: str, level: Any) -> None:
    base, examples = load(kind), rows(9, 14)
    role = awake(base)
    plain = loss_and_gradients(base, role, examples)
    recomputed = loss_and_gradients(base, role, examples, checkpointing=level)
    assert plain[0] == recomputed[0]
    torch.testing.assert_close(plain[1], recomputed[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_at_start_is_the_base_and_trained_is_not(load: Callable[..., Any], kind: str) -> None:
    base, examples = load(kind), rows(9, 14)
    before = hidden_states(base, pack(examples))
    role = add_adapter(base, "default", AdapterConfig(r=4), seed=1)
    assert torch.equal(hidden_states(base, pack(examples)), before)
    assert torch.equal(hidden_states(base, pack(examples, "default")), before)
    optimizer = build_optimizer(role.parameters, OptimConfig(learning_rate=0.01))
    loss_and_gradients(base, role, examples)
    optimizer.step()
    assert torch.equal(hidden_states(base, pack(examples)), before)
    assert not torch.allclose(hidden_states(base, pack(examples, "default")), before, atol=1e-6)


def test_training_lowers_the_loss_and_a_flipped_gradient_raises_it(load: Callable[..., Any]) -> None:
    ends = {}
    for sign in (1.0, -1.0):
        base, examples = load(), rows(9, 14, 12)
        role = add_adapter(base, "default", AdapterConfig(r=8), seed=1)
        optimizer = build_optimizer(role.parameters, OptimConfig(learning_rate=0.01))
        first, _ = loss_and_gradients(base, role, examples)
        for _ in range(15):
            loss_and_gradients(base, role, examples)
            for parameter in role.parameters.values():
                assert parameter.grad is not None
                parameter.grad.mul_(sign)
            optimizer.step()
        ends[sign] = loss_and_gradients(base, role, examples)[0] - first
    assert ends[1.0] < -0.5
    assert ends[-1.0] > 0.0


def test_one_pack_serves_several_adapters(load: Callable[..., Any]) -> None:
    base, examples = load(), rows(9, 14, 5)
    awake(base)
    other = add_adapter(base, "other", AdapterConfig(r=2), seed=9)
    for parameter in other.parameters.values():
        parameter.data = parameter.data.double() + 0.1
    mixed = pack(examples)
    names = ("default", None, "other")
    object.__setattr__(mixed, "adapter_S", names)
    together, at = hidden_states(base, mixed), 0
    for example, name in zip(examples, names, strict=True):
        alone = hidden_states(base, pack([example], name))
        torch.testing.assert_close(together[at : at + example.num_tokens], alone, rtol=1e-10, atol=1e-12)
        at += example.num_tokens
    assert not torch.allclose(together[:9], hidden_states(base, pack(examples[:1], "other")), atol=1e-4)


def test_log_likelihood_does_not_depend_on_the_batch_in_reference_mode(load: Callable[..., Any]) -> None:
    base, examples = load(dtype="float32", kernels="reference"), rows(9, 14, 5)
    together, _ = forward(base, pack(examples), "reference_logprobs")
    alone = torch.cat([forward(base, pack([example]), "reference_logprobs")[0] for example in examples])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_our_file_in_plain_peft_gives_our_logits(load: Callable[..., Any], kind: str, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, (example,) = load(kind, dtype="float32"), rows(12)
    role = awake(base, AdapterConfig(r=4, lora_alpha=6, use_rslora=True))
    for parameter in role.parameters.values():
        parameter.data = parameter.data.float()
    save_role(base, role, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(base.resolved.folder, dtype=torch.float32)
    ids = torch.from_numpy(example.ids)[None]
    with torch.no_grad():
        untouched = plain(ids).logits[0]
        theirs = PeftModel.from_pretrained(plain, tmp_path.as_posix())(ids).logits[0]
    ours = hidden_states(base, pack([example], "default")).detach() @ base.head.weight_VD.T
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, untouched, atol=1e-2)


def test_adapter_round_trip_and_wrong_base(load: Callable[..., Any], tmp_path: Path) -> None:
    from tunesmith.errors import AdapterMismatchError

    base = load()
    role = awake(base)
    save_role(base, role, tmp_path)
    again = load()
    load_adapter(again, tmp_path, "default")
    # The file holds fp64 here, PEFT's fresh modules fp32: equal to fp32 rounding.
    kept = {n: p.data.float() for n, p in role.parameters.items()}
    for name, value in dict(again.model.named_parameters()).items():
        if name in kept:
            torch.testing.assert_close(value.float(), kept[name])
    with pytest.raises(AdapterMismatchError, match=base.resolved.base_digest):
        load_adapter(load("qwen3"), tmp_path, "default")
    assert adapter_digest(base, "default") != adapter_digest(base, None)
