"""LoRA through PEFT: its parameters and files; which adapter acts is decided by the call (``models/linear.py``)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ConfigError, ModelError
from tunesmith.models.adapter_config import AdapterConfig
from tunesmith.models.blocks import read_blocks
from tunesmith.models.lora_extras import ATTRIBUTE, drop_extras, extras_of
from tunesmith.models.lora_merged import own_bias, plain_matrices
from tunesmith.models.lora_start import converted, converted_scaling, copy_biases, start_dora, start_pissa
from tunesmith.models.lora_targets import attention_modules, check_names, check_targets, targeted
from tunesmith.models.reference import route_lora_layers
from tunesmith.models.roles import Base
from tunesmith.randomness import derive_seed

PEFT_TYPE = "LORA"
# Settings of PEFT that change what a LoRA layer or its base computes, and that we have not.
VARIANTS = (
    "lora_bias", "modules_to_save", "layer_replication", "target_parameters", "alora_invocation_tokens",
    "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "velora_config", "monteclora_config", "megatron_config",
)  # fmt: skip
BIAS = ".base_layer.bias"


def place(base: Base, name: str, config: AdapterConfig, seed: int) -> None:
    """Place fresh matrices on the base; B is 0, or taken from the weight again, so that the start changes nothing.

    Raises ConfigError when a target or a pattern names no module of the model or one that is no linear map inside a
    layer, or the biases asked for are not there.
    """
    lora = _peft_config(base, config)
    check_names(base, lora)
    if config.bias == "lora_only" and not any(layer.bias is not None for layer in targeted(base, lora).values()):
        raise ConfigError("adapter.bias", "none of the maps with matrices has a bias.", "Leave it out.")
    with torch.random.fork_rng(devices=[base.device] if base.device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "adapter_init", name))
        try:
            _place(base, name, lora)
        except ValueError as error:
            raise ConfigError(
                "adapter.target_modules", f"{str(error).splitlines()[0].rstrip('.')}.", "Use 'all-linear'."
            ) from None
        layers = _layers(base, name).values()
        if config.init_lora_weights.startswith("pissa"):
            start_pissa(layers, name, config.init_lora_weights)
    if config.bias == "lora_only":
        copy_biases(layers, name)
    if config.use_dora:
        start_dora(base, layers, name)
    _refresh(base)


def read(base: Base, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
    """Place the adapter that a folder's settings describe; its values come after, by ``load_tensors``.

    Raises ModelError when the settings do not fit the base or ask for what we have not.
    """
    try:
        lora: LoraConfig = LoraConfig.from_peft_type(**settings)
    except ValueError as error:
        raise ModelError(folder, f"PEFT refuses its settings: {str(error).rstrip('.')}.", "Train it again.") from None
    _refuse_variants(folder, lora)
    own_biases, lora.bias = lora.bias == "lora_only", "none"
    # PEFT warns where the base it was trained on has another name now; its digest was compared before.
    lora.base_model_name_or_path = None
    try:
        _place(base, name, lora)
    except ValueError as error:
        cause = str(error).splitlines()[0].rstrip(".")
        raise ModelError(folder, f"does not fit '{base.resolved.name}': {cause}.", "Use its own base.") from None
    if own_biases:
        copy_biases(_layers(base, name).values(), name)


def parameters(base: Base, name: str) -> dict[str, nn.Parameter]:
    """The adapter's parameters in module order."""
    marker = f".{name}."
    return {key: parameter for key, parameter in base.model.named_parameters() if "lora_" in key and marker in key}


def tensors(base: Base, name: str) -> dict[str, Tensor]:
    """The adapter's tensors under the names of PEFT's files."""
    # Neither embedding nor head takes matrices here; "auto" would ask the hub what the base looked like.
    found = get_peft_model_state_dict(base.peft_model, adapter_name=name, save_embedding_layers=False)
    held = {key: tensor for key, tensor in found.items() if f".{ATTRIBUTE}." not in key}
    for key, layer in _layers(base, name).items():
        if (bias := own_bias(layer, name)) is not None:
            held[f"base_model.model.{key}{BIAS}"] = bias
        for letter, matrix in zip("AB", plain_matrices(layer, name), strict=True):
            held[f"base_model.model.{key}.lora_{letter}.weight"] = matrix
    return {key: tensor.detach().cpu().contiguous() for key, tensor in held.items()}


def load_tensors(base: Base, name: str, values: Mapping[str, Tensor]) -> None:
    """Take the values of a file, under PEFT's names."""
    # PEFT would write a bias into the base.
    own = {key: value for key, value in values.items() if not key.endswith(BIAS)}
    set_peft_model_state_dict(base.peft_model, own, adapter_name=name)
    with torch.no_grad():
        for key, layer in _layers(base, name).items():
            if (bias := own_bias(layer, name)) is not None:
                bias.copy_(values[f"base_model.model.{key}{BIAS}"])


def settings(base: Base, name: str) -> dict[str, Any]:
    """What stands in adapter_config.json."""
    found: dict[str, Any] = base.peft_model.peft_config[name].to_dict()
    layers = _layers(base, name).values()
    if any(own_bias(layer, name) is not None for layer in layers):
        found["bias"] = "lora_only"
    if any(_began_elsewhere(layer, name) for layer in layers):
        found = converted(found)
    return {**found, "target_modules": sorted(found["target_modules"])}


def scalings(base: Base, name: str) -> list[float]:
    """What decides the answers beside the tensors: the factor of each layer."""
    return [
        converted_scaling(layer, name) if _began_elsewhere(layer, name) else float(layer.scaling[name])
        for layer in _layers(base, name).values()
    ]


def saved_per_token(base: Base, name: str) -> int:
    """Values it saves a token for the backward pass, all layers together: the product with each A, and with DoRA what
    its magnitudes multiply.
    """
    layers = _layers(base, name).values()
    return sum(
        int(layer.lora_A[name].weight.shape[0])
        + (int(layer.lora_B[name].weight.shape[0]) if name in layer.lora_magnitude_vector else 0)
        for layer in layers
    )


def drop(base: Base, name: str) -> None:
    """Take the adapter off the base; those that stay keep what they were."""
    for layer in _layers(base, name).values():
        drop_extras(layer, name)
    with _learning_kept(base), warnings.catch_warnings():
        # Which adapter PEFT holds for active means nothing here.
        warnings.filterwarnings("ignore", message="Adapter .* was active which is now deleted")
        base.peft_model.delete_adapter(name)
    _refresh(base)


def _peft_config(base: Base, config: AdapterConfig) -> LoraConfig:
    return LoraConfig(
        r=config.r,
        lora_alpha=_whole(config.lora_alpha),
        lora_dropout=config.lora_dropout,
        target_modules=attention_modules(base) if config.target_modules == "attention" else config.target_modules,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        # PiSSA's start is made here: PEFT's would rewrite the base.
        init_lora_weights="gaussian" if config.init_lora_weights == "gaussian" else True,
        rank_pattern=dict(config.rank_pattern),
        alpha_pattern={key: _whole(alpha) for key, alpha in config.alpha_pattern.items()},
        # GPT-2 stores its weights (in, out).
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in base.model.modules()),
        task_type="SEQ_2_SEQ_LM" if base.is_encoder_decoder else "CAUSAL_LM",
    )


def _whole(alpha: float) -> float:
    """PEFT stores what it is given; a whole number keeps the file readable by strict readers."""
    return int(alpha) if alpha == int(alpha) else alpha


def _layers(base: Base, name: str) -> dict[str, LoraLayer]:
    """The layers the adapter has matrices on, by their names in the model."""
    return {
        key: module
        for key, module in base.model.named_modules()
        if isinstance(module, LoraLayer) and name in module.lora_A
    }


def _began_elsewhere(layer: LoraLayer, name: str) -> bool:
    """Whether the adapter's matrices began as a part of the weight (PiSSA)."""
    extras = extras_of(layer, name)
    return extras is not None and extras.start_a is not None


def _place(base: Base, name: str, lora: LoraConfig) -> None:
    check_targets(base, lora)
    with _learning_kept(base), warnings.catch_warnings():
        # PEFT asks transformers by an older name; nothing a user could do about it.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        # Which base an adapter belongs to is told by digests, not by the name its folder had on some machine.
        warnings.filterwarnings("ignore", message=".*base_model_name_or_path.*was renamed", category=UserWarning)
        if base.peft_model is None:
            base.peft_model = get_peft_model(base.model, lora, adapter_name=name)
        else:
            base.peft_model.add_adapter(name, lora)
    _refresh(base)


@contextmanager
def _learning_kept(base: Base) -> Iterator[None]:
    """PEFT settles what learns by its notion of the active adapter: what was there before keeps what it was."""
    learning = {id(p): p.requires_grad for p in base.model.parameters()}
    yield
    for parameter in base.model.parameters():
        parameter.requires_grad_(learning.get(id(parameter), parameter.requires_grad))


def _refresh(base: Base) -> None:
    """The module tree has changed: rebuild both paths over it."""
    route_lora_layers(base.model)
    if base.decoder is not None:
        decoder = read_blocks(base.model)
        assert not isinstance(decoder, str), decoder
        base.decoder = decoder


def _refuse_variants(folder: Path, lora: LoraConfig) -> None:
    """Raise ModelError for what PEFT computes and we do not, which would otherwise be left out in silence."""
    found = [name for name in VARIANTS if getattr(lora, name, None)]
    if lora.bias not in ("none", "lora_only"):
        # PEFT trains every bias of the model then, the norms' too; here they are all adapters'.
        found.append(f"bias: {lora.bias}")
    if found:
        raise ModelError(
            folder, f"uses {', '.join(found)}, which is not supported.", "Train it without, or merge it with PEFT."
        )
    if lora.init_lora_weights not in (True, False, "gaussian", "eva", "orthogonal"):
        raise ModelError(
            folder,
            f"began as {lora.init_lora_weights}, which changes the base's own weights; the base is shared here.",
            "Convert it to plain LoRA: save_pretrained(..., path_initial_model_for_weight_conversion=...).",
        )
    # The values come from the file.
    lora.init_lora_weights = True
