"""A merged folder is a plain model that says what the adapter and its base said, or it is not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.errors import ModelError, RunError
from tunesmith.kernels.head_loss import logits_of
from tunesmith.models.adapters import PROVENANCE_FILE, AdapterConfig, adapter_digest, add_adapter, save_role
from tunesmith.models.extended import add_token_rows
from tunesmith.models.forward import hidden_states
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.merge import measure_drift
from tunesmith.models.quantized_linear import QuantizationConfig
from tunesmith.models.roles import Base
from tunesmith.recipes.adapter_merge import MergeConfig, merge_adapter
from tunesmith.records import Example, Where
from tunesmith.tokens.pack import pack_prompts

LORA = AdapterConfig(r=4)


def trained(base: Base, config: AdapterConfig, folder: Path, *, size: float = 0.2) -> Path:
    """An adapter far from its start, saved; the base keeps it under the name 'default'."""
    role = add_adapter(base, "default", config, seed=1)
    for i, parameter in enumerate(role.parameters.values()):
        drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
        parameter.data += drawn.to(parameter.dtype) * size
    save_role(base, role, folder)
    return folder


def merge(adapter: Path, output: Path, **settings: Any) -> Any:
    return merge_adapter(MergeConfig(adapter=str(adapter), output=str(output), max_new_tokens=3, **settings))


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_a_merged_folder_is_what_peft_merges(load: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    base = load(kind, "float32")
    adapter = trained(base, LORA, tmp_path / "adapter")
    merged = merge(adapter, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.resolved.folder), adapter)
    theirs = theirs.merge_and_unload()
    for (key, ours), (same, value) in zip(plain.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert key == same
        torch.testing.assert_close(ours, value, rtol=1e-5, atol=1e-6)
    untouched = AutoModelForCausalLM.from_pretrained(base.resolved.folder)
    ids = list(range(5, 25))
    assert (logits(plain, ids) - logits(untouched, ids)).abs().max() > 1
    assert merged.drift.mean_kl_nats.value < 1e-6 and merged.drift.top1_agreement.value == 1
    assert merged.drift.max_logit_difference < 1e-2 and not merged.forced
    # It loads by --model too, and its tokenizer says the same.
    again = load_base(ModelConfig(model_name_or_path=str(tmp_path / "merged"), dtype="float32"))
    assert again.resolved.tokenizer_digest == base.resolved.tokenizer_digest
    assert again.resolved.template_digest == base.resolved.template_digest
    written = json.loads((tmp_path / "merged" / PROVENANCE_FILE).read_text())["merged_from"]
    assert written["adapter"]["digest"] == adapter_digest(base, "default")
    assert written["base"]["base_digest"] == base.resolved.base_digest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "merged"]


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", AdapterConfig(method="ia3")),
        ("gpt2", AdapterConfig(r=2, use_dora=True)),
        ("gpt2", AdapterConfig(r=2, bias="lora_only")),
        ("llama", AdapterConfig(r=2, init_lora_weights="pissa", use_rslora=True)),
    ],
    ids=["ia3", "dora", "bias", "pissa"],
)
def test_what_is_no_plain_sum_is_merged_too(
    load: Callable[..., Any], tmp_path: Path, kind: str, config: AdapterConfig
) -> None:
    base = load(kind, "float32")
    adapter = trained(base, config, tmp_path / "adapter", size=0.05)
    merge(adapter, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.resolved.folder), adapter)
    ids = list(range(5, 25))
    torch.testing.assert_close(logits(plain, ids), logits(theirs, ids), rtol=1e-3, atol=2e-3)
    untouched = AutoModelForCausalLM.from_pretrained(base.resolved.folder)
    assert (logits(plain, ids) - logits(untouched, ids)).abs().max() > 0.03


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_new_tokens_become_rows_of_the_model(load: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    base = load(kind, "float32")
    tokenizer = AutoTokenizer.from_pretrained(base.resolved.folder)
    tokenizer.add_tokens(["<new>"])
    added = tokenizer.convert_tokens_to_ids("<new>")
    add_token_rows(base, "default", tokenizer, {added: [5, 9]})
    adapter = trained(base, LORA, tmp_path / "adapter")
    merge(adapter, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    rows = base.token_rows["default"]
    assert plain.config.vocab_size == rows.num_rows
    assert torch.equal(plain.get_input_embeddings().weight[added], rows.embedding_RD[0])
    assert torch.equal(plain.get_output_embeddings().weight[added], rows.head_RD[0])
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").encode("<new>") == [added]
    tied = plain.get_input_embeddings().weight is plain.get_output_embeddings().weight
    assert tied is (kind == "llama")


def test_what_cannot_be_merged_says_why(load: Callable[..., Any], tmp_path: Path) -> None:
    adapter = trained(load("llama", "float32"), AdapterConfig(method="bottleneck"), tmp_path / "adapter")
    with pytest.raises(ModelError, match="non-linearity"):
        merge(adapter, tmp_path / "merged")
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_what_is_merged_is_not_replaced_by_what_comes_of_it(load: Callable[..., Any], tmp_path: Path) -> None:
    model = shutil.copytree(load("llama", "float32").resolved.folder, tmp_path / "model")
    base = load_base(ModelConfig(model_name_or_path=str(model), dtype="float32"))
    adapter = trained(base, LORA, tmp_path / "adapter")
    inside = shutil.copytree(adapter, shutil.copytree(model, tmp_path / "other") / "adapter")
    for source, output in ((adapter, model), (inside, tmp_path / "other")):
        files = sorted(p for p in tmp_path.rglob("*"))
        with pytest.raises(RunError, match="which is merged"):
            merge(source, output, overwrite=True, force=True)
        assert sorted(p for p in tmp_path.rglob("*")) == files


def test_drift_above_a_limit_leaves_nothing_unless_forced(load: Callable[..., Any], tmp_path: Path) -> None:
    adapter = trained(load("llama", "float32"), LORA, tmp_path / "adapter")
    called = ["adapter", "merge", str(adapter), "--output", str(tmp_path / "new" / "merged"), "--dtype", "bfloat16"]
    refused = CliRunner().invoke(app, [*called, "--max-kl", "1e-9"])
    assert refused.exit_code == 2 and "the mean KL" in refused.output and "--force" in refused.output
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]
    done = CliRunner().invoke(app, [*called, "--max-kl", "1e-9", "--force", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    assert report["forced"] and report["dtype"] == "bfloat16" and report["drift"]["mean_kl_nats"]["value"] > 1e-9
    written = json.loads((tmp_path / "new" / "merged" / PROVENANCE_FILE).read_text())
    assert written["forced"] and written["drift"] == report["drift"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "new" / "merged", dtype="auto").dtype == torch.bfloat16
    with pytest.raises(RunError, match="exists"):
        merge(adapter, tmp_path / "new" / "merged")


def test_drift_is_what_its_definition_says(load: Callable[..., Any], tmp_path: Path) -> None:
    """Against NumPy, between two models that differ."""
    base, other = load("llama", "float64"), load("llama", "float64")
    trained(base, LORA, tmp_path / "adapter", size=0.05)
    ids = np.arange(5, 17)
    example = Example(ids=ids, loss_weight=np.zeros(12, np.float32), row_id=0, where=Where("x"))
    drift = measure_drift(base, "default", other, [example, example])
    p, q = (
        logits_of(hidden_states(one, pack_prompts([ids], [0], name)), one.head).detach().numpy()
        for one, name in ((base, "default"), (other, None))
    )

    def log_softmax(x: Any) -> Any:
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    kl = (np.exp(log_softmax(p)) * (log_softmax(p) - log_softmax(q))).sum(-1)
    np.testing.assert_allclose(drift.kl_T, np.tile(kl, 2), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(drift.max_T[:12], np.abs(p - q).max(-1))
    np.testing.assert_allclose(drift.mean_T[12:], np.abs(p - q).mean(-1))
    assert drift.agrees_T[:12].tolist() == (p.argmax(-1) == q.argmax(-1)).tolist()
    assert drift.prompt_T.tolist() == [0] * 12 + [1] * 12
    assert kl.max() > 1e-3


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_4_bit_base_is_unpacked_first(load: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    folder = load(kind).resolved.folder
    base = load_base(ModelConfig(model_name_or_path=str(folder), dtype="float32", quantization=QuantizationConfig()))
    adapter = trained(
        base, AdapterConfig(r=2, target_modules=["down_proj" if kind == "llama" else "c_fc"]), tmp_path / "a"
    )
    merged = merge(adapter, tmp_path / "merged")
    # Against the weights as they were, before 4 bits, the drift would be thousands of times the limit.
    assert merged.drift.mean_kl_nats.value < 1e-5
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ids = np.arange(5, 25)
    ours = logits_of(hidden_states(base, pack_prompts([ids], [0], "default")), base.head)
    torch.testing.assert_close(logits(plain, ids.tolist()), ours.detach(), rtol=1e-3, atol=1e-2)
    theirs = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    same = [key for key, value in plain.state_dict().items() if torch.equal(value, theirs[key])]
    assert same and not any("proj.weight" in key or ("c_" in key and key.endswith("weight")) for key in same)
    assert plain.dtype == torch.float32 and not hasattr(plain.config, "quantization_config")
