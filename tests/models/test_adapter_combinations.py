"""Combinations of adapters that single tests leave out: each must equal what PEFT, or each part alone, computes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tunesmith.errors import ConfigError, ModelError
from tunesmith.models.adapters import (
    AdapterConfig,
    adapter_digest,
    adapter_tensors,
    add_adapter,
    load_adapter,
    save_role,
)
from tunesmith.models.forward import forward, hidden_states
from tunesmith.models.roles import Role
from tunesmith.randomness import derive_seed, generator
from tunesmith.records import Example, Where
from tunesmith.tokens.pack import pack

LLAMA_TARGETS = [
    ["q_proj", "v_proj"],
    ["k_proj"],
    ["q_proj", "k_proj", "v_proj"],
    ["up_proj"],
    ["gate_proj", "up_proj"],
]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GPT2_TARGETS = [["c_attn"], ["c_fc", "c_proj"]]


def rows(*lengths: int) -> list[Example]:
    out = []
    for i, n in enumerate(lengths):
        draws = generator(0, "test_combinations", i)
        weight = (draws.random(n) < 0.7).astype(np.float32)
        weight[0], weight[-1] = 0.0, 1.0
        out.append(Example(ids=draws.integers(3, 260, n), loss_weight=weight, row_id=i, where=Where("t", i)))
    return out


def awake(base: Any, name: str, config: AdapterConfig, dtype: torch.dtype = torch.float64) -> Role:
    """An adapter whose every matrix is away from zero."""
    role = add_adapter(base, name, config, seed=1)
    for number, (key, parameter) in enumerate(role.parameters.items()):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number + len(name) + len(key)))
        parameter.data = (parameter.data.double() + 0.2 * noise.double()).to(dtype)
    return role


def loss_and_gradients(
    base: Any, roles: Sequence[Role], examples: Sequence[Example], adapters: Sequence[str | None], **how: Any
) -> tuple[float, list[Tensor | None]]:
    parameters = [p for role in roles for p in role.parameters.values()]
    for parameter in parameters:
        parameter.grad = None
    packed = replace(pack(examples), adapter_S=tuple(adapters))
    loss, _ = forward(base, packed, "ce_sum", **how)
    loss.backward()
    return float(loss.detach()), [None if p.grad is None else p.grad.clone() for p in parameters]


def by_peft(base: Any, role: Role, folder: Path, examples: Sequence[Example]) -> tuple[float, list[Tensor]]:
    """Loss and gradients of the same adapter by stock PEFT and autograd, row by row."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    save_role(base, role, folder)
    plain = AutoModelForCausalLM.from_pretrained(base.resolved.folder, dtype=torch.float64)
    model = PeftModel.from_pretrained(plain, folder.as_posix(), is_trainable=True, autocast_adapter_dtype=False).eval()
    total = torch.zeros((), dtype=torch.float64)
    for example in examples:
        ids, weight = torch.from_numpy(example.ids), torch.from_numpy(example.loss_weight[1:]).double()
        logprobs = torch.log_softmax(model(ids[None]).logits[0, :-1], -1).gather(1, ids[1:, None])[:, 0]
        total = total - (logprobs * weight).sum()
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    # PEFT trains the layer's own bias where ours is a copy.
    names = [name.replace("lora_extras.default.bias", "base_layer.bias") for name in role.parameters]
    return float(total.detach()), [gradients[f"base_model.model.{name}"] for name in names]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("kind", "targets"),
    [*(("llama", t) for t in LLAMA_TARGETS), ("qwen3", ["q_proj", "v_proj"]), *(("gpt2", t) for t in GPT2_TARGETS)],
)
def test_an_adapter_on_some_of_the_maps_learns_as_in_peft(
    load: Callable[..., Any], tmp_path: Path, kind: str, targets: list[str], checkpointing: bool
) -> None:
    base, examples = load(kind), rows(9, 14, 5)
    role = awake(base, "default", AdapterConfig(r=3, lora_alpha=5, target_modules=targets))
    loss, ours = loss_and_gradients(base, [role], examples, ["default"] * 3, checkpointing=checkpointing)
    expected, theirs = by_peft(base, role, tmp_path, examples)
    # transformers' RMSNorm and rotary table work in fp32 even here.
    assert loss == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    # Control: one flipped matrix is found.
    with pytest.raises(AssertionError):
        torch.testing.assert_close([-ours[0], *ours[1:]], theirs, rtol=1e-3, atol=1e-5)


def test_ranks_and_scales_that_differ_by_map_are_those_of_peft(load: Callable[..., Any], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base, examples = load("llama"), rows(9, 14)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=ALL, rank_pattern={"q_proj": 2, "k_proj": 6},
        alpha_pattern={"v_proj": 3, "up_proj": 1}, layers_to_transform=[1], task_type="CAUSAL_LM",
    )  # fmt: skip
    stock = get_peft_model(AutoModelForCausalLM.from_pretrained(base.resolved.folder, dtype=torch.float64), config)
    for number, parameter in enumerate(p for p in stock.parameters() if p.requires_grad):
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    stock.save_pretrained(tmp_path / "stock")
    role = load_adapter(base, tmp_path / "stock", "default", trainable=True)
    for parameter in role.parameters.values():
        parameter.data = parameter.data.double()
    loss, ours = loss_and_gradients(base, [role], examples, ["default"] * 2)
    expected, theirs = by_peft(base, role, tmp_path / "ours", examples)
    assert loss == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("kind", "kernels"), [("llama", "auto"), ("llama", "reference"), ("gpt2", "auto")])
def test_adapters_that_share_a_pack_learn_as_each_alone(
    load: Callable[..., Any], kind: str, kernels: str, checkpointing: bool, dropout: float
) -> None:
    base, examples = load(kind, kernels=kernels), rows(9, 14, 5, 7)
    some = ["c_attn"] if kind == "gpt2" else ["q_proj", "up_proj"]
    first = awake(base, "first", AdapterConfig(r=3, lora_dropout=dropout))
    second = awake(base, "second", AdapterConfig(r=2, target_modules=some, lora_dropout=dropout))
    names, roles = ["first", None, "second", "first"], [first, second]

    def seed(row_id: int) -> int:
        return derive_seed(0, "test_dropout", row_id)

    how = {"checkpointing": checkpointing, "dropout_seed": seed}
    together = loss_and_gradients(base, roles, examples, names, **how)
    total, sums = 0.0, [torch.zeros_like(p) for role in roles for p in role.parameters.values()]
    for example, name in zip(examples, names, strict=True):
        own = [role for role in roles if role.name == name]
        if not own:
            total += float(forward(base, pack([example]), "ce_sum", dropout_seed=seed)[0].detach())
            continue
        loss, gradients = loss_and_gradients(base, roles, [example], [name], dropout_seed=seed)
        total += loss
        sums = [s if g is None else s + g for s, g in zip(sums, gradients, strict=True)]
    assert together[0] == pytest.approx(total, rel=1e-10)
    torch.testing.assert_close(together[1], sums, rtol=1e-8, atol=1e-10)
    # Control: the rows' adapters matter, and so does dropout.
    assert loss_and_gradients(base, roles, examples, names[::-1], **how)[0] != pytest.approx(total, rel=1e-5)
    dry = loss_and_gradients(base, roles, examples, names)[0]
    assert (dry == pytest.approx(total, rel=1e-9)) == (dropout == 0)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gpt2"])
def test_full_tuning_learns_as_transformers_does(load: Callable[..., Any], kind: str, checkpointing: bool) -> None:
    from transformers import AutoModelForCausalLM

    base, examples = load(kind, dtype="float32"), rows(9, 14, 5)
    role = add_adapter(base, "default", AdapterConfig(method="full"), seed=1)
    loss, ours = loss_and_gradients(base, [role], examples, [None] * 3, weight_grad="full", checkpointing=checkpointing)
    plain = AutoModelForCausalLM.from_pretrained(base.resolved.folder, dtype=torch.float32).eval()
    total = torch.zeros(())
    for example in examples:
        ids, weight = torch.from_numpy(example.ids), torch.from_numpy(example.loss_weight[1:])
        logprobs = torch.log_softmax(plain(ids[None]).logits[0, :-1], -1).gather(1, ids[1:, None])[:, 0]
        total = total - (logprobs * weight).sum()
    total.backward()
    theirs = dict(plain.named_parameters())
    assert set(theirs) == set(role.parameters)
    assert loss == pytest.approx(float(total.detach()), rel=1e-5)
    for name, gradient in zip(role.parameters, ours, strict=True):
        torch.testing.assert_close(gradient, theirs[name].grad, rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_half_precision_bases_give_fp32_gradients_that_point_the_same_way(
    load: Callable[..., Any], kind: str, dtype: str
) -> None:
    examples, found = rows(9, 14, 5), {}
    for name in ("float32", dtype):
        base = load(kind, dtype=name)
        role = awake(base, "default", AdapterConfig(r=4), torch.float32)
        found[name] = loss_and_gradients(base, [role], examples, ["default"] * 3)
        assert base.dtype == getattr(torch, name)
    (loss, exact), (rounded_loss, rounded) = found["float32"], found[dtype]
    assert rounded_loss == pytest.approx(loss, rel=0.05)
    assert all(g is not None and g.dtype == torch.float32 for g in rounded)
    flat = [torch.cat([g.flatten() for g in gradients if g is not None]) for gradients in (exact, rounded)]
    assert float(torch.cosine_similarity(*flat, dim=0)) > 0.97


def test_names_of_adapters_do_not_run_into_each_other(load: Callable[..., Any]) -> None:
    base, alone = load("llama"), load("llama")
    for name in ("critic", "critic2"):
        awake(base, name, AdapterConfig(r=3))
    awake(alone, "critic", AdapterConfig(r=3))
    assert set(adapter_tensors(base, "critic")) == set(adapter_tensors(alone, "critic"))
    assert adapter_digest(base, "critic") == adapter_digest(alone, "critic") != adapter_digest(base, "critic2")


@pytest.mark.parametrize("name", ["0", "layers", "mlp", "base_layer", "a.b", "a", ""])
def test_a_name_that_is_part_of_the_models_names_is_refused(load: Callable[..., Any], name: str) -> None:
    # PEFT would take another adapter's tensors for this one's, or save none.
    with pytest.raises(ConfigError, match="adapter name"):
        add_adapter(load("llama"), name, AdapterConfig(r=3), seed=1)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "input_layernorm"])
def test_matrices_stand_on_linear_maps_inside_the_layers_only(load: Callable[..., Any], target: str) -> None:
    with pytest.raises(ConfigError, match="takes no LoRA matrices"):
        add_adapter(load("llama"), "default", AdapterConfig(target_modules=["q_proj", target]), seed=1)


@pytest.mark.parametrize(
    "more",
    [
        {"lora_bias": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]},
        {"use_dora": True, "modules_to_save": ["lm_head"]},
        {"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}, {"layer_replication": [(0, 2), (1, 2)]},
        {"target_modules": ["q_proj", "lm_head"]}, {"target_modules": ["q_proj", "embed_tokens"]},
    ],
)  # fmt: skip
def test_what_peft_computes_besides_plain_lora_is_refused_and_the_base_stays(
    load: Callable[..., Any], tmp_path: Path, more: dict[str, Any]
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base, (example,) = load("llama", dtype="float32"), rows(9)
    before = hidden_states(base, pack([example]))
    plain = AutoModelForCausalLM.from_pretrained(base.resolved.folder, dtype=torch.float32)
    config = LoraConfig(**{"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **more})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(plain, config).save_pretrained(tmp_path)
    with pytest.raises(ModelError):
        load_adapter(base, tmp_path, "default")
    assert torch.equal(hidden_states(base, pack([example])), before)


def test_what_scales_an_adapter_is_part_of_its_digest(load: Callable[..., Any], tmp_path: Path) -> None:
    """A cache of the reference's scores goes by it, and so does a resume."""
    base = load("llama")
    save_role(base, awake(base, "made", AdapterConfig(r=4, lora_alpha=8), torch.float32), tmp_path)
    same, config = load_adapter(base, tmp_path, "same"), tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 16'))
    other = load_adapter(base, tmp_path, "other")
    tensors = [adapter_tensors(base, name) for name in ("same", "other")]
    assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])
    states = [hidden_states(base, pack(rows(7), role.adapter)) for role in (same, other)]
    assert not torch.allclose(*states, rtol=1e-2)
    assert adapter_digest(base, "same") == adapter_digest(base, "made") != adapter_digest(base, "other")
