"""Bottleneck adapters where the papers put them, and files that no other program reads half."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_parts import awake, gradients, states, task
from text_to_text.text_to_text_models import load as load_folder
from text_to_text.text_to_text_models import save_model
from torch import Tensor, nn

from tunesmith.errors import ConfigError, ModelError
from tunesmith.models.adapters import AdapterConfig, add_adapter, load_adapter, save_role
from tunesmith.models.bottleneck import FAMILIES
from tunesmith.models.load import build_base
from tunesmith.models.resolve import resolve_model

SMALL = {"method": "bottleneck", "reduction_factor": 4}


def tiny(kind: str) -> Any:
    """A model of a family that no other test builds."""
    import transformers as t

    torch.manual_seed(0)
    size: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
    }  # fmt: skip
    if kind == "opt":
        own = {"ffn_dim": 24, "word_embed_proj_dim": 16}
    elif kind == "gemma":
        own = {"head_dim": 8, "num_key_value_heads": 1}
    else:
        own = {}
    config = t.AutoConfig.for_model(kind, **size, **own)
    return t.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(("kind", "kernels"), [("llama", "auto"), ("llama", "reference"), ("gpt2", "reference")])
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer", "parallel"])
def test_it_stands_where_the_paper_draws_it(load: Callable[..., Any], kind: str, placement: str, kernels: str) -> None:
    scaling = {"scaling": 2.0} if placement == "parallel" else {}
    base = load(kind, kernels=kernels)
    role = awake(base, "default", {**SMALL, "placement": placement, "non_linearity": "silu", **scaling})
    examples = task(base)[:1]
    got = states(base, examples, "default")
    expected = drawn(load(kind, kernels="reference").model, role, placement, torch.from_numpy(examples[0].ids))
    # transformers' RMSNorm and rotary table work in fp32 even here.
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(got, states(base, examples, None), atol=1e-2)


def drawn(model: Any, role: Any, placement: str, ids_T: Tensor) -> Tensor:
    """The figures of the papers as hooks on an untouched model of transformers: the output before the residual sum."""

    def small(path: str, x: Tensor) -> Tensor:
        w = {
            key: role.parameters[f"{path}.adapter_{key}"]
            for key in ("down.weight", "down.bias", "up.weight", "up.bias")
        }
        inner = nn.functional.silu(x @ w["down.weight"].T + w["down.bias"])
        return inner @ w["up.weight"].T + w["up.bias"]

    def after_sublayer(path: str) -> Any:
        def hook(_: nn.Module, __: Any, out: Any) -> Any:
            y = out[0] if isinstance(out, tuple) else out
            changed = y + small(path, y)
            return (changed, *out[1:]) if isinstance(out, tuple) else changed

        return hook

    def beside(path: str) -> Any:
        return lambda _, given, out: out + 2.0 * small(path, given[0])

    llama = model.config.model_type == "llama"
    layers, prefix = (model.model.layers, "model.layers") if llama else (model.transformer.h, "transformer.h")
    for number, layer in enumerate(layers):
        at = f"{prefix}.{number}"
        if placement == "parallel":
            layer.mlp.register_forward_hook(beside(f"{at}.mlp"))
            continue
        layer.mlp.register_forward_hook(after_sublayer(f"{at}.mlp.{'down_proj' if llama else 'c_proj'}"))
        if placement == "houlsby":
            attention = layer.self_attn if llama else layer.attn
            last = "self_attn.o_proj" if llama else "attn.c_proj"
            attention.register_forward_hook(after_sublayer(f"{at}.{last}"))
    with torch.no_grad():
        return model.get_decoder()(input_ids=ids_T[None], use_cache=False).last_hidden_state[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["gemma", "gpt_neox", "opt", "phi"])
def test_it_is_found_in_every_family_that_is_listed(kind: str, tmp_path: Path) -> None:
    from conftest import build_tokenizer

    tiny(kind).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    base = build_base(resolve_model(str(tmp_path)), torch.device("cpu"), torch.float32)
    counts = {}
    for placement in ("houlsby", "pfeiffer", "parallel"):
        config = AdapterConfig(**SMALL, placement=placement)
        if placement == "parallel" and FAMILIES[kind].around is None:
            with pytest.raises(ConfigError, match="no module around their feed-forward part"):
                add_adapter(base, placement, config, seed=1)
            continue
        counts[placement] = add_adapter(base, placement, config, seed=1).num_parameters
    # Two layers; a bottleneck has 16 * 4 + 4 + 4 * 16 + 16 numbers.
    assert counts["pfeiffer"] == 2 * 148 and counts["houlsby"] == 4 * 148
    assert counts.get("parallel", 2 * 148) == 2 * 148


def test_a_family_or_a_size_that_cannot_be_is_refused(load: Callable[..., Any]) -> None:
    base = load("llama", "float32")
    with pytest.raises(ConfigError, match="reduction_factor 64 leaves nothing of a width of 32"):
        add_adapter(base, "default", AdapterConfig(method="bottleneck", reduction_factor=64), seed=1)
    base.model.config.model_type = "mamba"
    with pytest.raises(ConfigError, match="not of 'mamba'"):
        add_adapter(base, "default", AdapterConfig(**SMALL), seed=1)
    assert not base.own and not base.methods
    for wrong in ({"scaling": 2.0}, {"method": "lora", "placement": "pfeiffer"}, {"non_linearity": "step"}):
        with pytest.raises(ValueError):
            AdapterConfig(**{**SMALL, **wrong})


def test_stock_peft_refuses_the_file_aloud(load: Callable[..., Any], tmp_path: Path) -> None:
    from peft import PeftConfig, PeftModel

    base = load("llama", "float32")
    save_role(base, awake(base, "default", SMALL), tmp_path)
    with pytest.raises(Exception, match="BOTTLENECK"):
        PeftConfig.from_pretrained(tmp_path.as_posix())
    with pytest.raises(Exception, match="BOTTLENECK"):
        PeftModel.from_pretrained(load("llama", "float32").model, tmp_path.as_posix())


def test_a_file_that_says_too_little_or_too_much_is_refused(load: Callable[..., Any], tmp_path: Path) -> None:
    base = load("llama", "float32")
    save_role(base, awake(base, "default", SMALL), tmp_path)
    path = tmp_path / "adapter_config.json"
    written = json.loads(path.read_text())
    assert "scaling" not in written and written["peft_type"] == "BOTTLENECK"
    for change, cause in (
        ({"non_linearity": None}, "does not say its non_linearity"),
        ({"non_linearity": "step"}, "Input should be"),
        ({"placement": "parallel"}, "does not say its scaling"),
        ({"reduction_factor": 8}, "4 of another|of another"),
        ({"ln_before": True}, "settings of another program: ln_before"),
    ):
        path.write_text(json.dumps({**written, **change}))
        with pytest.raises(ModelError, match=cause):
            load_adapter(base, tmp_path, "again")
        assert set(base.own) == {"default"}
    # Control: as it was written it is read, and under a name that is free again.
    path.write_text(json.dumps(written))
    load_adapter(base, tmp_path, "again")
    with pytest.raises(ConfigError, match="on the base already"):
        load_adapter(base, tmp_path, "again")


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_the_order_in_which_methods_come_does_not_matter(load: Callable[..., Any], kernels: str) -> None:
    configs = {"small": SMALL, "low_rank": {"r": 4}}
    alone, found = load("llama", kernels=kernels), []
    examples = task(alone)
    awake(alone, "small", SMALL)
    for order in (("small", "low_rank"), ("low_rank", "small")):
        base = load("llama", kernels=kernels)
        for name in order:
            awake(base, name, configs[name])
        found.append([states(base, examples, name) for name in ("small", "low_rank", None)])
        assert torch.equal(found[-1][0], states(alone, examples, "small"))
        assert torch.equal(found[-1][2], states(alone, examples, None))
    assert torch.equal(found[0][1], found[1][1]) and not torch.equal(found[0][1], found[0][0])


@pytest.mark.parametrize("placement", ["houlsby", "parallel"])
@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_half_precision_learns_in_fp32_what_fp32_learns(kind: str, placement: str, tmp_path: Path) -> None:
    folder = save_model(kind, tmp_path)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        base = load_folder(folder, dtype)
        config = {**SMALL, "placement": placement}
        if kind == "bart" and placement == "parallel":
            with pytest.raises(ConfigError, match="no module around their feed-forward part"):
                add_adapter(base, "default", AdapterConfig(**config), seed=1)
            return
        role = awake(base, "default", config)
        found[dtype] = gradients(base, role, task(base))[1]
        assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in found[dtype])
    exact, rounded = (torch.cat([g.flatten() for g in found[d]]) for d in found)  # type: ignore[union-attr]
    assert float(torch.cosine_similarity(exact, rounded, dim=0)) > 0.97
