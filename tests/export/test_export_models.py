"""A model with its adapter as a GGUF file computes what it did here: by transformers' reader and by llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_models import ADAPTER, IDS, llama_cpp_logits, our_logits, transformers_logits, tuned
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tunesmith.errors import DiskFullError, ModelError
from tunesmith.evals import parity
from tunesmith.models.adapters import AdapterConfig
from tunesmith.models.export import families, write
from tunesmith.models.export.write import write_lora, write_model
from tunesmith.models.extended import add_token_rows
from tunesmith.models.llama_cpp import LlamaCpp, is_installed
from tunesmith.models.load import build_base
from tunesmith.models.resolve import resolve_model
from tunesmith.stats import Interval

Load = Callable[..., Any]
needs_llama_cpp = pytest.mark.skipif(not is_installed(), reason="the extra gguf is not installed")
# llama.cpp keeps keys and values in float16 unless told otherwise.
CACHE_ERROR = 0.01
TEXTS = ["The lighthouse stood on a rock far from the shore.", "Plants make sugar from water and light."]


@pytest.mark.parametrize(
    ("kind", "method"), [("llama", "lora"), ("qwen3", "lora"), ("gpt2", "lora"), ("llama", "ia3"), ("gpt2", "ia3")]
)
def test_a_merged_file_computes_what_the_adapter_does(kind: str, method: str, load: Load, tmp_path: Path) -> None:
    base = load(kind, "float32")
    if method == "ia3":
        tuned(base, AdapterConfig(method="ia3"), size=1.0)
    else:
        tuned(base, AdapterConfig(r=4, use_rslora=True))
    file = write_model(base, ADAPTER, tmp_path / "tiny.gguf", "f32").path
    ours, bare = our_logits(base, ADAPTER), our_logits(base, None)
    # The negative control: the bare base is another model.
    assert np.abs(ours - bare).max() > 0.5
    # transformers reads neither a Qwen3's head size nor a GPT-2's number of positions.
    how = {} if kind == "llama" else {"config": base.model.config}
    assert np.abs(transformers_logits(file, **how) - ours).max() < 2e-5
    if is_installed():
        assert np.abs(llama_cpp_logits(file) - ours).max() < CACHE_ERROR


@needs_llama_cpp
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_matrices_alone_do_the_same_over_the_base(kind: str, load: Load, tmp_path: Path) -> None:
    base = load(kind, "float32")
    role = tuned(base, AdapterConfig(r=4, use_rslora=True))
    bare = write_model(base, None, tmp_path / "base.gguf", "f32").path
    lora = write_lora(base, ADAPTER, tmp_path / "lora.gguf", "f32").path
    assert np.abs(llama_cpp_logits(bare, lora) - our_logits(base, ADAPTER)).max() < CACHE_ERROR
    assert np.abs(llama_cpp_logits(bare) - our_logits(base, None)).max() < CACHE_ERROR
    # One layer scaled by a factor of its own: the file has one alpha for all, so B must take the difference.
    layer = next(m for m in base.model.modules() if hasattr(m, "lora_A") and ADAPTER in m.lora_A)
    layer.scaling[ADAPTER] *= 0.25
    lora = write_lora(base, ADAPTER, tmp_path / "pattern.gguf", "f32").path
    assert np.abs(llama_cpp_logits(bare, lora) - our_logits(base, ADAPTER)).max() < CACHE_ERROR
    assert role.num_parameters > 0


@needs_llama_cpp
def test_new_tokens_are_rows_of_the_file(load: Load, tmp_path: Path) -> None:
    base = load("llama", "float32")
    tokenizer = AutoTokenizer.from_pretrained(base.resolved.folder)
    tokenizer.add_tokens(["myocardial", "infarction"])
    ids = tokenizer.convert_tokens_to_ids(["myocardial", "infarction"])
    rows = add_token_rows(base, ADAPTER, tokenizer, {i: [i - 60, i - 90] for i in ids})
    tuned(base)
    words = np.array([5, *ids, 9, ids[0], 100])
    file = write_model(base, ADAPTER, tmp_path / "new.gguf", "f32").path
    assert np.abs(llama_cpp_logits(file, ids=words) - our_logits(base, ADAPTER, words)).max() < CACHE_ERROR
    with LlamaCpp(file, context_tokens=32, threads=1) as opened:
        assert opened.num_tokens == rows.num_rows
        assert opened.tokenize("a myocardial b") == tokenizer("a myocardial b", add_special_tokens=False).input_ids
    with pytest.raises(ModelError, match="new tokens, which such a file has no place for"):
        write_lora(base, ADAPTER, tmp_path / "lora.gguf", "f32")


@needs_llama_cpp
def test_rows_out_of_order_fail_the_check(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load("llama", "float32")
    tuned(base)
    for name, parameter in base.model.named_parameters():
        # Attention must be sharp enough to notice where its rows are.
        parameter.data *= 4 if "q_proj.base" in name or "k_proj.base" in name else 1.5
    ours = parity.our_side(base, ADAPTER, TEXTS)
    good = parity.compare(base, ADAPTER, ours, write_model(base, ADAPTER, tmp_path / "a.gguf", "f32").path, "f32")
    assert good.faults == [] and abs(good.gap.value) < 1e-3
    assert good.same_continuations == good.num_prompts == 4 and good.same_texts == good.num_texts
    monkeypatch.setattr(families, "interleave_heads", lambda rows, num_heads: rows)
    straight = write_model(base, ADAPTER, tmp_path / "b.gguf", "f32").path
    bad = parity.compare(base, ADAPTER, ours, straight, "f32")
    assert bad.same_tokens < bad.num_tokens and any("perplexity" in fault for fault in bad.faults)
    assert bad.first is not None and bad.first.our_gap > 0


def test_the_surest_of_the_other_tokens_decides_not_the_first(load: Load) -> None:
    base = load("llama", "float32")
    tuned(base)
    ours = parity.our_side(base, ADAPTER, TEXTS)

    class Theirs:
        """Llama.cpp that says ours' second choice at first, and its last one three tokens later."""

        def logits(self, ids: list[int]) -> Any:
            logits_TV = our_logits(base, ADAPTER, np.array(ids))
            start = next(len(p) for p, a in zip(ours.prompt_ids, ours.answers, strict=True) if [*p, *a[:-1]] == ids)
            for at, rank in ((start - 1, -2), (start + 2, 0)):
                logits_TV[at, logits_TV[at].argsort()[rank]] = 1e3
            return logits_TV

    total, others = parity._tokens(base, ADAPTER, ours, Theirs(), base.tokenizer)  # type: ignore[arg-type]
    assert total == sum(map(len, ours.answers)) and [one.position for one in others[:2]] == [1, 4]
    first, second = others[:2]
    assert first.our_gap < second.our_gap
    gap = Interval(0.0, 0.0, 0.0)
    found = parity.Parity("f16", 4, 4, 9, 7, replace(first, our_gap=0.01), second, 1, 1, 9.0, 9.0, gap, 9, 0.1, 1.0)
    (fault,) = parity._faults(found, [], [])
    assert f"token {second.position} after" in fault
    assert parity._faults(replace(found, worst=found.first), [], []) == []


def saved(model: Any, tokenizer: Any, folder: Path) -> Any:
    """A Base of a model made in the test, with values that matter everywhere."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.data = torch.randn(parameter.shape) * (0.6 if "q_proj" in name or "k_proj" in name else 0.25)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return build_base(resolve_model(str(folder)), torch.device("cpu"), torch.float32)


@needs_llama_cpp
def test_qwen_2_keeps_its_rows_and_biases(tmp_path: Path, load: Load) -> None:
    config = Qwen2Config(
        vocab_size=272, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, use_sliding_window=False,
    )  # fmt: skip
    base = saved(Qwen2ForCausalLM(config), load("llama").tokenizer, tmp_path / "model")
    tuned(base)
    written = write_model(base, ADAPTER, tmp_path / "a.gguf", "f32")
    # transformers gives every Qwen2 tokenizer this normaliser.
    assert "NFC" in written.notes[0] and len(written.notes) == 1 and written.types == {"f32": 2 * 12 + 3}
    ours = our_logits(base, ADAPTER)
    assert np.abs(llama_cpp_logits(written.path) - ours).max() < CACHE_ERROR * max(1, np.abs(ours).max())


@needs_llama_cpp
def test_llama_3s_rotary_scaling_is_a_tensor_of_divisors(tmp_path: Path, load: Load) -> None:
    rope = {
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    config = LlamaConfig(
        vocab_size=272, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, rope_parameters=rope, attention_bias=True,
    )  # fmt: skip
    inv_freq, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / 500.0 ** (torch.arange(0, 16, 2) / 16)
    divisors = families.rope_factors(config)
    assert divisors is not None and torch.allclose(plain / divisors, inv_freq, rtol=1e-5)
    assert len(set(divisors.round(decimals=3).tolist())) > 2, "nothing is blended"
    base = saved(LlamaForCausalLM(config), load("llama").tokenizer, tmp_path / "model")
    ours = our_logits(base, None)
    file = write_model(base, None, tmp_path / "a.gguf", "f32").path
    assert np.abs(llama_cpp_logits(file) - ours).max() < CACHE_ERROR * max(1, np.abs(ours).max())
    config.rope_parameters = {**rope, "rope_type": "default"}
    base.model.config.rope_parameters = config.rope_parameters
    file = write_model(base, None, tmp_path / "b.gguf", "f32").path
    assert np.abs(llama_cpp_logits(file) - ours).max() > 5 * CACHE_ERROR * max(1, np.abs(ours).max())


@needs_llama_cpp
def test_yarn_is_exported_as_llama_cpp_knows_it_or_not_at_all(tmp_path: Path, load: Load) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 32}
    config = LlamaConfig(
        vocab_size=272, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, rope_parameters=rope,
    )  # fmt: skip
    base = saved(LlamaForCausalLM(config), load("llama").tokenizer, tmp_path / "model")
    ours = our_logits(base, None)
    file = write_model(base, None, tmp_path / "a.gguf", "f32").path
    assert np.abs(llama_cpp_logits(file) - ours).max() < CACHE_ERROR * max(1, np.abs(ours).max())
    base.model.config.rope_parameters = {**rope, "beta_fast": 8.0}
    with pytest.raises(ModelError, match=r"yarn's beta_fast is 8\.0"):
        write_model(base, None, tmp_path / "b.gguf", "f32")


def test_a_sliding_window_bounds_what_the_file_says_it_reads(load: Load, tmp_path: Path) -> None:
    base = load("mistral", "float32")
    written = write_model(base, None, tmp_path / "a.gguf", "f32")
    assert written.notes == ["context length is written as 6: llama.cpp has no sliding window for this family."]
    if is_installed():
        short = IDS[:6]
        assert np.abs(llama_cpp_logits(written.path, ids=short) - our_logits(base, None, short)).max() < CACHE_ERROR


def test_what_cannot_be_exported_is_refused_with_its_reason(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, file = load("llama", "float32"), tmp_path / "a.gguf"
    monkeypatch.setattr(write.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(DiskFullError, match="MB are free"):
        write_model(base, None, file, "f32")
    monkeypatch.undo()
    norm = base.model.model.norm.weight
    norm.data[0] = float("nan")
    with pytest.raises(ModelError, match=r"output_norm\.weight: holds a number that is infinite or none"):
        write_model(base, None, file, "f16")
    norm.data[0] = 1.0
    base.model.lm_head.weight.data[0, 0] = 1e6
    with pytest.raises(ModelError, match="float16 cannot"):
        write_model(base, None, file, "f16")
    base.methods["soft"] = "prefix"
    with pytest.raises(ModelError, match="the prefix adapter: cannot be merged: it is keys and values"):
        write_model(base, "soft", file, "f32")
    base.model.config.hidden_act = "gelu"
    with pytest.raises(ModelError, match=r"hidden_act is gelu, llama\.cpp computes silu"):
        write_model(base, None, file, "f32")
    base.model.config.model_type = "gemma3_text"
    with pytest.raises(ModelError, match=r"type 'gemma3_text' are not exported.*llama, mistral, qwen2"):
        write_model(base, None, file, "f32")
    assert list(tmp_path.iterdir()) == []
