"""Tokens and templates: llama.cpp reads the ids we read, and Ollama's template says what the Jinja template says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CHATML, build_tokenizer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tunesmith.errors import ModelError
from tunesmith.evals.parity import AWKWARD_TEXTS
from tunesmith.models.export import vocabulary
from tunesmith.models.export.modelfile import go_template, read_pieces, write_modelfile
from tunesmith.models.export.vocabulary import PATTERNS, read_vocabulary
from tunesmith.models.export.write import write_model
from tunesmith.models.llama_cpp import LlamaCpp, is_installed
from tunesmith.models.load import build_base
from tunesmith.models.resolve import resolve_model
from tunesmith.records import Message

needs_llama_cpp = pytest.mark.skipif(not is_installed(), reason="the extra gguf is not installed")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA_3, QWEN_2 = (pattern for pattern, name in sorted(PATTERNS.items(), key=lambda item: item[1]))


def split_by(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


SPLITS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": split_by(LLAMA_3),
    "qwen2": split_by(QWEN_2),
}


def trained(split: Any, *, ignore_merges: bool = False, normalizer: Any = None) -> Any:
    """A byte-level BPE that has seen the awkward texts, so that its merges reach across what the split must part."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([*AWKWARD_TEXTS * 3, *["1234567890 12 345 6789 the there then"] * 3], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML,
        additional_special_tokens=["<|im_start|>"],
    )  # fmt: skip


def exported(tokenizer: Any, folder: Path) -> Path:
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 3, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    base = build_base(resolve_model(str(folder)), torch.device("cpu"), torch.float32)
    return write_model(base, None, folder / "tiny.gguf", "f32").path


def unlike(file: Path, tokenizer: Any) -> list[str]:
    texts = [*AWKWARD_TEXTS, "a<|im_start|>user\nb<|im_end|> <|endoftext|>\n"]
    with LlamaCpp(file, context_tokens=32, threads=1) as opened:
        assert opened.ends_generation(tokenizer.eos_token_id)
        return [t for t in texts if opened.tokenize(t) != tokenizer(t, add_special_tokens=False).input_ids]


@needs_llama_cpp
@pytest.mark.parametrize("name", list(SPLITS))
def test_llama_cpp_reads_the_tokens_we_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = trained(SPLITS[name], ignore_merges=name == "llama-bpe")
    file = exported(tokenizer, tmp_path)
    assert unlike(file, tokenizer) == []
    # The negative control: under another name the same vocabulary reads other tokens.
    monkeypatch.setattr(vocabulary, "_split_name", lambda *_: "gpt-2" if name != "gpt-2" else "qwen2")
    assert unlike(exported(tokenizer, tmp_path), tokenizer) != []


def test_tokenizers_llama_cpp_cannot_follow_are_refused() -> None:
    tokenizer = trained(split_by(r"\w+|\s+"))
    with pytest.raises(ModelError, match="in a way that has no name of llama"):
        read_vocabulary(tokenizer, 800, "m")
    with pytest.raises(ModelError, match=r"rewrites text first \(Lowercase\)"):
        read_vocabulary(trained(SPLITS["gpt-2"], normalizer=normalizers.Lowercase()), 800, "m")
    with pytest.raises(ModelError, match="its embedding 10 rows"):
        read_vocabulary(trained(SPLITS["gpt-2"]), 10, "m")
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")))
    with pytest.raises(ModelError, match="its tokenizer is WordPiece; only byte-level BPE"):
        read_vocabulary(words, 800, "m")
    pieces = Tokenizer(models.BPE(vocab={"a": 0}, merges=[], byte_fallback=True))
    with pytest.raises(ModelError, match="SentencePiece BPE"):
        read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=pieces), 800, "m")
    composed = read_vocabulary(trained(SPLITS["gpt-2"], normalizer=normalizers.NFC()), 800, "m")
    assert "NFC" in composed.notes[0] and composed.tokens[-1] == "[PAD799]"


def test_ollamas_template_says_what_ours_says() -> None:
    pieces = read_pieces(build_tokenizer())
    assert pieces is not None and pieces.default_system is None
    assert go_template(pieces) == (
        '{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n'
        "{{ end }}{{ end }}<|im_start|>assistant\n"
    )
    said = write_modelfile("a.gguf", build_tokenizer(), ["<|im_end|>"], 100_000, None)
    assert said.startswith("# ollama") and "\nFROM ./a.gguf\n" in said and 'PARAMETER stop "<|im_end|>"\n' in said
    assert "PARAMETER num_ctx 8192\n" in said and "SYSTEM" not in said
    alone = write_modelfile("l.gguf", build_tokenizer(), [], 64, "b.gguf")
    assert "FROM ./b.gguf\nADAPTER ./l.gguf\n" in alone


def test_a_default_system_message_becomes_ollamas_own() -> None:
    template = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML
    tokenizer = build_tokenizer(template)
    pieces = read_pieces(tokenizer)
    assert pieces is not None and pieces.default_system == "Be kind."
    assert pieces.apply([Message(role="user", content="x")]).startswith("<|im_start|>system\nBe kind.<|im_end|>\n")
    assert 'SYSTEM """Be kind."""\n' in write_modelfile("a.gguf", tokenizer, [], 64, None)


@pytest.mark.parametrize(
    "template",
    [
        # Says how many turns there were; folds the system message into the user's; writes Go's own braces.
        "{{ messages | length }}" + CHATML,
        CHATML.replace("{% for", "{% if messages[0]['role'] == 'system' %}{% endif %}{% for").replace(
            "m['content']", "(m['content'] | upper)"
        ),
    ],
)
def test_a_template_that_does_more_is_left_to_ollama(template: str) -> None:
    assert read_pieces(build_tokenizer(template)) is None
    said = write_modelfile("a.gguf", build_tokenizer(template), [], 64, None)
    assert "TEMPLATE " not in said.replace("No TEMPLATE", "") and "No TEMPLATE" in said


def test_pieces_that_would_be_code_to_ollama_are_left_out() -> None:
    pieces = read_pieces(build_tokenizer(CHATML.replace("<|im_start|>", "{{ '{{x}}' }}")))
    assert pieces is not None and go_template(pieces) is None
