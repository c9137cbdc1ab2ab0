"""Tiny models and a tiny tokenizer, built here; the real model only where a test is marked slow."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.runtime import tune_process

# Before torch is imported: two test processes on two cores must not spin against each other.
tune_process()
if threading.current_thread() is threading.main_thread():
    # A shell lets what it starts in the background ignore Ctrl-C, and so would every process a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores; more threads than cores only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

SHARED = Path(__file__).parents[2] / "shared" / "data"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def shared_data(name: str) -> Path:
    """A file of ../shared/data; the test skips, saying so, where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"../shared/data/{name} is absent")
    return path


def build_tokenizer(template: str | None = CHATML) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet])}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "a"), ("e", "r"), ("o", "n")]
    for a, b in merges:
        vocab[a + b] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|endoftext|>"],
        chat_template=template,
    )


def build_model(kind: str) -> Any:
    import torch
    import transformers as t

    torch.manual_seed(0)
    size: dict[str, Any] = {
        "vocab_size": 272, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip
    if kind == "llama":
        model = t.LlamaForCausalLM(t.LlamaConfig(**size, tie_word_embeddings=True))
    elif kind == "qwen2":
        model = t.Qwen2ForCausalLM(t.Qwen2Config(**size))
    elif kind == "qwen3":
        model = t.Qwen3ForCausalLM(t.Qwen3Config(**size, head_dim=8))
    elif kind == "mistral":
        model = t.MistralForCausalLM(t.MistralConfig(**size, sliding_window=6))
    elif kind == "gpt2":
        config = t.GPT2Config(
            vocab_size=272, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=None, eos_token_id=2,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        model = t.GPT2LMHeadModel(config)
    else:
        raise ValueError(kind)
    # The default start is so small that every answer is alike; a test needs a model with opinions.
    for parameter in model.parameters():
        parameter.data.mul_(3.0 if parameter.dim() > 1 else 1.0)
    return model


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are empty: for tests of what else a run leaves, since a picture takes longer than a tiny model's run."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda figure, stream, **how: stream.write(b"\x89PNG\r\n"))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """kind -> folder with a tiny model and tokenizer in transformers' layout."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            path = tmp_path_factory.mktemp(kind)
            build_model(kind).save_pretrained(path)
            build_tokenizer().save_pretrained(path)
            made[kind] = path
        return made[kind]

    return folder


@pytest.fixture
def load(model_folder: Callable[[str], Path]) -> Callable[..., Any]:
    """load(kind, dtype='float64', kernels='auto', quantization=None) -> a fresh Base on the CPU."""
    import torch

    from tunesmith.models.load import build_base
    from tunesmith.models.resolve import resolve_model

    def make(kind: str = "llama", dtype: str = "float64", kernels: str = "auto", quantization: Any = None) -> Any:
        resolved = resolve_model(str(model_folder(kind)))
        device = torch.device("cpu")
        return build_base(resolved, device, getattr(torch, dtype), kernels=kernels, quantization=quantization)

    return make
