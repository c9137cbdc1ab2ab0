"""A GGUF file: of the whole model with its adapter merged, or of the LoRA matrices alone.

Tensors are made, packed and written one after the other, so that no second copy of the model is held beside the base.
"""

from __future__ import annotations

import errno
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from peft.tuners.lora import LoraLayer
from torch import Tensor

from tunesmith.errors import DiskFullError, ModelError
from tunesmith.models.adapters import adapter_digest
from tunesmith.models.export.families import (
    ROPE_FACTORS,
    add_facts,
    family_of,
    is_stored_transposed,
    rope_factors,
    tensor_namer,
    to_stored,
)
from tunesmith.models.export.quantize import Model, bytes_of, pack_values, type_of
from tunesmith.models.export.vocabulary import add_vocabulary, read_vocabulary
from tunesmith.models.lora_merged import own_bias, plain_matrices
from tunesmith.models.merge import merged_tensors
from tunesmith.models.roles import Base

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

# llama.cpp's number of each format (gguf.LlamaFileType).
FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q4_k_s": 14, "q4_k_m": 15,
    "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "bf16": 32,
}  # fmt: skip
QUANTIZATION_VERSION = 2
# Room for vocabulary and facts when the disk is asked.
METADATA_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Written:
    """What a file holds. types: number of tensors by their type."""

    path: Path
    num_bytes: int
    types: dict[str, int]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    make: Callable[[], Tensor]


def write_model(base: Base, adapter: str | None, path: Path, quant: str) -> Written:
    """Write base and adapter as one model that llama.cpp loads.

    Raises ModelError for a family, tokenizer or method that cannot be exported and for values the format cannot hold,
    DiskFullError; the file is whole or not there.
    """
    from gguf import GGMLQuantizationType

    model, config, tokenizer = base.model, base.model.config, base.tokenizer_of(adapter)
    family = family_of(config, base.resolved.name)
    rename = tensor_namer(family, config.num_hidden_layers)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    rules = Model(config.num_hidden_layers, tied)
    tensors = []
    for merged in merged_tensors(base, adapter):
        name = rename(merged.name)
        shape = merged.shape[::-1] if is_stored_transposed(family, merged.name, merged.shape) else merged.shape

        def make(source: str = merged.name, value: Callable[[], Tensor] = merged.make) -> Tensor:
            return to_stored(family, config, source, value().float())

        tensors.append(_Tensor(name, shape, type_of(name, shape, quant, rules), make))
    factors = rope_factors(config)
    if factors is not None:
        tensors.append(_Tensor(ROPE_FACTORS, tuple(factors.shape), GGMLQuantizationType.F32, lambda: factors))
    num_rows = next(tensor.shape[0] for tensor in tensors if tensor.name == "token_embd.weight")
    vocabulary = read_vocabulary(tokenizer, num_rows, base.resolved.name)
    with _writer(path, family.architecture, tensors) as writer:
        writer.add_type("model")
        _add_origin(writer, base, adapter)
        writer.add_file_type(FILE_TYPES[quant])
        writer.add_quantization_version(QUANTIZATION_VERSION)
        writer.add_vocab_size(num_rows)
        notes = add_facts(writer, family, config, base.resolved.name)
        add_vocabulary(writer, vocabulary, tokenizer)
    types = Counter(tensor.kind.name.lower() for tensor in tensors)
    return Written(path, path.stat().st_size, dict(types.most_common()), [*notes, *vocabulary.notes])


def write_lora(base: Base, adapter: str, path: Path, quant: str) -> Written:
    """Write an adapter's matrices alone, for llama.cpp to lay over the GGUF of its base (``--lora``).

    llama.cpp scales every pair by one alpha over its rank; where the adapter's own factor differs (rsLoRA, patterns), B
    takes the difference. Raises ModelError for what has no place in such a file.
    """
    from gguf import GGMLQuantizationType

    config = base.model.config
    family = family_of(config, base.resolved.name)
    _check_lora_only(base, adapter)
    rename = tensor_namer(family, config.num_hidden_layers)
    kind = GGMLQuantizationType[quant.upper()]
    layers = {
        name: layer
        for name, layer in base.model.named_modules()
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A
    }
    pairs = {module: plain_matrices(layer, adapter) for module, layer in layers.items()}
    alpha = max(float(layer.scaling[adapter]) * len(pairs[module][0]) for module, layer in layers.items())
    tensors = []
    for module, layer in layers.items():
        a_RI, b_OR = pairs[module]
        factor = float(layer.scaling[adapter]) * len(a_RI) / alpha
        name = rename(f"{module}.weight")

        def make_a(a_RI: Tensor = a_RI) -> Tensor:
            return a_RI.float()

        def make_b(b_OR: Tensor = b_OR, factor: float = factor, module: str = module) -> Tensor:
            # Rows are outputs in every family here; only their order may change.
            return to_stored(family, config, f"{module}.lora_b", factor * b_OR.float())

        tensors.append(_Tensor(f"{name}.lora_a", tuple(a_RI.shape), kind, make_a))
        tensors.append(_Tensor(f"{name}.lora_b", tuple(b_OR.shape), kind, make_b))
    with _writer(path, family.architecture, tensors) as writer:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        _add_origin(writer, base, adapter)
        writer.add_file_type(FILE_TYPES[quant])
    return Written(path, path.stat().st_size, {kind.name.lower(): len(tensors)}, [])


def _check_lora_only(base: Base, adapter: str) -> None:
    method = base.methods.get(adapter)
    if method != "lora":
        raise ModelError(
            "--lora-only", f"the adapter is of method {method}.", "Leave --lora-only out, or train with method: lora."
        )
    if adapter in base.token_rows:
        raise ModelError(
            "--lora-only",
            "the adapter has new tokens, which such a file has no place for.",
            "Leave --lora-only out: a merged file holds them.",
        )
    for layer in base.model.modules():
        if not isinstance(layer, LoraLayer) or adapter not in layer.lora_A:
            continue
        if adapter in layer.lora_magnitude_vector or own_bias(layer, adapter) is not None:
            raise ModelError(
                "--lora-only",
                "the adapter has more than matrices (DoRA's lengths, or biases), which such a file has no place for.",
                "Leave --lora-only out: a merged file holds them.",
            )


def _add_origin(writer: GGUFWriter, base: Base, adapter: str | None) -> None:
    writer.add_name(base.resolved.name if adapter is None else f"{base.resolved.name}, tuned")
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, base.resolved.name)
    writer.add_string("tunesmith.base_digest", base.resolved.base_digest)
    writer.add_string("tunesmith.adapter_digest", adapter_digest(base, adapter))


@contextmanager
def _writer(path: Path, architecture: str, tensors: Sequence[_Tensor]) -> Iterator[GGUFWriter]:
    """A writer for the facts; at the end the tensors follow, and the file appears under its name."""
    from gguf import GGUFWriter

    num_bytes = sum(bytes_of(tensor.shape, tensor.kind) for tensor in tensors)
    free = shutil.disk_usage(path.parent).free
    if num_bytes + METADATA_BYTES > free:
        raise DiskFullError(
            path, f"needs {num_bytes / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free.", "Free some, or write elsewhere."
        )
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    writer = GGUFWriter(temporary, architecture)
    try:
        yield writer
        for tensor in tensors:
            num_bytes = bytes_of(tensor.shape, tensor.kind)
            # Of a dtype that is not bytes, the shape is taken as it is.
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), num_bytes, raw_dtype=tensor.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(pack_values(tensor.name, tensor.make(), tensor.kind))
        writer.close()
        temporary.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFullError(path, "no space left to write it.", "Free some, or write elsewhere.") from None
        raise
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)
