"""(IA)^3 with parameters of our own: files and answers are stock PEFT's, both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_parts import awake, gradients, packed, states, task
from text_to_text.text_to_text_models import load as load_folder
from text_to_text.text_to_text_models import save_model
from torch import Tensor

from tunesmith.errors import ConfigError, ModelError
from tunesmith.kernels.head_loss import logits_of
from tunesmith.models.adapters import AdapterConfig, adapter_tensors, add_adapter, load_adapter, save_role
from tunesmith.models.forward import forward
from tunesmith.models.own import parts_of
from tunesmith.training.optim import OptimConfig, build_optimizer

KINDS = ["llama", "gpt2", "qwen3", "t5"]


@pytest.fixture
def open_base(load: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """kind -> a fresh fp64 base."""

    def make(kind: str) -> Any:
        return load(kind) if kind != "t5" else load_folder(save_model("t5", tmp_path_factory.mktemp("t5")))

    return make


def stock_model(base: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = AutoModelForSeq2SeqLM if base.is_encoder_decoder else AutoModelForCausalLM
    return kind.from_pretrained(base.resolved.folder, dtype=torch.float64).eval()


def stock_logits(model: Any, base: Any, example: Any) -> Tensor:
    ids = torch.from_numpy(example.ids)[None]
    if base.is_encoder_decoder:
        return model(input_ids=torch.from_numpy(example.source_ids)[None], decoder_input_ids=ids).logits[0]  # type: ignore[no-any-return]
    return model(ids).logits[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
def test_stock_peft_reads_our_file_and_gives_our_logits_and_gradients(
    open_base: Callable[[str], Any], kind: str, tmp_path: Path
) -> None:
    from peft import PeftModel

    base = open_base(kind)
    role, examples = awake(base, "default", {"method": "ia3"}), task(base)[:1]
    save_role(base, role, tmp_path)
    model = PeftModel.from_pretrained(stock_model(base), tmp_path.as_posix(), is_trainable=True).eval()
    theirs_TV = stock_logits(model, base, examples[0])
    # transformers' norms and rotary table work in fp32 even here.
    torch.testing.assert_close(logits_of(states(base, examples, "default"), base.head), theirs_TV, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits_of(states(base, examples, None), base.head), theirs_TV, atol=0.01)
    ours = gradients(base, role, examples)[1]
    example = examples[0]
    weight = torch.from_numpy(example.loss_weight[1:]).double()
    logprobs = torch.log_softmax(theirs_TV[:-1], -1).gather(1, torch.from_numpy(example.ids[1:])[:, None])[:, 0]
    (-(logprobs * weight).sum() / weight.sum()).backward()
    found = {name.replace(".default", ""): p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert set(found) == set(adapter_tensors(base, "default"))
    for key, gradient in zip(role.parameters, ours, strict=True):
        expected = found[f"base_model.model.{key}"].flatten()
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5, msg=lambda text, k=key: f"{k}: {text}")


@pytest.mark.parametrize("kind", KINDS)
def test_we_read_stock_pefts_file_and_give_its_logits(
    open_base: Callable[[str], Any], kind: str, tmp_path: Path
) -> None:
    from peft import IA3Config, get_peft_model

    base, examples = open_base(kind), task(open_base(kind))[:1]
    # Its own choice of maps for the family; a LoRA adapter stands on the base already.
    awake(base, "other", {"r": 2})
    stock = get_peft_model(
        stock_model(base),
        IA3Config(task_type="SEQ_2_SEQ_LM" if kind == "t5" else "CAUSAL_LM", fan_in_fan_out=kind == "gpt2"),
    ).eval()
    for i, parameter in enumerate(p for p in stock.parameters() if p.requires_grad):
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    stock.save_pretrained(tmp_path)
    role = load_adapter(base, tmp_path, "default")
    ours = logits_of(states(base, examples, "default"), base.head)
    with torch.no_grad():
        torch.testing.assert_close(ours, stock_logits(stock, base, examples[0]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits_of(states(base, examples, None), base.head), ours, atol=0.01)
    # What we would place ourselves stands on the same maps.
    assert set(add_adapter(base, "fresh", AdapterConfig(method="ia3"), seed=1).parameters) == {
        key.removeprefix("base_model.model.") for key in adapter_tensors(base, role.name)
    }


def test_a_vector_is_no_matrix_to_the_weight_decay(load: Callable[..., Any]) -> None:
    base = load("llama", "float32")
    role = add_adapter(base, "default", AdapterConfig(method="ia3"), seed=1)
    optimizer = build_optimizer(role.parameters, OptimConfig(weight_decay=0.1))
    assert [group["name"] for group in optimizer.param_groups] == ["vectors"]


def test_a_step_that_bf16_cannot_tell_from_1_still_acts(load: Callable[..., Any]) -> None:
    base = load("llama", "bfloat16")
    examples = task(base)
    role = add_adapter(base, "default", AdapterConfig(method="ia3"), seed=1)
    before = float(forward(base, packed(examples, "default"), "ce_sum")[0].detach())
    for parameter in role.parameters.values():
        parameter.data += 0.003
        assert bool((parameter.bfloat16() == 1).all())
    assert float(forward(base, packed(examples, "default"), "ce_sum")[0].detach()) != before


def test_what_has_no_place_is_refused(load: Callable[..., Any], tmp_path: Path) -> None:
    base = load("llama", "float32")
    for targets, cause in (
        ("all-linear", "scales keys, values"),
        (["embed_tokens"], "'model.embed_tokens' takes no"),
        (["lm_head"], "'lm_head' takes no"),
        (["c_attn"], "no module of the model is called c_attn"),
    ):
        with pytest.raises(ConfigError, match=cause):
            add_adapter(base, "default", AdapterConfig(method="ia3", target_modules=targets), seed=1)
    with pytest.raises(ConfigError, match="subset"):
        config = AdapterConfig(method="ia3", target_modules=["k_proj"], feedforward_modules=["down_proj"])
        add_adapter(base, "default", config, seed=1)
    role = add_adapter(base, "default", AdapterConfig(method="ia3", target_modules=["v_proj", "up_proj"]), seed=1)
    assert sorted({key.split(".")[-2] for key in role.parameters}) == ["up_proj", "v_proj"]
    save_role(base, role, tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "modules_to_save": ["embed_tokens"]}))
    with pytest.raises(ModelError, match="modules_to_save"):
        load_adapter(base, tmp_path, "again")
    base.model.config.model_type = "mamba"
    with pytest.raises(ConfigError, match="no default for models of type 'mamba'"):
        add_adapter(base, "again", AdapterConfig(method="ia3"), seed=1)
    assert set(base.own) == {"default"}


def test_the_last_map_of_the_feed_forward_part_is_known_by_any_of_its_names(load: Callable[..., Any]) -> None:
    whole = AdapterConfig(method="ia3", target_modules=["model.layers.0.mlp.down_proj", "v_proj"])
    llama = load("llama", "float32")
    add_adapter(llama, "default", whole, seed=1)
    found = {part.path.removeprefix("model.layers."): part.feedforward for part in parts_of(llama, "default")}
    assert found == {"0.self_attn.v_proj": False, "0.mlp.down_proj": True, "1.self_attn.v_proj": False}
    # GPT-2 has two maps of that name, which are scaled on different sides.
    short = AdapterConfig(method="ia3", target_modules=["c_attn", "c_proj"])
    with pytest.raises(ConfigError, match=r"'c_proj' means 'mlp\.c_proj'"):
        add_adapter(load("gpt2", "float32"), "default", short, seed=1)
