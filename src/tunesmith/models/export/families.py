"""What llama.cpp calls a model's parts, and the facts it wants to know of it.

Llama's rotary embedding turns dimension i together with i + half in transformers, and 2i with 2i + 1 in llama.cpp, so
the rows of the query and key projections change places on the way; Qwen's are kept as they are on both sides.
Shape letters: O, I outputs and inputs of a linear map, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tunesmith.errors import ModelError

if TYPE_CHECKING:
    from gguf import GGUFWriter

ROPE_FACTORS = "rope_freqs.weight"
# Settings under which llama.cpp computes something else than transformers does.
MUST_BE = {"hidden_act": "silu", "activation_function": "gelu_new"}
MUST_BE_GPT2 = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}
# What a file does not say of yarn, and llama.cpp takes for granted.
YARN_MUST_BE = {
    "attention_factor": None, "mscale": None, "mscale_all_dim": None, "beta_fast": 32, "beta_slow": 1, "truncate": True,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Family:
    """How one of llama.cpp's architectures holds a model of transformers.

    permutes: whether query and key rows change places. transposed: whether linear weights are stored (in, out).
    """

    architecture: str
    permutes: bool
    transposed: bool = False


FAMILIES: Mapping[str, Family] = {
    "llama": Family("llama", permutes=True),
    "mistral": Family("llama", permutes=True),
    "qwen2": Family("qwen2", permutes=False),
    "qwen3": Family("qwen3", permutes=False),
    "gpt2": Family("gpt2", permutes=False, transposed=True),
}


def family_of(config: Any, name: str) -> Family:
    """The family of a model's config. Raises ModelError where llama.cpp would compute something else, or we cannot say.

    name: the model's, for the error.
    """
    kind = config.model_type
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ModelError(
            name,
            f"models of type '{kind}' are not exported: nobody has checked here that llama.cpp computes what they do.",
            f"Exported are {known}; for others save a merged folder and use llama.cpp's convert_hf_to_gguf.py.",
        )
    wanted = {**MUST_BE, **(MUST_BE_GPT2 if kind == "gpt2" else {})}
    for key, value in wanted.items():
        if getattr(config, key, value) != value:
            raise ModelError(
                name, f"{key} is {getattr(config, key)}, llama.cpp computes {value}.", "It cannot be exported."
            )
    return FAMILIES[kind]


def tensor_namer(family: Family, num_layers: int) -> Callable[[str], str]:
    """A function from transformers' name of a tensor to llama.cpp's; it raises KeyError for one llama.cpp lacks."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    (architecture,) = (arch for arch, name in MODEL_ARCH_NAMES.items() if name == family.architecture)
    names = get_tensor_name_map(architecture, num_layers)

    def rename(name: str) -> str:
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise KeyError(name)
        return found

    return rename


def interleave_heads(rows_O: Tensor, num_heads: int) -> Tensor:
    """(O,) or (O, I) -> the same shape: each head's first and second half of rows, one of each in turn."""
    half = rows_O.shape[0] // num_heads // 2
    return rows_O.reshape(num_heads, 2, half, -1).transpose(1, 2).reshape(rows_O.shape).contiguous()


def to_stored(family: Family, config: Any, name: str, tensor: Tensor) -> Tensor:
    """A tensor as llama.cpp keeps it; of a LoRA pair this is applied to B, whose rows are the map's outputs."""
    if family.permutes and ".q_proj." in name:
        return interleave_heads(tensor, config.num_attention_heads)
    if family.permutes and ".k_proj." in name:
        return interleave_heads(tensor, config.num_key_value_heads)
    return tensor.T.contiguous() if is_stored_transposed(family, name, tuple(tensor.shape)) else tensor


def is_stored_transposed(family: Family, name: str, shape: tuple[int, ...]) -> bool:
    """Whether a weight of the bare model is (in, out) here and (out, in) there."""
    return family.transposed and len(shape) == 2 and ".h." in name and name.endswith(".weight")


def add_facts(writer: GGUFWriter, family: Family, config: Any, name: str) -> list[str]:
    """Write the numbers llama.cpp computes with; returns notes for the user. Raises ModelError as ``family_of``."""
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if family.architecture == "gpt2":
        writer.add_context_length(served_context(config))
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return []
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    context = served_context(config)
    writer.add_context_length(context)
    _add_rope(writer, config, name)
    if context == config.max_position_embeddings:
        return []
    return [f"context length is written as {context}: llama.cpp has no sliding window for this family."]


def served_context(config: Any) -> int:
    """Tokens llama.cpp may read: what the model was made for, or its sliding window, up to which both do the same."""
    context = int(getattr(config, "max_position_embeddings", None) or config.n_positions)
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    used = getattr(config, "use_sliding_window", True) and (kinds is None or "sliding_attention" in kinds)
    return min(context, int(window)) if window and used else context


def _rope_of(config: Any) -> dict[str, Any]:
    rope = dict(config.rope_parameters or {})
    return {"rope_type": "default", "rope_theta": 10000.0, **rope}


def _add_rope(writer: GGUFWriter, config: Any, name: str) -> None:
    from gguf import RopeScalingType

    rope = _rope_of(config)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    kind = rope["rope_type"]
    if rope.get("partial_rotary_factor", 1.0) != 1.0 or kind not in ("default", "llama3", "linear", "yarn"):
        raise ModelError(
            name, f"rope_type '{kind}' is not exported.", "Exported are default, llama3, linear and yarn, in full."
        )
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType.LINEAR if kind == "linear" else RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if kind == "yarn":
        other = [key for key, value in YARN_MUST_BE.items() if rope.get(key, value) != value]
        if other:
            raise ModelError(
                name, f"yarn's {other[0]} is {rope[other[0]]}, llama.cpp takes its own.", "It cannot be exported."
            )
        old_context = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(int(old_context))


def rope_factors(config: Any) -> Tensor | None:
    """(head_dim / 2,): what each rotary frequency is divided by in Llama 3.1's scaling, None for other models.

    Source: Llama 3.1's reference code: wave lengths beyond the old context are divided by ``factor``, short ones kept,
    those between blended.
    """
    if getattr(config, "rope_parameters", None) is None or _rope_of(config)["rope_type"] != "llama3":
        return None
    rope = _rope_of(config)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    turns = 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    waves = 2 * math.pi / turns
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    old_context = rope["original_max_position_embeddings"]
    share = ((old_context / waves - low) / (high - low)).clamp(0, 1)
    divisors: Tensor = 1.0 / ((1 - share) / factor + share)
    return divisors.float()
