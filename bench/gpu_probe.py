"""What the card gives: the rate of a large bf16 product, and the random-weights model that both sides load.

python bench/gpu_probe.py --tokenizer DIR --model OUT     # prints one JSON line
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

# Llama 3.2 1B but for the vocabulary, which is the embedded tokenizer's.
SHAPE: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 2_048,
    "intermediate_size": 8_192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4_096,
    "tie_word_embeddings": True,
}


def linear_weights(shape: dict[str, Any]) -> int:
    """Weights of the linear maps inside the layers."""
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    kv = width * shape["num_key_value_heads"] // shape["num_attention_heads"]
    return int(shape["num_hidden_layers"] * (2 * width * width + 2 * width * kv + 3 * width * inner))


def write_model(folder: str, tokenizer_folder: str, device: str = "cuda") -> None:
    """A Llama of random weights in bf16 with the tokenizer of another model."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    end = tokenizer.eos_token_id
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, bos_token_id=None, eos_token_id=end, pad_token_id=end))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def product_tflops(rows: int, inner: int, columns: int, calls: int = 20) -> float:
    """TFLOP/s of bf16 products of random numbers, the median of single calls timed by events."""
    import torch

    a = torch.randn(rows, inner, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(inner, columns, device="cuda", dtype=torch.bfloat16)
    seconds = []
    for call in range(calls + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        a @ b
        end.record()
        torch.cuda.synchronize()
        if call >= 3:
            seconds.append(begin.elapsed_time(end) / 1e3)
    return 2 * rows * inner * columns / sorted(seconds)[len(seconds) // 2] / 1e12


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--model", required=True)
    args = parser.parse_args()
    import torch

    began = time.perf_counter()
    write_model(args.model, args.tokenizer)
    facts = {
        "card": torch.cuda.get_device_name(),
        "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1),
        "torch": torch.__version__,
        "model_seconds": round(time.perf_counter() - began, 1),
        "tflops_8192": round(product_tflops(8_192, 8_192, 8_192), 1),
        "tflops_layer": round(product_tflops(8_192, SHAPE["hidden_size"], SHAPE["intermediate_size"]), 1),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
