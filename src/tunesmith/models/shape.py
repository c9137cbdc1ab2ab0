"""What a model is made of, as far as its memory goes: read from its config alone, or off one in memory.

The parameters are counted on a model built on torch's meta device, which has shapes and no storage, so that the count
is transformers' own for every family.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ModelError
from tunesmith.models.blocks import LLAMA_LIKE
from tunesmith.models.known_shapes import KNOWN_SHAPES
from tunesmith.models.quantized_linear import num_quantized
from tunesmith.models.resolve import EMBEDDED_MODEL, resolve_model

ENDING = "-like"
# What configs call the number of experts of a mixture.
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearMap:
    """Linear maps of one name and size inside the layers; ``count`` of them in the model. Widths in features.

    name: with its parent's where that has one (``self_attn.q_proj``, ``fc2``).
    """

    name: str
    inputs: int
    outputs: int
    has_bias: bool
    count: int

    @property
    def weights(self) -> int:
        """Parameters of all of them, biases left out."""
        return self.inputs * self.outputs * self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The numbers of an architecture. width: of the hidden state; inner_width: of the feed-forward part.

    parameters: all of them, tied ones once. linear_maps: those inside the layers, the head left out. layers: of an
    encoder-decoder model those of the longer half. capped: whether attention's scores are, for which they are kept
    whole. fast: whether our own blocks run it, or transformers' modules do.
    """

    name: str
    family: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    inner_width: int
    vocab_size: int
    context_tokens: int
    tied: bool
    encoder_decoder: bool
    activation: str
    capped: bool
    fast: bool
    parameters: int
    linear_maps: tuple[LinearMap, ...]

    @property
    def linear_weights(self) -> int:
        """Parameters of the linear maps inside the layers: what 4-bit storage takes and LoRA stands on."""
        return sum(one.weights for one in self.linear_maps)

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_width

    @property
    def query_width(self) -> int:
        return self.heads * self.head_width


def open_shape(name_or_path: str) -> Shape:
    """The shape of a shipped example (``llama-7b-like``), a config.json or its folder, or a hub id; no weights needed.

    Raises ModelError when there is no config, transformers knows no such architecture, or it is none that is counted.
    """
    path = Path(name_or_path).expanduser()
    key = name_or_path.lower()
    if key in KNOWN_SHAPES:
        return _known(key)
    if key == EMBEDDED_MODEL or path.suffix.lower() == ".gguf":
        path = resolve_model(name_or_path).folder
    if path.is_dir():
        path = path / "config.json"
    if path.is_file():
        return shape_of_config(_config_in(path, name_or_path), name_or_path)
    if path.suffix == ".json" or (path.parent.is_dir() and path.parent != Path()):
        raise ModelError(name_or_path, "no such file.", "Name a config.json, its folder, or a shipped shape.")
    return shape_of_config(_config_of_hub(name_or_path), name_or_path)


@cache
def _known(key: str) -> Shape:
    return shape_of_config(AutoConfig.for_model(**KNOWN_SHAPES[key]), key)


def _config_in(path: Path, name: str) -> Any:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return AutoConfig.for_model(**values)
    except (OSError, ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ModelError(
            name, f"its config cannot be read: {_first_line(error)}.", "Name a model's config.json."
        ) from None


def _config_of_hub(name: str) -> Any:
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError, StrictDataclassError):
        raise ModelError(
            name,
            "no such file or folder, and no hub at hand that knows it.",
            f"Name a config.json or its folder, or one of the shipped shapes: {', '.join(KNOWN_SHAPES)}.",
        ) from None


def shape_of_config(config: Any, name: str) -> Shape:
    """The shape of the model a config describes. Raises ModelError where transformers can build none from it.

    Also for one that is more than a stack of attention and feed-forward parts, since its memory is not counted here.
    """
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            model = kind.from_config(config)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        raise ModelError(
            name,
            f"no language model can be built from its config: {_first_line(error)}.",
            "Take a causal or T5-like one.",
        ) from None
    why = _not_counted(config, model)
    if why is not None:
        fix = "Take a plain decoder or a T5-like model; `tunesmith plan RECIPE` measures a step of any that loads."
        raise ModelError(name, f"its memory is not counted: {why}.", fix)
    return shape_of_model(model, name)


def _not_counted(config: Any, model: nn.Module) -> str | None:
    """What a model has that the memory model knows nothing of; None for a plain one."""
    text = config.get_text_config(decoder=True) if not config.is_encoder_decoder else config
    if getattr(config, "vision_config", None) is not None or getattr(config, "audio_config", None) is not None:
        return "it sees or hears too, and only language models are"
    if not getattr(text, "num_attention_heads", None) or any("mamba" in key for key, _ in model.named_modules()):
        return f"a '{text.model_type}' model has layers without attention"
    if getattr(text, "kv_lora_rank", None):
        return f"a '{text.model_type}' model keeps its keys and values compressed"
    if any(getattr(text, key, None) for key in EXPERT_COUNTS):
        return f"a '{text.model_type}' model has experts, of which a token runs through a few"
    return None


def shape_of_model(model: nn.Module, name: str, *, fast: bool | None = None) -> Shape:
    """The shape of a model in memory (or on the meta device); adapters on it are left out of every number.

    fast: whether our own blocks run it; None: as the family says.
    """
    whole: Any = model.config
    config = whole.get_text_config(decoder=True) if not whole.is_encoder_decoder else whole
    width, heads = int(config.hidden_size), int(config.num_attention_heads)
    head_width = int(getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or width // heads)
    depth_names = ("num_hidden_layers", "num_decoder_layers", "decoder_layers")
    inner_names = ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim")
    own = {id(p): p.numel() for key, p in model.named_parameters() if "lora_" not in key}
    return Shape(
        name=name,
        family=str(config.model_type),
        layers=_largest(config, depth_names),
        width=width,
        heads=heads,
        kv_heads=_kv_heads(config, heads),
        head_width=head_width,
        inner_width=_largest(config, inner_names) or 4 * width,
        vocab_size=int(config.vocab_size),
        context_tokens=_largest(config, ("max_position_embeddings", "n_positions")) or 2**20,
        tied=bool(getattr(whole, "tie_word_embeddings", False)),
        encoder_decoder=bool(whole.is_encoder_decoder),
        activation=_activation(config),
        capped=getattr(config, "attn_logit_softcapping", None) is not None,
        fast=config.model_type in LLAMA_LIKE and _activation(config) == "silu" if fast is None else fast,
        parameters=sum(own.values()) + num_quantized(model),
        linear_maps=_linear_maps(model),
    )


def _kv_heads(config: Any, heads: int) -> int:
    """Heads of keys and values. Falcon's config names them only where ``new_decoder_architecture`` is on."""
    if getattr(config, "num_kv_heads", None) is not None:
        one = getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False)
        return 1 if one else int(config.num_kv_heads)
    return int(getattr(config, "num_key_value_heads", None) or heads)


def _largest(config: Any, names: tuple[str, ...]) -> int:
    return max((int(getattr(config, name, None) or 0) for name in names), default=0)


def _linear_maps(model: Any) -> tuple[LinearMap, ...]:
    """The linear maps but the head, in order of first appearance."""
    output = model.get_output_embeddings()
    found: Counter[tuple[str, int, int, bool]] = Counter()
    for key, module in model.named_modules():
        if isinstance(module, LoraLayer) or "lora_" in key:
            continue
        if module is output or not isinstance(module, nn.Linear | Conv1D):
            continue
        outputs, inputs = module.weight.shape if isinstance(module, nn.Linear) else reversed(module.weight.shape)
        found[map_name(key), int(inputs), int(outputs), module.bias is not None] += 1
    return tuple(
        LinearMap(name=name, inputs=inputs, outputs=outputs, has_bias=bias, count=count)
        for (name, inputs, outputs, bias), count in found.items()
    )


def map_name(path: str) -> str:
    """The name of a linear map as ``LinearMap`` has it, from its path in the module tree."""
    parent, own = path.removesuffix(".base_layer").split(".")[-2:]
    return own if parent.isdigit() else f"{parent}.{own}"


def _activation(config: Any) -> str:
    for name in ("hidden_act", "hidden_activation", "activation_function", "dense_act_fn"):
        if getattr(config, name, None):
            return str(getattr(config, name))
    return "silu"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
