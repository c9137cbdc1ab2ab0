"""What LoRA's settings may say: ranks by pattern, names of maps, and what is refused because it means nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from tunesmith.errors import ConfigError
from tunesmith.models.adapters import AdapterConfig, add_adapter


def test_ranks_and_alphas_by_pattern(load: Callable[..., Any]) -> None:
    base = load("llama")
    config = AdapterConfig(r=4, rank_pattern={"q_proj": 2, r"layers\.1\.mlp\..*": 6}, alpha_pattern={"v_proj": 12})
    role = add_adapter(base, "default", config, seed=1)
    ranks = {k.split(".lora_A")[0]: p.shape[0] for k, p in role.parameters.items() if "lora_A" in k}
    assert {r for k, r in ranks.items() if "q_proj" in k} == {2}
    assert {r for k, r in ranks.items() if ".1.mlp" in k} == {6}
    assert {r for k, r in ranks.items() if ".0.mlp" in k or "k_proj" in k} == {4}
    assert base.model.model.layers[0].self_attn.v_proj.scaling["default"] == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rank_pattern": {"q_prj": 2}}, "'q_prj' means none of the modules.*Nearest: .*q_proj"),
        ({"alpha_pattern": {"gate": 2}}, "alpha_pattern.*Nearest: .*gate_proj"),
        ({"rank_pattern": {"(": 2}}, "no regular expression"),
        ({"rank_pattern": {"q_proj": 2, r".*attn\..*": 3}}, "both mean"),
        ({"rank_pattern": {"up_proj": 2}, "target_modules": ["q_proj"]}, "'up_proj' means none"),
        ({"target_modules": ["q_proj", "v_prj"]}, "'v_prj' means none of the modules.*Nearest: .*v_proj"),
        ({"bias": "lora_only"}, "none of the maps with matrices has a bias"),
    ],
)
def test_settings_that_mean_nothing_here_are_refused(
    load: Callable[..., Any], wrong: dict[str, Any], said: str
) -> None:
    base = load("llama")
    with pytest.raises(ConfigError, match=said):
        add_adapter(base, "default", AdapterConfig(**wrong), seed=1)
    assert base.peft_model is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"init_lora_weights": "pisa"}, {"init_lora_weights": "pissa_niter_0"}, {"init_lora_weights": "loftq"},
        {"bias": "all"}, {"rank_pattern": {"q_proj": 0}}, {"alpha_pattern": {"q_proj": -1}},
        {"method": "full", "use_dora": True},
    ],
)  # fmt: skip
def test_settings_that_are_none_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AdapterConfig(**wrong)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("llama", ["k_proj", "o_proj", "q_proj", "v_proj"]),
        ("gpt2", ["attn.c_proj", "c_attn"]),
    ],
)
def test_attention_means_the_attention_of_the_family(load: Callable[..., Any], kind: str, names: list[str]) -> None:
    from tunesmith.models.lora_targets import attention_modules

    base = load(kind)
    assert attention_modules(base) == names
    role = add_adapter(base, "default", AdapterConfig(r=2, target_modules="attention"), seed=1)
    assert role.parameters and not any("mlp" in key for key in role.parameters)
    # With matrices in place the names are the same.
    assert attention_modules(base) == names


def test_a_model_without_attention_says_what_it_has(load: Callable[..., Any]) -> None:
    base = load("llama")
    for layer in base.model.model.layers:
        layer.mixer = layer.self_attn
        del layer.self_attn
    with pytest.raises(ConfigError, match=r"no module called attention; its linear maps are .*q_proj"):
        add_adapter(base, "default", AdapterConfig(target_modules="attention"), seed=1)
