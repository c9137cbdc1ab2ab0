"""Well-known architectures as the numbers of their configs, so that memory can be planned with nothing downloaded.

Names end in ``-like``: the numbers are those that the papers and model cards publish, no weights go with them.
"""

from __future__ import annotations

from typing import Any


def _llama(
    width: int,
    inner: int,
    layers: int,
    heads: int,
    *,
    kv_heads: int | None = None,
    vocab: int = 32_000,
    context: int = 2048,
    tied: bool = False,
) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads or heads,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
    }


KNOWN_SHAPES: dict[str, dict[str, Any]] = {
    # SmolLM2 (arXiv:2502.02737); the embedded model's shape.
    "smollm2-135m-like": _llama(576, 1536, 30, 9, kv_heads=3, vocab=49_152, context=8192, tied=True),
    "smollm2-1.7b-like": _llama(2048, 8192, 24, 32, vocab=49_152, context=8192, tied=True),
    # Llama 3.1 and 3.2 (arXiv:2407.21783 and the model cards).
    "llama-1b-like": _llama(2048, 8192, 16, 32, kv_heads=8, vocab=128_256, context=131_072, tied=True),
    "llama-3b-like": _llama(3072, 8192, 28, 24, kv_heads=8, vocab=128_256, context=131_072, tied=True),
    "llama-8b-like": _llama(4096, 14_336, 32, 32, kv_heads=8, vocab=128_256, context=131_072),
    "llama-3-70b-like": _llama(8192, 28_672, 80, 64, kv_heads=8, vocab=128_256, context=131_072),
    # LLaMA (arXiv:2302.13971, table 2).
    "llama-7b-like": _llama(4096, 11_008, 32, 32),
    "llama-13b-like": _llama(5120, 13_824, 40, 40),
    "llama-33b-like": _llama(6656, 17_920, 60, 52),
    "llama-65b-like": _llama(8192, 22_016, 80, 64),
    # Llama 2 (arXiv:2307.09288).
    "llama-70b-like": _llama(8192, 28_672, 80, 64, kv_heads=8, context=4096),
    # Mistral 7B (arXiv:2310.06825, table 1).
    "mistral-7b-like": _llama(4096, 14_336, 32, 32, kv_heads=8, context=32_768),
    # GPT-2 (small): fused attention maps, learned positions.
    "gpt2-like": {
        "model_type": "gpt2",
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "vocab_size": 50_257,
        "n_positions": 1024,
    },
    # GPT-3's shape (arXiv:2005.14165, table 2.1) with OPT's modules, whose query and value maps stand apart as LoRA's
    # paper needs them.
    "gpt3-175b-like": {
        "model_type": "opt",
        "hidden_size": 12_288,
        "ffn_dim": 49_152,
        "num_hidden_layers": 96,
        "num_attention_heads": 96,
        "vocab_size": 50_257,
        "max_position_embeddings": 2048,
        "word_embed_proj_dim": 12_288,
    },
}
