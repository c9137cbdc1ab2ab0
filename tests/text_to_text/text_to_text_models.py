"""Tiny encoder-decoder models and tokenizers, built here; kinds: t5, t5_gated (v1.1: gated, untied), bart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.models.load import build_base
from tunesmith.models.resolve import resolve_model
from tunesmith.randomness import generator
from tunesmith.records import Example, Where

KINDS = ["t5", "t5_gated", "bart"]
VOCAB_SIZE = 272


def build_tokenizer(kind: str) -> Any:
    """Bytes as tokens; T5's ends a text, BART's stands around it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"] if kind == "bart" else ["<pad>", "</s>", "<unk>"]
    vocab = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    around = "<s> $A </s>" if kind == "bart" else "$A </s>"
    used = [(token, vocab[token]) for token in ("<s>", "</s>") if token in around]
    tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=used)
    bos = {"bos_token": "<s>"} if kind == "bart" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", **bos
    )


def build_model(kind: str, **changes: Any) -> Any:
    """Random weights, but with opinions: at the default start the next token is always the one before."""
    import transformers as t

    torch.manual_seed(0)
    if kind.startswith("t5"):
        size: dict[str, Any] = {
            "vocab_size": VOCAB_SIZE, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2,
            "num_heads": 4, "decoder_start_token_id": 0,
        }  # fmt: skip
        gated = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if kind == "t5_gated" else {}
        model = t.T5ForConditionalGeneration(t.T5Config(**{**size, **gated, **changes}))
        if kind == "t5_gated":
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight) * 0.3)
    else:
        size = {
            "vocab_size": VOCAB_SIZE, "d_model": 32, "encoder_layers": 3, "decoder_layers": 2, "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
            "max_position_embeddings": 128, "forced_eos_token_id": None,
        }  # fmt: skip
        model = t.BartForConditionalGeneration(t.BartConfig(**{**size, **changes}))
        model.final_logits_bias += torch.randn_like(model.final_logits_bias) * 0.1
    if kind == "bart":
        for parameter in model.parameters():
            parameter.data.mul_(8.0 if parameter.dim() > 1 else 1.0)
    else:
        model.shared.weight.data.mul_(0.3)
    return model.eval()


def save_model(kind: str, folder: Path) -> Path:
    """A tiny model and its tokenizer in transformers' layout."""
    build_model(kind).save_pretrained(folder)
    build_tokenizer(kind).save_pretrained(folder)
    return folder


def load(folder: Path, dtype: torch.dtype = torch.float64, kernels: str = "auto") -> Any:
    """A fresh base on the CPU."""
    return build_base(resolve_model(str(folder)), torch.device("cpu"), dtype, kernels=kernels)


def rows(base: Any, *lengths: tuple[int, int], seed: int = 0) -> list[Example]:
    """Random rows of (source, target) token counts, both with their end tokens."""
    out, end = [], base.tokenizer.eos_token_id
    for i, (num_source, num_target) in enumerate(lengths):
        draws = generator(seed, "text_to_text_rows", i)
        target = [*draws.integers(4, 250, num_target - 1), end]
        weight = np.ones(num_target + 1, np.float32)
        weight[0] = 0.0
        out.append(
            Example(
                ids=np.array([base.decoder_prefix[0], *target]),
                loss_weight=weight,
                row_id=i,
                where=Where("t", i),
                source_ids=np.array([*draws.integers(4, 250, num_source - 1), end]),
            )
        )
    return out
