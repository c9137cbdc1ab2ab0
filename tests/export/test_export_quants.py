"""Number formats: blocks as their definition lays them out, errors within their bounds, types by llama.cpp's rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_models import llama_cpp_logits, our_logits
from gguf import GGUFReader, quants
from gguf.constants import GGMLQuantizationType as Kind

from tunesmith.errors import ConfigError, MissingExtraError
from tunesmith.models import llama_cpp
from tunesmith.models.export.quantize import BLOCKS_OF_32, Model, bytes_of, check_quant, pack_values, type_of
from tunesmith.models.export.write import write_model

needs_llama_cpp = pytest.mark.skipif(not llama_cpp.is_installed(), reason="the extra gguf is not installed")
BLOCK = 32
VALUES = np.random.default_rng(0).normal(size=(6, 4 * BLOCK)).astype(np.float32)
VALUES[0, :BLOCK] = 0.0
VALUES[1, 3], VALUES[2, 5] = 40.0, -40.0


def q8_0(values: np.ndarray) -> bytes:
    """A float16 scale, then 32 signed bytes: x / scale, the scale being the largest |x| over 127."""
    out = b""
    for block in values.reshape(-1, BLOCK):
        scale = np.abs(block).max() / np.float32(127)
        numbers = np.zeros(BLOCK) if scale == 0 else block / scale
        # Halves go away from zero, as C's roundf does.
        rounded = np.sign(numbers) * np.floor(np.abs(numbers) + 0.5)
        out += np.float16(scale).tobytes() + rounded.astype(np.int8).tobytes()
    return out


def q4_0(values: np.ndarray, *, low_first: bool = True) -> bytes:
    """A float16 scale, then 16 bytes: the first half of the numbers in the low nibbles, the second in the high ones.

    The number of largest size, signed, becomes -8.
    """
    out = b""
    for block in values.reshape(-1, BLOCK):
        scale = block[np.abs(block).argmax()] / np.float32(-8)
        numbers = np.full(BLOCK, 8) if scale == 0 else np.clip(np.floor(block / scale + np.float32(8.5)), 0, 15)
        first, second = numbers.astype(np.uint8).reshape(2, BLOCK // 2)
        low, high = (first, second) if low_first else (second, first)
        out += np.float16(scale).tobytes() + (low | high << 4).tobytes()
    return out


def test_blocks_are_laid_out_as_their_definition_says() -> None:
    packed = {kind: pack_values("x", torch.from_numpy(VALUES), kind).tobytes() for kind in (Kind.Q8_0, Kind.Q4_0)}
    assert packed[Kind.Q8_0] == q8_0(VALUES) and packed[Kind.Q4_0] == q4_0(VALUES)
    assert packed[Kind.Q4_0] != q4_0(VALUES, low_first=False)
    assert len(packed[Kind.Q8_0]) == bytes_of(VALUES.shape, Kind.Q8_0) == VALUES.size // 32 * 34


@needs_llama_cpp
@pytest.mark.parametrize("quant", BLOCKS_OF_32)
def test_ggml_packs_the_same_bytes(quant: str) -> None:
    kind = Kind[quant.upper()]
    row_bytes = bytes_of((VALUES.shape[1],), kind)
    assert np.array_equal(
        llama_cpp.quantize_rows(VALUES, int(kind), row_bytes), pack_values("x", torch.from_numpy(VALUES), kind)
    )


# Largest error in units of a block's largest value: half a step, for formats without an offset at most a step.
@pytest.mark.parametrize(
    ("kind", "bound"),
    [(Kind.Q8_0, 0.5 / 127), (Kind.Q5_0, 1 / 16), (Kind.Q4_0, 1 / 8), (Kind.Q5_1, 1 / 31), (Kind.Q4_1, 1 / 15)],
)
def test_errors_stay_within_a_step(kind: Kind, bound: float) -> None:
    back = quants.dequantize(pack_values("x", torch.from_numpy(VALUES), kind), kind)
    errors, sizes = (np.abs(x).reshape(-1, BLOCK).max(1) for x in (back - VALUES, VALUES))
    # float16 scales add a thousandth.
    assert (errors <= sizes * bound * 1.002 + 1e-3 * sizes).all()
    assert errors.max() > 0


@needs_llama_cpp
@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q5_K, Kind.Q6_K])
def test_ggmls_own_quantiser_serves_the_formats_numpy_cannot(kind: Kind) -> None:
    values = np.random.default_rng(1).normal(size=(3, 512)).astype(np.float32)
    back = quants.dequantize(pack_values("x", torch.from_numpy(values), kind), kind)
    bits = {Kind.Q4_K: 4, Kind.Q5_K: 5, Kind.Q6_K: 6}[kind]
    error = float(np.sqrt(((back - values) ** 2).mean()))
    assert 0 < error < 0.35 * 2 ** (2 - bits)


def test_types_follow_llama_cpps_rules() -> None:
    model = Model(num_layers=32, tied=False)

    def kinds(quant: str, name: str, columns: int = 4096, model: Model = model) -> str:
        return type_of(name, (512, columns), quant, model).name

    assert kinds("q8_0", "blk.0.attn_q.weight") == "Q8_0" and kinds("q4_0", "output.weight") == "Q8_0"
    assert kinds("q4_0", "token_embd.weight") == "Q4_0"
    assert kinds("q4_0", "token_embd.weight", model=Model(32, tied=True)) == "Q8_0"
    assert kinds("f16", "position_embd.weight") == "F32"
    assert type_of("blk.0.attn_norm.weight", (64,), "q4_0", model) == Kind.F32
    # More bits where llama.cpp gives them: v and down, in the outer eighths and in every third layer between.
    more = [layer for layer in range(32) if kinds("q4_k_m", f"blk.{layer}.ffn_down.weight") == "Q6_K"]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert kinds("q4_k_m", "blk.5.attn_v.weight") == "Q4_K" and kinds("q5_k_m", "blk.6.attn_v.weight") == "Q6_K"
    assert kinds("q4_k_m", "blk.6.attn_q.weight") == "Q4_K" and kinds("q4_k_m", "output.weight") == "Q6_K"
    assert [kinds("q4_k_s", f"blk.{i}.attn_v.weight") for i in (3, 4)] == ["Q5_K", "Q4_K"]
    assert [kinds(quant, "blk.1.attn_qkv.weight") for quant in ("q4_k_s", "q4_k_m", "q5_k_m")] == [
        "Q4_K",
        "Q5_K",
        "Q6_K",
    ]
    # Rows that do not fill a block of 256 or 32.
    assert kinds("q4_k_m", "blk.5.attn_q.weight", 576) == "Q5_0" and kinds("q6_k", "blk.5.attn_q.weight", 576) == "Q8_0"
    assert kinds("q4_k_m", "blk.5.attn_q.weight", 48) == "F16" and kinds("q8_0", "blk.5.attn_q.weight", 48) == "F16"


@needs_llama_cpp
def test_packed_files_stay_near_and_hold_what_they_say(load: Any, tmp_path: Path) -> None:
    base = load("llama", "float32")
    ours = our_logits(base, None)
    errors = []
    for quant in ("f16", "q8_0", "q5_1", "q4_k_m", "q4_0"):
        written = write_model(base, None, tmp_path / f"{quant}.gguf", quant)
        assert written.num_bytes == written.path.stat().st_size
        tensors = {tensor.name: tensor for tensor in GGUFReader(written.path).tensors}
        assert sum(written.types.values()) == len(tensors)
        assert tensors["output_norm.weight"].tensor_type == Kind.F32
        errors.append(float(np.abs(llama_cpp_logits(written.path) - ours).mean()))
    assert errors == sorted(errors) and errors[0] < 0.002 and errors[1] < 0.02 and errors[-1] < 0.3


def test_unknown_formats_and_absent_quantisers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="Did you mean q4_k_m"):
        check_quant("q4_km")
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: False)
    check_quant("q8_0")
    with pytest.raises(MissingExtraError, match=r"pip install 'tunesmith\[gguf\]'.*llama-quantize"):
        check_quant("q4_k_m")
