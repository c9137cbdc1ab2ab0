"""LoRA's options compute what stock PEFT computes, at the start nothing, and their files are PEFT's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_adapter_combinations import awake, by_peft, loss_and_gradients, rows
from torch import Tensor

from tunesmith.errors import ModelError
from tunesmith.models.adapters import (
    AdapterConfig,
    adapter_digest,
    add_adapter,
    drop_adapter,
    load_adapter,
    save_role,
)
from tunesmith.models.forward import hidden_states
from tunesmith.models.roles import Role
from tunesmith.tokens.pack import pack
from tunesmith.training.optim import OptimConfig, build_optimizer

# Name -> settings; every one must hold on every kind of model.
OPTIONS: dict[str, dict[str, Any]] = {
    "gaussian": {"init_lora_weights": "gaussian"},
    "dora": {"use_dora": True, "use_rslora": True},
    "bias": {"bias": "lora_only"},
    "pissa": {"init_lora_weights": "pissa", "use_rslora": True},
    "pissa_niter": {"init_lora_weights": "pissa_niter_2", "lora_alpha": 7},
    "all": {"use_dora": True, "bias": "lora_only", "init_lora_weights": "pissa"},
}
# Qwen has biases on query, key and value; GPT-2 on every map.
CASES = [
    (kind, option) for kind in ("llama", "qwen2", "gpt2") for option in OPTIONS if kind != "llama" or option != "bias"
]


@pytest.fixture
def load_any(load: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """As ``load``, with a model that has biases besides."""

    def make(kind: str, dtype: str = "float64", kernels: str = "auto") -> Any:
        return with_biases(tmp_path_factory, dtype, kernels) if kind == "qwen2" else load(kind, dtype, kernels)

    return make


def with_biases(factory: pytest.TempPathFactory, dtype: str, kernels: str) -> Any:
    import transformers as t
    from conftest import build_tokenizer

    from tunesmith.models.load import build_base
    from tunesmith.models.resolve import resolve_model

    folder = factory.getbasetemp() / "qwen2"
    if not folder.exists():
        torch.manual_seed(0)
        size = {"vocab_size": 272, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        config = t.Qwen2Config(**size, num_attention_heads=4, num_key_value_heads=2, eos_token_id=2, pad_token_id=2)
        model = t.Qwen2ForCausalLM(config)
        for parameter in model.parameters():
            parameter.data = 3.0 * parameter.data if parameter.dim() > 1 else parameter.data + 0.1
        model.save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)
    return build_base(resolve_model(str(folder)), torch.device("cpu"), getattr(torch, dtype), kernels=kernels)


def states(base: Any, adapter: str | None) -> Tensor:
    return hidden_states(base, pack(rows(9, 6), adapter)).detach().clone()


def settings(option: str) -> AdapterConfig:
    config = {"r": 3, "lora_alpha": 5, **OPTIONS[option]}
    return AdapterConfig(**{k: v for k, v in config.items() if option != "all" or k != "bias"})


@pytest.mark.parametrize(("kind", "option"), CASES)
def test_an_option_begins_as_the_base_is_kept_in_its_file_and_leaves_the_base_alone(
    load_any: Callable[..., Any], tmp_path: Path, kind: str, option: str
) -> None:
    base, config = load_any(kind), settings(option)
    bare, weights = states(base, None), {key: p.clone() for key, p in base.model.named_parameters()}
    fresh = add_adapter(base, "fresh", config, seed=1)
    if "pissa" in config.init_lora_weights:
        # The weight's principal part is taken out and put in again: equal but for rounding.
        torch.testing.assert_close(states(base, "fresh"), bare, rtol=1e-9, atol=1e-9)
    else:
        assert torch.equal(states(base, "fresh"), bare)
    assert fresh.num_parameters == sum(p.numel() for p in fresh.parameters.values() if p.requires_grad)
    role = awake(base, "default", config)
    assert all(p.requires_grad for p in (*role.parameters.values(), *fresh.parameters.values()))
    moved = states(base, "default")
    assert not torch.allclose(moved, bare, rtol=1e-2)
    assert torch.equal(states(base, None), bare)
    save_role(base, role, tmp_path)
    read = load_adapter(base, tmp_path, "read", trainable=True)
    for parameter, kept in zip(read.parameters.values(), role.parameters.values(), strict=False):
        assert parameter.dtype == kept.dtype
    torch.testing.assert_close(states(base, "read"), moved, rtol=1e-9, atol=1e-9)
    assert adapter_digest(base, "read") == adapter_digest(base, "default") != adapter_digest(base, "fresh")
    for name in ("fresh", "default", "read"):
        drop_adapter(base, name)
    left = {key.replace(".base_layer", ""): p for key, p in base.model.named_parameters()}
    assert set(left) == set(weights) and all(torch.equal(left[key], weights[key]) for key in weights)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("kind", "kernels", "option"),
    [
        ("llama", "auto", "dora"), ("llama", "reference", "dora"), ("gpt2", "auto", "dora"),
        ("qwen2", "auto", "bias"), ("gpt2", "auto", "bias"), ("qwen2", "auto", "both"),
    ],
)  # fmt: skip
def test_an_option_learns_as_in_peft(
    load_any: Callable[..., Any], tmp_path: Path, kind: str, kernels: str, option: str, checkpointing: bool
) -> None:
    base, examples = load_any(kind, kernels=kernels), rows(9, 14, 5)
    some = {"target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]} if kind != "gpt2" else {}
    chosen = {"use_dora": True, "bias": "lora_only"} if option == "both" else OPTIONS[option]
    role = awake(base, "default", AdapterConfig(r=3, lora_alpha=5, **some, **chosen))
    loss, ours = loss_and_gradients(base, [role], examples, ["default"] * 3, checkpointing=checkpointing)
    expected, theirs = by_peft(base, role, tmp_path, examples)
    # transformers' RMSNorm and rotary table work in fp32 even here.
    assert loss == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    # Control: the option's own tensors count. Without them, PEFT says something else.
    for key, parameter in role.parameters.items():
        if "magnitude" in key or "extras" in key:
            parameter.data = parameter.data * 1.05
    changed, _ = by_peft(base, role, tmp_path / "changed", examples)
    assert changed != pytest.approx(loss, rel=1e-5)


def test_the_gradient_of_dora_takes_the_norm_for_a_constant(load: Callable[..., Any]) -> None:
    """Against autograd over the formula with the matrix laid out; with the norm in the graph it would be another."""
    from tunesmith.models.linear import Routing, Site

    base = load("llama")
    awake(base, "default", AdapterConfig(r=3, use_dora=True))
    layer = base.model.model.layers[0].mlp.up_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    m, s = layer.lora_magnitude_vector["default"].weight, layer.scaling["default"]
    x = torch.randn(5, a.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for norm_is_constant in (None, True, False):
        if norm_is_constant is None:
            y = Site(layer, 0)(x, Routing(((0, 5, "default"),)))
        else:
            moved = layer.get_base_layer().weight + s * b @ a
            norms = moved.norm(dim=1)
            y = x @ (moved * (m / (norms.detach() if norm_is_constant else norms))[:, None]).T
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), [a, b, m])])
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found[0], found[2], rtol=1e-3, atol=1e-3)


def test_norms_kept_between_decoded_tokens_follow_the_matrices(load: Callable[..., Any], tmp_path: Path) -> None:
    base = load("llama")
    role = awake(base, "default", AdapterConfig(r=3, use_dora=True))
    with torch.no_grad():
        before = states(base, "default")
        assert torch.equal(states(base, "default"), before)
        for key, parameter in role.parameters.items():
            if "lora_B" in key:
                parameter.mul_(1.5)
        after = states(base, "default")
    assert not torch.allclose(after, before, rtol=1e-3)
    assert torch.equal(states(base, "default"), after)
    # A fused step writes unseen; what is validated after it must be what was learnt.
    optimizer = build_optimizer(role.parameters, OptimConfig(learning_rate=0.1))
    loss_and_gradients(base, [role], rows(9), ["default"])
    optimizer.step()
    with torch.no_grad():
        stepped = states(base, "default")
        save_role(base, role, tmp_path)
        load_adapter(base, tmp_path, "copy")
        assert torch.equal(stepped, states(base, "copy"))
    assert not torch.allclose(stepped, after, rtol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_pissa_learns_as_pefts_does_on_a_rewritten_base(load: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    base, examples = load(kind, dtype="float32"), rows(9, 14)
    targets = ["c_attn"] if kind == "gpt2" else ["q_proj", "up_proj"]
    role = add_adapter(
        base, "default", AdapterConfig(r=4, lora_alpha=4, target_modules=targets, init_lora_weights="pissa"), seed=1
    )
    config = LoraConfig(
        r=4, lora_alpha=4, target_modules=targets, init_lora_weights="pissa", fan_in_fan_out=kind == "gpt2",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    plain = AutoModelForCausalLM.from_pretrained(base.resolved.folder, dtype=torch.float32).eval()
    stock = get_peft_model(plain, config).eval()
    own = {name: p for name, p in stock.named_parameters() if p.requires_grad}
    steps = [torch.optim.SGD(list(ps), lr=0.02) for ps in (role.parameters.values(), own.values())]
    for _ in range(3):
        ours, _ = loss_and_gradients(base, [role], examples, ["default"] * 2)
        total = torch.zeros(())
        for example in examples:
            ids, weight = torch.from_numpy(example.ids), torch.from_numpy(example.loss_weight[1:])
            logprobs = torch.log_softmax(stock(ids[None]).logits[0, :-1], -1).gather(1, ids[1:, None])[:, 0]
            total = total - (logprobs * weight).sum()
        total.backward()
        assert ours == pytest.approx(float(total.detach()), rel=1e-4)
        steps[0].step()
        steps[1].step()
        steps[1].zero_grad()
    first = states(base, None)
    ids = torch.from_numpy(examples[1].ids)[None]
    theirs = stock(ids).logits.detach()
    # Its file is plain LoRA of twice the rank for the base as it was, in stock PEFT too.
    save_role(base, role, tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["r"] == 8 and written["init_lora_weights"] is True and written["lora_alpha"] == 8
    whole = AutoModelForCausalLM.from_pretrained(base.resolved.folder, dtype=torch.float32).eval()
    reread = PeftModel.from_pretrained(whole, tmp_path.as_posix()).eval()(ids).logits.detach()
    torch.testing.assert_close(reread, theirs, rtol=1e-3, atol=2e-3)
    assert torch.equal(states(base, None), first)
    # Control: the base alone says something else.
    bare = AutoModelForCausalLM.from_pretrained(base.resolved.folder, dtype=torch.float32).eval()(ids).logits.detach()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(bare, theirs, rtol=1e-3, atol=2e-3)


@torch.no_grad()
def test_a_pissa_start_is_the_best_product_of_its_rank(load: Callable[..., Any]) -> None:
    base = load("llama")
    add_adapter(base, "exact", AdapterConfig(r=5, init_lora_weights="pissa"), seed=1)
    add_adapter(base, "drawn", AdapterConfig(r=5, init_lora_weights="pissa_niter_8"), seed=1)
    add_adapter(base, "again", AdapterConfig(r=5, init_lora_weights="pissa_niter_8"), seed=1)
    layer = base.model.model.layers[1].mlp.down_proj
    weight = layer.get_base_layer().weight
    rest = [
        float((weight - layer.scaling[n] * layer.lora_B[n].weight @ layer.lora_A[n].weight).norm())
        for n in ("exact", "drawn", "again")
    ]
    assert rest[0] == pytest.approx(float(torch.linalg.svdvals(weight)[5:].norm()), rel=1e-9)
    assert rest[0] <= rest[1] < 1.02 * rest[0]
    # Draws are a function of seed and adapter name.
    assert rest[1] != rest[2]
    other = load("llama")
    add_adapter(other, "drawn", AdapterConfig(r=5, init_lora_weights="pissa_niter_8"), seed=1)
    assert adapter_digest(base, "drawn") == adapter_digest(other, "drawn")


def test_a_bias_of_one_adapter_is_no_others(load_any: Callable[..., Any]) -> None:
    base = load_any("gpt2")
    bare, packed = states(base, None), rows(9, 6)
    first = add_adapter(base, "first", AdapterConfig(r=2, bias="lora_only"), seed=1)
    second = add_adapter(base, "second", AdapterConfig(r=2, bias="lora_only"), seed=2)
    for key, parameter in first.parameters.items():
        if "extras" in key:
            parameter.data += 0.5
    assert not torch.allclose(states(base, "first"), bare, rtol=1e-2)
    assert torch.equal(states(base, "second"), bare) and torch.equal(states(base, None), bare)
    _, gradients = loss_and_gradients(base, [first, second], packed, ["first", "second"])
    by_name = dict(zip([*first.parameters, *second.parameters], gradients, strict=True))
    biases = [g for name, g in by_name.items() if "extras" in name]
    assert len(biases) == 16 and all(g is not None and float(g.abs().max()) > 0 for g in biases)


def test_stock_files_with_dora_and_biases_are_taken(load_any: Callable[..., Any], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base, (example,) = load_any("qwen2", dtype="float32"), rows(9)
    plain = AutoModelForCausalLM.from_pretrained(base.resolved.folder, dtype=torch.float32).eval()
    config = LoraConfig(
        r=3, lora_alpha=6, target_modules=["q_proj", "up_proj"], use_dora=True, bias="lora_only", task_type="CAUSAL_LM"
    )
    stock = get_peft_model(plain, config).eval()
    for number, parameter in enumerate(p for p in stock.parameters() if p.requires_grad):
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    stock.save_pretrained(tmp_path)
    role: Role = load_adapter(base, tmp_path, "default", trainable=True)
    kinds = {key.split(".")[-3] for key in role.parameters}
    assert kinds == {"lora_A", "lora_B", "lora_magnitude_vector", "lora_extras"}
    ids = torch.from_numpy(example.ids)[None]
    theirs = stock.base_model.model.model(ids).last_hidden_state[0].detach()
    ours = hidden_states(base, pack([example], "default")).detach()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_stock_pissa_file_says_how_to_convert_it(load: Callable[..., Any], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = load("llama", dtype="float32")
    plain = AutoModelForCausalLM.from_pretrained(base.resolved.folder, dtype=torch.float32)
    config = LoraConfig(r=3, target_modules=["q_proj"], init_lora_weights="pissa", task_type="CAUSAL_LM")
    get_peft_model(plain, config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="Convert it"):
        load_adapter(base, tmp_path, "default")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_options_on_a_base_in_4_bits_are_those_on_the_weights_it_stands_for(
    load: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    from tunesmith.models.quantize import unpack
    from tunesmith.models.quantized_linear import QuantizationConfig

    packed, config = load(kind, quantization=QuantizationConfig(bits=4)), settings("all")
    bare = states(packed, None)
    add_adapter(packed, "fresh", config, seed=1)
    torch.testing.assert_close(states(packed, "fresh"), bare, rtol=1e-9, atol=1e-9)
    role = awake(packed, "default", config)
    save_role(packed, role, tmp_path)
    dense = load(kind, quantization=QuantizationConfig(bits=4))
    unpack(dense)
    load_adapter(dense, tmp_path, "default")
    torch.testing.assert_close(states(dense, "default"), states(packed, "default"), rtol=1e-6, atol=1e-6)
    # Control: the weights as they were before they were packed give something else.
    whole = load(kind)
    load_adapter(whole, tmp_path, "default")
    assert not torch.allclose(states(whole, "default"), states(packed, "default"), rtol=1e-2)


@pytest.mark.parametrize(
    ("kind", "option"),
    [("llama", "dora"), ("llama", "pissa"), ("qwen2", "all"), ("gpt2", "bias"), ("gpt2", "all")],
)
def test_the_merged_map_is_what_the_formulas_say(load_any: Callable[..., Any], kind: str, option: str) -> None:
    from tunesmith.models.lora_merged import own_bias, plain_matrices
    from tunesmith.models.merge import merged_tensors

    base = load_any(kind)
    awake(base, "default", settings(option))
    merged = {one.name: one for one in merged_tensors(base, "default")}
    layers = {key: m for key, m in base.model.named_modules() if hasattr(m, "lora_A")}
    for key, layer in list(layers.items())[:: len(layers) - 1]:
        stored = layer.get_base_layer().weight.detach()
        # W + s B A, and DoRA's magnitudes over the lengths of its rows (Liu et al. 2024, equation 5).
        a_RI, b_OR = plain_matrices(layer, "default")
        weight_OI = (stored.T if kind == "gpt2" else stored) + layer.scaling["default"] * b_OR @ a_RI
        if "default" in layer.lora_magnitude_vector:
            magnitude_O = layer.lora_magnitude_vector["default"].weight.detach()
            weight_OI = weight_OI * (magnitude_O / weight_OI.norm(dim=1))[:, None]
        expected = weight_OI.T if kind == "gpt2" else weight_OI
        torch.testing.assert_close(merged[f"{key}.weight"].make(), expected, rtol=1e-9, atol=1e-9)
        assert merged[f"{key}.weight"].shape == stored.shape and not torch.allclose(stored, expected, rtol=1e-2)
        if (bias := own_bias(layer, "default")) is not None:
            torch.testing.assert_close(merged[f"{key}.bias"].make(), bias, rtol=1e-9, atol=1e-9)
    untouched = {key: one.make() for key, one in merged.items() if key.rpartition(".")[0] not in layers}
    plain = dict(base.model.named_parameters())
    assert untouched and all(value.data_ptr() == plain[key].data_ptr() for key, value in untouched.items())


@pytest.mark.parametrize(("kind", "option"), [("llama", "dora"), ("gpt2", "bias"), ("llama", "pissa")])
def test_the_planner_counts_what_an_option_has(
    load_any: Callable[..., Any], tmp_path: Path, kind: str, option: str
) -> None:
    from safetensors.torch import load_file

    from tunesmith.models.adapter_cost import adapter_cost
    from tunesmith.models.shape import shape_of_config

    base = load_any(kind)
    # One layer's map, and all layers' maps of a name.
    pattern = "c_attn" if kind == "gpt2" else r"layers\.1\..*q_proj"
    config = settings(option).model_copy(update={"rank_pattern": {pattern: 5}})
    role = add_adapter(base, "default", config, seed=1)
    cost = adapter_cost(shape_of_config(base.model.config, "tiny"), config)
    assert cost.parameters == role.num_parameters
    save_role(base, role, tmp_path)
    assert cost.saved_parameters == sum(t.numel() for t in load_file(tmp_path / "adapter_model.safetensors").values())
