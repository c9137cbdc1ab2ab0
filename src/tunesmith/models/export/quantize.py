"""Which number format each tensor of a GGUF file gets, and its values in that format.

Block formats of 32 (q8_0, q4_0, ...) are packed by the ``gguf`` package in NumPy; those of 256 (q4_k_m, ...) by
ggml's own quantiser, out of the llama.cpp binding. Per tensor the rules are llama.cpp's, but for one: where it would
take q6_k for the head of a file in a 32 format, which NumPy does not pack, q8_0 is taken.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tunesmith.errors import ConfigError, MissingExtraError, ModelError
from tunesmith.models import llama_cpp

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

PLAIN = ("f32", "f16", "bf16")
BLOCKS_OF_32 = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
# Name -> the type most tensors get.
BLOCKS_OF_256 = {"q6_k": "Q6_K", "q5_k_m": "Q5_K", "q5_k_s": "Q5_K", "q4_k_m": "Q4_K", "q4_k_s": "Q4_K"}
QUANTS = (*PLAIN, *BLOCKS_OF_32, *BLOCKS_OF_256)
# What a row gets that does not fill blocks of 256.
SMALLER_BLOCKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
HEADS = ("output.weight", "token_embd.weight")
# Lookups and norms that llama.cpp adds instead of multiplying by.
NEVER_PACKED = ("_norm.weight", "position_embd.weight", "rope_freqs.weight")


@dataclass(frozen=True, slots=True)
class Model:
    """What the rules ask of a model: its layers and whether its head is its embedding."""

    num_layers: int
    tied: bool


def check_quant(quant: str) -> None:
    """Raise ConfigError for a name we do not know, MissingExtraError for one that needs the absent llama.cpp."""
    if quant not in QUANTS:
        near = difflib.get_close_matches(quant.lower(), QUANTS, n=1)
        meant = f"Did you mean {near[0]}? " if near else ""
        raise ConfigError("--quant", f"'{quant}' is not known.", f"{meant}Known are {', '.join(QUANTS)}.")
    if quant in BLOCKS_OF_256 and not llama_cpp.is_installed():
        raise MissingExtraError(
            "--quant",
            f"{quant} is packed by llama.cpp's own quantiser, and {llama_cpp.BINDING} is not installed.",
            f"Run: {llama_cpp.INSTALL}; or export --quant f16 and run: llama-quantize FILE-f16.gguf OUT.gguf {quant}",
        )


def type_of(name: str, shape: tuple[int, ...], quant: str, model: Model) -> GGMLQuantizationType:
    """The type of one tensor, by llama.cpp's name and transformers' shape (rows, columns)."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if len(shape) < 2 or not name.endswith(".weight") or name.endswith(NEVER_PACKED):
        return GGMLQuantizationType.F32
    wanted = GGMLQuantizationType[_wanted(name, quant, model)]
    for smaller in (SMALLER_BLOCKS.get(wanted.name, "F16"), "F16"):
        if shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0:
            return wanted
        wanted = GGMLQuantizationType[smaller]
    return wanted


def _wanted(name: str, quant: str, model: Model) -> str:
    is_head = name == HEADS[0] or (model.tied and name == HEADS[1])
    if quant not in BLOCKS_OF_256:
        return "Q8_0" if is_head and quant in BLOCKS_OF_32 else quant.upper()
    most = BLOCKS_OF_256[quant]
    if is_head:
        return "Q6_K"
    part, layer = name.split(".")[2:3], int(name.split(".")[1]) if name.startswith("blk.") else 0
    first_eighth = model.num_layers // 8
    if quant.endswith("_m") and part in (["attn_v"], ["ffn_down"]):
        # The first and last eighth of the layers, and every third between.
        outer = layer < first_eighth or layer >= 7 * model.num_layers // 8
        return "Q6_K" if outer or (layer - first_eighth) % 3 == 2 else most
    if quant.endswith("_m") and part == ["attn_qkv"]:
        # GPT-2's queries, keys and values in one.
        return {"Q4_K": "Q5_K", "Q5_K": "Q6_K"}[most]
    if quant == "q4_k_s" and ((part == ["attn_v"] and layer < 4) or (part == ["ffn_down"] and layer < first_eighth)):
        return "Q5_K"
    return most


def pack_values(name: str, tensor: Tensor, kind: GGMLQuantizationType) -> NDArray[np.generic]:
    """A tensor's values in one type: float arrays, or bytes (rows, bytes of a row).

    Raises ModelError for values that are not finite, or beyond what float16 holds.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

    values = tensor.detach().float().contiguous().numpy()
    if not np.isfinite(values).all():
        raise ModelError(name, "holds a number that is infinite or none.", "Train again with a smaller learning_rate.")
    if kind == GGMLQuantizationType.F32:
        return values
    if kind == GGMLQuantizationType.F16:
        if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            raise ModelError(name, "holds numbers float16 cannot.", "Use --quant bf16, or one of the q formats.")
        return values.astype(np.float16)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if kind.name in SMALLER_BLOCKS:
        return llama_cpp.quantize_rows(values, int(kind), values.shape[-1] // block * block_bytes)
    packed: NDArray[np.generic] = quants.quantize(values, kind)
    return packed


def bytes_of(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    """Bytes of a tensor's values."""
    from gguf import GGML_QUANT_SIZES

    block, block_bytes = GGML_QUANT_SIZES[kind]
    return int(np.prod(shape)) // block * block_bytes
