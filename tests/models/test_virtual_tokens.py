"""Virtual tokens before every row: packed = padded by transformers = alone, in losses, gradients and answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from virtual_worlds import KINDS, SETTINGS, awake, config, gradients_of, losses, rows, transformers_loss

from tunesmith.errors import ConfigError, DataError
from tunesmith.models.adapters import AdapterConfig, add_adapter, drop_adapter
from tunesmith.models.forward import forward, hidden_states
from tunesmith.models.quantize import quantized_layers, unpack
from tunesmith.models.quantized_linear import QuantizationConfig
from tunesmith.models.virtual import Prefix
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling
from tunesmith.rollout.likelihood import LocalLikelihood
from tunesmith.tokens import virtual
from tunesmith.tokens.forest import forest_of
from tunesmith.tokens.pack import ROOT, Packed, pack, pack_prompts
from tunesmith.training.distribute import one_process
from tunesmith.training.optim import OptimConfig, build_optimizer
from tunesmith.training.step import accumulate_gradients

TEXT = "the cat on a the"


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_packed_equals_alone_equals_transformers(load: Callable[..., Any], kind: str, setting: str) -> None:
    base, examples = load(kind), rows(9, 5, 12)
    assert (base.decoder is None) == (kind == "gpt2")
    role = awake(base, "virtual", config(setting))
    together = losses(base, [pack(examples, "virtual")])
    gradients = gradients_of(together, role)
    assert all(bool(g.any()) for g in gradients)
    alone = losses(base, [pack([e], "virtual") for e in examples])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients, gradients_of(alone, role), rtol=1e-9, atol=1e-10)
    recomputed = losses(base, [pack(examples, "virtual")], checkpointing=True)
    torch.testing.assert_close(gradients_of(recomputed, role), gradients, rtol=1e-10, atol=1e-12)
    theirs = transformers_loss(base, "virtual", examples)
    # transformers' fp32 norms and rotary table bound the agreement of the fast path (tests/invariants/test_sft.py).
    loose = kind != "gpt2"
    torch.testing.assert_close(together, theirs, rtol=1e-5 if loose else 1e-10, atol=0)
    torch.testing.assert_close(
        gradients, gradients_of(theirs, role), rtol=1e-3 if loose else 1e-9, atol=2e-4 if loose else 1e-10
    )
    # Control: rows that begin at position 0, as if there were no virtual tokens before them.
    if setting != "prompt":
        shifted = transformers_loss(base, "virtual", examples, first_position=0)
        assert abs(float((shifted - together).detach())) > 1e-2


def mixed(base: Any, parents: tuple[int, ...] | None = None) -> tuple[Packed, list[Any]]:
    """A forest in which two prefixes, a soft prompt, LoRA and the bare base answer between each other."""
    adapters = ("one", None, "two", "low", "soft", "one", "two", "soft", "low", "one")
    parents = parents or (ROOT, ROOT, ROOT, ROOT, ROOT, 0, 2, 4, 3, ROOT)
    examples = rows(6, 4, 7, 5, 8, 4, 3, 5, 6, 7)
    for example, parent in zip(examples, parents, strict=True):
        example.loss_weight[0] = 0.0 if parent == ROOT else 1.0
    roles = [
        awake(base, "one", config("prefix", 3), seed=1),
        awake(base, "two", config("flat", 5), seed=2),
        awake(base, "soft", config("prompt", 2), seed=3),
        awake(base, "low", AdapterConfig(r=3), seed=4),
    ]
    return dataclasses.replace(pack(examples, None, parents), adapter_S=adapters), roles


def alone(packed: Packed) -> list[Packed]:
    """Each segment behind its ancestors as one row."""
    out = []
    for s in range(packed.num_segments):
        path = packed.path_tokens(s)
        own = torch.arange(len(path)) >= len(path) - packed.length_S[s]
        out.append(
            Packed(
                ids_T=packed.ids_T[path], positions_T=torch.arange(len(path)),
                loss_weight_T=packed.loss_weight_T[path] * own, start_S=(0,), length_S=(len(path),), parent_S=(ROOT,),
                adapter_S=(packed.adapter_S[s],), num_virtual_S=(0,), row_id_S=(s,),
            )
        )  # fmt: skip
    return out


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2"])
def test_a_forest_of_many_adapters_equals_each_path_alone(load: Callable[..., Any], kind: str) -> None:
    base = load(kind)
    packed, roles = mixed(base)
    loss = losses(base, [packed])
    expected = losses(base, alone(packed))
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients_of(loss, *roles), gradients_of(expected, *roles), rtol=1e-9, atol=1e-10)
    # The caller's tokens come back in the caller's order.
    states = hidden_states(base, packed).detach()
    assert len(states) == packed.num_tokens
    last = slice(packed.start_S[9], packed.start_S[9] + packed.length_S[9])
    torch.testing.assert_close(states[last], hidden_states(base, alone(packed)[9]).detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("wrong", ["position", "isolation", "missing"])
def test_virtual_segments_laid_wrong_give_other_numbers(
    load: Callable[..., Any], wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load()
    packed, _ = mixed(base)
    right, _ = forward(base, packed, "reference_logprobs")

    def spoilt(given: Packed, num_virtual: Any) -> Packed:
        laid = virtual.with_virtual(given, num_virtual)
        added = laid.num_segments - given.num_segments
        if wrong == "position":
            own = given.positions_T
            return dataclasses.replace(laid, positions_T=torch.cat([laid.positions_T[: -len(own)], own]))
        if wrong == "isolation" and added == 2:
            # The rows of each prefix see the other one.
            return dataclasses.replace(laid, parent_S=tuple({0: 1, 1: 0}.get(p, p) for p in laid.parent_S))
        if wrong == "missing":
            old = (ROOT if p == ROOT else p + added for p in given.parent_S)
            return dataclasses.replace(laid, parent_S=(*laid.parent_S[:added], *old))
        return laid

    monkeypatch.setattr("tunesmith.models.virtual.with_virtual", spoilt)
    theirs, _ = forward(base, packed, "reference_logprobs")
    by_segment = zip(right.split(packed.num_loss_tokens_S()), theirs.split(packed.num_loss_tokens_S()), strict=True)
    changed = {
        adapter
        for adapter, (a, b) in zip(packed.adapter_S, by_segment, strict=True)
        if not torch.allclose(a, b, atol=1e-3)
    }
    # Rows without virtual tokens are not touched by what is done to those.
    assert changed == ({"one", "two"} if wrong == "isolation" else {"one", "two", "soft"})


@pytest.mark.parametrize("setting", ["prompt", "prefix"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2"])
def test_at_the_start_it_is_the_base_that_has_read_the_words(load: Callable[..., Any], kind: str, setting: str) -> None:
    base = load(kind)
    text_ids = np.array(base.tokenizer(TEXT)["input_ids"])
    words = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": TEXT}
    add_adapter(base, "virtual", config(setting, len(text_ids), **words), seed=0)
    ids = rows(11)[0].ids
    ours = hidden_states(base, pack_prompts([ids], [0], "virtual"))
    read = hidden_states(base, pack_prompts([np.r_[text_ids, ids]], [0], None))[len(text_ids) :]
    torch.testing.assert_close(ours.detach(), read, rtol=1e-10, atol=1e-10)
    # Control: it is not the base, and a row of the bare base sees nothing of it.
    bare = hidden_states(base, pack_prompts([ids], [0], None))
    assert not torch.allclose(ours, bare, atol=1e-2)
    drop_adapter(base, "virtual")
    assert torch.equal(hidden_states(base, pack_prompts([ids], [0], None)), bare)
    drawn = add_adapter(base, "virtual", config(setting), seed=0)
    again = add_adapter(base, "another", config(setting), seed=0)
    assert not torch.equal(
        *(p.data for p in (*list(drawn.parameters.values())[:1], *list(again.parameters.values())[:1]))
    )


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2"])
def test_answers_are_those_of_the_whole_pass(load: Callable[..., Any], kind: str, setting: str) -> None:
    base = load(kind)
    awake(base, "virtual", config(setting))
    prompts = [rows(n)[0].ids for n in (9, 4)]
    asked = [Prompt(ids=prompts[i], row_id=i, sample=k) for i in (0, 1, 0) for k in range(2)]
    rollouts = LocalGenerator(base, max_rows=6).generate(
        asked, Sampling(max_new_tokens=7, temperature=1.0, seed=3), "virtual"
    )
    assert len({len(r.ids) for r in rollouts}) > 0 and len({tuple(r.ids) for r in rollouts}) > 2
    for prompt, rollout in zip(asked, rollouts, strict=True):
        ids = np.r_[prompt.ids, rollout.ids]
        row = dataclasses.replace(
            rows(len(ids))[0],
            ids=ids,
            loss_weight=np.r_[np.zeros(len(prompt.ids)), np.ones(len(rollout.ids))].astype("f"),
        )
        logprobs, _ = forward(base, pack([row], "virtual"), "reference_logprobs")
        np.testing.assert_allclose(rollout.logprobs, logprobs.numpy(), rtol=1e-5, atol=1e-6)


def test_answers_of_one_prompt_share_prompt_and_prefix(load: Callable[..., Any]) -> None:
    base = load("qwen3")
    roles = [awake(base, "virtual", config("prefix"))]
    prompt = rows(8)[0].ids
    group = [
        dataclasses.replace(
            e, ids=np.r_[prompt, e.ids], loss_weight=np.r_[np.zeros(8), np.ones(e.num_tokens)].astype("f")
        )
        for e in rows(3, 6, 4)
    ]
    segments, parents, _ = forest_of([group])
    tree, whole = losses(base, [pack(segments, "virtual", parents)]), losses(base, [pack(group, "virtual")])
    torch.testing.assert_close(tree, whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients_of(tree, *roles), gradients_of(whole, *roles), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("setting", ["prompt", "prefix"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_packed_base_gives_what_its_dense_weights_give(load: Callable[..., Any], kind: str, setting: str) -> None:
    base, packed = load(kind, quantization=QuantizationConfig()), pack(rows(9, 5, 12), "virtual")
    role = awake(base, "virtual", config(setting))
    assert quantized_layers(base.model)
    loss = losses(base, [packed])
    gradients = gradients_of(loss, role)
    unpack(base)
    assert not quantized_layers(base.model)
    dense = losses(base, [packed])
    torch.testing.assert_close(loss, dense, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients, gradients_of(dense, role), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("setting", ["prompt", "prefix"])
def test_training_lowers_the_loss_and_a_flipped_gradient_raises_it(load: Callable[..., Any], setting: str) -> None:
    ends = {}
    for sign in (1.0, -1.0):
        base, examples = load(), rows(9, 14, 12)
        role = add_adapter(base, "virtual", config(setting, 8), seed=1)
        optimizer = build_optimizer(role.parameters, OptimConfig(learning_rate=0.01))
        measured = []
        for _ in range(16):
            optimizer.zero_grad()
            result = accumulate_gradients(base, role, examples, one_process(), micro_batch_tokens=999)
            measured.append(result.loss)
            for parameter in role.parameters.values():
                assert parameter.grad is not None
                parameter.grad.mul_(sign)
            optimizer.step()
        ends[sign] = measured[-1] - measured[0]
    assert ends[1.0] < -0.1 and ends[-1.0] > 0.1


def test_the_context_is_so_many_tokens_shorter(load: Callable[..., Any]) -> None:
    base = load("gpt2")
    awake(base, "virtual", config("prefix", 6))
    assert base.context_tokens_of("virtual") == 250 and base.context_tokens_of(None) == 256
    assert base.context_tokens_of(None, "virtual") == 250
    longest = rows(248)[0].ids
    sampling, generator = Sampling(max_new_tokens=2, temperature=0.0), LocalGenerator(base)
    assert len(generator.generate([Prompt(ids=longest, row_id=0)], sampling, "virtual")[0].ids) == 2
    with pytest.raises(DataError, match="needs 251 tokens with its answer, the model reads 250 behind 6 virtual"):
        generator.generate([Prompt(ids=rows(249)[0].ids, row_id=0)], sampling, "virtual")
    with pytest.raises(DataError, match="the model reads 250"):
        LocalLikelihood(base, "virtual").score_examples([rows(251)])


def test_what_cannot_be_had_is_refused(load: Callable[..., Any]) -> None:
    base = load()
    words = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": TEXT}
    with pytest.raises(ConfigError, match=r"has \d+ tokens, num_virtual_tokens is 4.*num_virtual_tokens: \d+"):
        add_adapter(base, "virtual", config("prefix", **words), seed=0)
    with pytest.raises(ConfigError, match="is 256, the model reads 256"):
        add_adapter(base, "virtual", config("prompt", 256), seed=0)
    with pytest.raises(ValueError, match="belong together"):
        config("prompt", prompt_tuning_init_text=TEXT)
    with pytest.raises(ValueError, match="prefix_projection is a setting of prefix; method is prompt"):
        config("prompt", prefix_projection=False)
    awake(base, "virtual", config("prefix"))
    packed = dataclasses.replace(pack(rows(3, 4), None, [ROOT, 0]), adapter_S=("virtual", None))
    with pytest.raises(ValueError, match="another adapter than its prompt"):
        hidden_states(base, packed)
    assert base.own["virtual"].learned().keys() != dict(Prefix(torch.zeros(1, 2, 1, 1)).named_parameters()).keys()
