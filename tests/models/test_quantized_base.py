"""QLoRA on tiny models: gradients, adapters' files, folders; bitsandbytes' own layer is the control that fails."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tunesmith.errors import ConfigError, ModelError
from tunesmith.kernels import nf4
from tunesmith.models import quantized_linear
from tunesmith.models.adapters import AdapterConfig, adapter_tensors, add_adapter, drop_adapter, load_adapter, save_role
from tunesmith.models.forward import hidden_states
from tunesmith.models.load import ModelConfig, build_base, load_base
from tunesmith.models.merge import merged_tensors
from tunesmith.models.quantize import linear_maps, quantized_layers, save_quantized, unpack
from tunesmith.models.quantized_linear import QuantizationConfig, dense_weight
from tunesmith.models.resolve import QUANTIZED_FILE, QUANTIZED_KEY, resolve_model
from tunesmith.models.roles import Role
from tunesmith.randomness import generator
from tunesmith.records import Example, Where
from tunesmith.rollout.generate import LocalGenerator, Prompt
from tunesmith.rollout.likelihood import LocalLikelihood
from tunesmith.rollout.sampling import Sampling
from tunesmith.tokens.pack import pack
from tunesmith.training.distribute import one_process
from tunesmith.training.optim import OptimConfig, build_optimizer
from tunesmith.training.step import accumulate_gradients, mean_loss

NF4 = QuantizationConfig()
CPU = torch.device("cpu")


def rows(*lengths: int) -> list[Example]:
    out = []
    for i, n in enumerate(lengths):
        ids = generator(5, "quantized_rows", i).integers(3, 260, n)
        weight = np.ones(n, np.float32)
        weight[0] = 0.0
        out.append(Example(ids=ids, loss_weight=weight, row_id=i, where=Where("t", i)))
    return out


def awake(base: Any, **settings: Any) -> Role:
    """An adapter that does something: LoRA's B starts at zero."""
    role = add_adapter(base, "default", AdapterConfig(**{"r": 4, "lora_alpha": 8, **settings}), seed=1)
    for i, parameter in enumerate(role.parameters.values()):
        values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        parameter.data = (values * 0.2).to(torch.promote_types(base.dtype, torch.float32))
    return role


def gradients(base: Any, role: Role, examples: list[Example], **how: Any) -> list[Tensor]:
    for parameter in role.parameters.values():
        parameter.grad = None
    accumulate_gradients(base, role, examples, one_process(), **{"micro_batch_tokens": 10_000, **how})
    found = [parameter.grad for parameter in role.parameters.values()]
    assert all(grad is not None and bool(grad.any()) for grad in found)
    return [grad.clone() for grad in found if grad is not None]


@pytest.mark.parametrize(
    ("kind", "kernels"), [("llama", "auto"), ("llama", "reference"), ("qwen3", "auto"), ("gpt2", "auto")]
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_dense_weights(
    load: Callable[..., Any], kind: str, kernels: str, checkpointing: bool
) -> None:
    base = load(kind, kernels=kernels, quantization=NF4)
    assert (base.decoder is not None) == (kernels == "auto" and kind != "gpt2")
    role, examples = awake(base), rows(9, 14, 5)
    ours = gradients(base, role, examples, checkpointing=checkpointing)
    full = load(kind, kernels=kernels)
    others = gradients(full, awake(full), examples, checkpointing=checkpointing)
    unpack(base)
    assert not quantized_layers(base.model)
    for one, two, other in zip(ours, gradients(base, role, examples), others, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
        assert not torch.allclose(one, other, rtol=1e-3)


def test_gradients_are_the_same_after_evaluation_and_generation(load: Callable[..., Any]) -> None:
    base = load("llama", dtype="float32", quantization=NF4)
    role, examples = awake(base), rows(9, 14)
    before = gradients(base, role, examples)
    base.model.eval()
    mean_loss(base, role, examples, one_process(), 1000)
    with torch.no_grad():
        base.model(torch.arange(3, 40)[None])
    LocalGenerator(base).generate([Prompt(ids=np.arange(3, 9), row_id=0)], Sampling(max_new_tokens=4), "default")
    for one, two in zip(before, gradients(base, role, examples), strict=True):
        assert torch.equal(one, two)


@torch.no_grad()
def inference_kernel(x: Tensor, packed: Tensor, shape: Any, magnitude: Tensor, code: Tensor, block: int) -> Tensor:
    """What bitsandbytes' kernel for AVX512-BF16 multiplies with: codes in tiles of 32 rows, magnitudes turned round.

    It works behind autograd's back, as compiled code that is handed addresses does.
    """
    num_rows, width = shape
    halves = packed.reshape(-1, 32)
    tiles = torch.cat([halves & 15, halves >> 4], dim=1).view(num_rows // 32, width // 2, 32, 2)
    numbers = tiles.transpose(1, 2).reshape(num_rows, width)
    return torch.nn.functional.linear(x, code[numbers.long()] * magnitude.T.float().repeat_interleave(block, dim=1))


def test_the_layer_of_bitsandbytes_loses_its_gradient_after_an_evaluation() -> None:
    """The control: why the product is our own.

    On a processor with AVX512-BF16 its layer packs itself anew for inference, stays so, and the operator that reads
    the new form has no backward pass. Where the processor is another, the layer is told it is one, and the kernel it
    lacks is stood in for, put where bitsandbytes puts its own.
    """
    nn = pytest.importorskip("bitsandbytes.nn", reason="bitsandbytes is not installed")
    functional = pytest.importorskip("bitsandbytes.functional")
    if not hasattr(functional, "_convert_weight_packed_for_cpu"):
        pytest.skip("this release of bitsandbytes does not pack anew for inference")
    torch.manual_seed(0)
    layer = nn.Linear4bit(64, 32, bias=False, quant_type="nf4", compute_dtype=torch.float32).to("cpu")
    x = torch.randn(4, 64, requires_grad=True)
    low_rank = torch.randn(32, 64)

    def value_and_gradient() -> tuple[Tensor, Tensor]:
        layer.train()
        with warnings.catch_warnings():
            # That the operator has no backward pass is all it says.
            warnings.simplefilter("ignore")
            y = layer(x) + x @ low_rank.T
            (found,) = torch.autograd.grad(y.sum(), x)
        return y.detach(), found

    library = torch.library.Library("bitsandbytes", "IMPL")
    try:
        if not functional.has_avx512bf16():
            layer.support_avx512bf16_for_cpu = True
            library.impl("gemv_4bit", inference_kernel, "CPU")
        value, gradient = value_and_gradient()
        layer.eval()
        with torch.no_grad():
            layer(x.detach())
        later_value, later_gradient = value_and_gradient()
    finally:
        library._destroy()
    # It still answers the same, within the magnitudes' 16 bits ...
    torch.testing.assert_close(later_value, value, rtol=0.05, atol=0.2)
    if torch.allclose(gradient, later_gradient, rtol=0.05):
        pytest.skip("this release of bitsandbytes keeps its gradient: the control has nothing to show")
    # ... but all that is left of the gradient is what comes through the low-rank branch.
    torch.testing.assert_close(later_gradient, low_rank.sum(0).expand(4, 64))
    assert float((gradient - later_gradient).norm() / gradient.norm()) > 0.01


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_saved_base_is_loaded_as_it_was(
    load: Callable[..., Any], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, folder = load(kind, dtype="float32", quantization=NF4), tmp_path / "packed"
    save_quantized(base, folder)
    # What is loaded was packed before.
    monkeypatch.setattr(quantized_linear, "quantize", None)
    for dtype in (torch.float32, torch.bfloat16):
        again = build_base(resolve_model(str(folder)), CPU, dtype)
        assert again.digest == base.digest
        assert again.resolved.base_digest == base.resolved.base_digest
        assert (again.decoder is None) == (base.decoder is None)
        assert again.num_parameters == base.num_parameters
        ours, theirs = quantized_layers(base.model), quantized_layers(again.model)
        assert ours.keys() == theirs.keys()
        for name, layer in ours.items():
            for one, two in zip(layer.buffers(), theirs[name].buffers(), strict=True):
                assert one.dtype == two.dtype
                assert torch.equal(one, two)
    packed = pack(rows(9, 14))
    float32 = build_base(resolve_model(str(folder)), CPU, torch.float32)
    torch.testing.assert_close(hidden_states(float32, packed), hidden_states(base, packed), rtol=1e-5, atol=1e-6)
    # Saved once more, it is the same file.
    save_quantized(float32, tmp_path / "twice")
    assert (tmp_path / "twice" / QUANTIZED_FILE).read_bytes() == (folder / QUANTIZED_FILE).read_bytes()
    with pytest.raises(ConfigError, match="Leave the key out"):
        build_base(resolve_model(str(folder)), CPU, torch.float32, quantization=QuantizationConfig(double_quant=False))
    # transformers cannot take it for a model of random weights.
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_a_saved_base_that_was_changed_is_refused(load: Callable[..., Any], tmp_path: Path) -> None:
    save_quantized(load(quantization=NF4), tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    content = bytearray((tmp_path / "b" / QUANTIZED_FILE).read_bytes())
    content[-1] ^= 1
    (tmp_path / "b" / QUANTIZED_FILE).write_bytes(content)
    with pytest.raises(ModelError, match="not the file its config names"):
        resolve_model(str(tmp_path / "b"))
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    config["num_hidden_layers"] = 3
    config.pop("layer_types", None)
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="does not fit its config"):
        build_base(resolve_model(str(tmp_path / "a")), CPU, torch.float32)
    with pytest.raises(ModelError, match="is not quantised"):
        save_quantized(load(), tmp_path / "c")
    carried = load(quantization=NF4)
    add_adapter(carried, "taught", AdapterConfig(r=2), 0)
    drop_adapter(carried, "taught")
    # PEFT's wrapping stays, and with it other names than a fresh base's.
    with pytest.raises(ModelError, match="or did"):
        save_quantized(carried, tmp_path / "d")


def test_packed_weights_are_small_and_do_not_depend_on_the_dtype(load: Callable[..., Any]) -> None:
    full, sixteen, thirty_two = (
        load(),
        load(dtype="bfloat16", quantization=NF4),
        load(dtype="float32", quantization=NF4),
    )
    maps = linear_maps(full.model)
    assert maps.keys() == quantized_layers(sixteen.model).keys() and len(maps) == 14
    in_bf16 = sum(2 * layer.weight.numel() for layer in maps.values())
    held = sum(layer.packed.num_bytes for layer in quantized_layers(sixteen.model).values())
    assert held <= 0.30 * in_bf16
    for name, layer in quantized_layers(sixteen.model).items():
        assert torch.equal(layer.codes_P, quantized_layers(thirty_two.model)[name].codes_P)
        assert torch.equal(layer.magnitude_B, quantized_layers(thirty_two.model)[name].magnitude_B)
        error = (dense_weight(layer, torch.float64) - maps[name].weight).norm() / maps[name].weight.norm()
        assert 0.05 < float(error) < 0.15
    assert full.num_parameters == sixteen.num_parameters
    # Embedding, norms and head are as they were.
    embedding = full.model.get_input_embeddings().weight
    assert torch.equal(thirty_two.model.get_input_embeddings().weight, embedding.float())
    assert sixteen.model.get_input_embeddings().weight.dtype == torch.bfloat16


def test_a_stand_in_weight_gives_no_number_and_takes_none(load: Callable[..., Any]) -> None:
    layer = next(iter(quantized_layers(load(quantization=NF4).model).values()))
    assert layer.weight.shape == (32, 32) and layer.weight.dtype == torch.float64
    assert layer.weight.untyped_storage().nbytes() == 8
    assert bool(layer.weight.isnan().all())
    with pytest.raises(RuntimeError, match="single memory location"):
        layer.weight += 1.0


def test_lora_learns_on_a_packed_base(load: Callable[..., Any]) -> None:
    base = load("llama", dtype="float32", quantization=NF4)
    role, examples = add_adapter(base, "default", AdapterConfig(r=8), seed=0), rows(12, 12)
    packed = {name: layer.codes_P.clone() for name, layer in quantized_layers(base.model).items()}
    optimizer = build_optimizer(role.parameters, OptimConfig(learning_rate=0.01))
    losses = []
    for _ in range(25):
        losses.append(accumulate_gradients(base, role, examples, one_process(), micro_batch_tokens=1000).loss)
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(layer.codes_P, packed[name]) for name, layer in quantized_layers(base.model).items())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_adapter_of_a_packed_base_is_an_adapter_of_the_base(
    load: Callable[..., Any], model_folder: Callable[[str], Path], kind: str, tmp_path: Path
) -> None:
    from peft import PeftModel

    base, full = load(kind, quantization=NF4), load(kind)
    role = awake(base)
    save_role(base, role, tmp_path / "packed")
    save_role(full, awake(full), tmp_path / "full")
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("packed", "full"))
    assert {key: (t.shape, t.dtype) for key, t in ours.items()} == {
        key: (t.shape, t.dtype) for key, t in theirs.items()
    }
    settings = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("packed", "full")]
    assert settings[0] == settings[1]
    provenance = json.loads((tmp_path / "packed" / "tunesmith_provenance.json").read_text())
    assert provenance["quantization"] == {"bits": 4, "type": "nf4", "double_quant": True}
    # On the full base it is taken with a note, on one like its own without.
    dense, alike = load(kind), load(kind, quantization=NF4)
    load_adapter(dense, tmp_path / "packed", "one")
    load_adapter(alike, tmp_path / "packed", "one")
    assert [note for note in dense.notes if "in 4 bits" in note and "full precision" in note]
    assert not [note for note in alike.notes if "full precision" in note]
    load_adapter(alike, tmp_path / "full", "two")
    assert [note for note in alike.notes if "trained on a base in full precision" in note]
    for key, tensor in adapter_tensors(alike, "one").items():
        assert torch.equal(tensor, ours[key])
    # Stock PEFT reads it, over stock transformers.
    model = AutoModelForCausalLM.from_pretrained(model_folder(kind), dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = PeftModel.from_pretrained(model, tmp_path / "packed").eval()
    (row,) = rows(11)
    with torch.no_grad():
        theirs_TD = peft(torch.from_numpy(row.ids)[None], output_hidden_states=True).hidden_states[-1][0]
    ours_TD = hidden_states(dense, dataclasses.replace(pack([row]), adapter_S=("one",)))
    torch.testing.assert_close(ours_TD.detach(), theirs_TD, rtol=1e-4, atol=1e-5)


def test_full_tuning_and_odd_keys_are_refused(load: Callable[..., Any], model_folder: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="weights in 4 bits cannot move"):
        add_adapter(load(quantization=NF4), "full", AdapterConfig(method="full"), 0)
    for key, value in (("bits", 8), ("type", "fp4")):
        with pytest.raises(ValueError, match=key):
            ModelConfig.model_validate({"quantization": {key: value}})
    config = ModelConfig.model_validate(
        {"model_name_or_path": str(model_folder("llama")), "quantization": {"bits": 4}, "dtype": "float32"}
    )
    base = load_base(config)
    assert base.quantization == {"bits": 4, "type": "nf4", "double_quant": True}
    assert [note for note in base.notes if "14 linear maps in 4 bits" in note]


def test_caches_tell_a_packed_base_from_a_full_one(load: Callable[..., Any]) -> None:
    bases = [load(), load(quantization=NF4), load(quantization=QuantizationConfig(double_quant=False))]
    assert len({base.digest for base in bases}) == 3
    assert len({base.resolved.base_digest for base in bases}) == 1
    assert len({json.dumps(dict(LocalLikelihood(base).identity), sort_keys=True) for base in bases}) == 3
    assert load().digest == load().resolved.base_digest
    assert QUANTIZED_KEY not in bases[1].model.config.to_dict()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_merged_packed_base_answers_as_the_adapter_on_it(load: Callable[..., Any], kind: str) -> None:
    base, (row,) = load(kind, quantization=NF4), rows(11)
    awake(base)
    wanted = hidden_states(base, dataclasses.replace(pack([row]), adapter_S=("default",))).detach()
    merged = {one.name: one.make().double() for one in merged_tensors(base, "default")}
    dense = load(kind)
    problems = dense.model.load_state_dict(merged, strict=False)
    assert not problems.unexpected_keys and set(problems.missing_keys) <= {"lm_head.weight"}
    # Merged weights are fp32.
    torch.testing.assert_close(hidden_states(dense, pack([row])), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(hidden_states(load(kind), pack([row])), wanted, rtol=1e-2)


def test_plain_calls_of_a_packed_model_are_those_of_the_dense_one(load: Callable[..., Any]) -> None:
    """What transformers and our reference path call is the module's own forward; its gradient is the product's too."""
    base = load("llama", quantization=NF4)
    layer = next(iter(quantized_layers(base.model).values()))
    x = torch.randn(2, 3, 32, dtype=torch.float64, requires_grad=True)
    weight = nf4.dequantize_reference(layer.packed, torch.float64)
    assert torch.equal(layer(x), torch.nn.functional.linear(x, weight))
    (grad,) = torch.autograd.grad(layer(x).sin().sum(), x)
    (wanted,) = torch.autograd.grad(torch.nn.functional.linear(x, weight).sin().sum(), x)
    torch.testing.assert_close(grad, wanted, rtol=1e-10, atol=1e-12)
    ids = torch.arange(3, 20)[None]
    before = base.model(ids).logits
    unpack(base)
    torch.testing.assert_close(base.model(ids).logits, before, rtol=1e-9, atol=1e-12)
