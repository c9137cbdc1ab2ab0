"""LoRA through PEFT: its parameters and files; which adapter acts is decided by the call (``models/linear.py``)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ConfigError, ModelError
from tunesmith.models import encoder_decoder
from tunesmith.models.adapter_config import AdapterConfig
from tunesmith.models.blocks import read_blocks
from tunesmith.models.reference import route_lora_layers
from tunesmith.models.roles import Base
from tunesmith.randomness import derive_seed

PEFT_TYPE = "LORA"
ATTENTION_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]
# Settings of PEFT that change what a LoRA layer or its base computes.
VARIANTS = (
    "use_dora", "lora_bias", "modules_to_save", "layer_replication", "target_parameters", "alora_invocation_tokens",
    "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "velora_config", "monteclora_config", "megatron_config",
)  # fmt: skip


def place(base: Base, name: str, config: AdapterConfig, seed: int) -> None:
    """Place fresh matrices on the base; B is 0, so that at the start the adapter changes nothing.

    Raises ConfigError when no module of the model carries a target's name or one that does is no linear map inside a
    layer.
    """
    targets = attention_modules(base) if config.target_modules == "attention" else config.target_modules
    lora = LoraConfig(
        r=config.r,
        # PEFT stores what it is given; a whole number keeps the file readable by strict readers.
        lora_alpha=int(config.lora_alpha) if config.lora_alpha == int(config.lora_alpha) else config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        use_rslora=config.use_rslora,
        # GPT-2 stores its weights (in, out).
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in base.model.modules()),
        task_type="SEQ_2_SEQ_LM" if base.is_encoder_decoder else "CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "adapter_init", name))
        try:
            _place(base, name, lora)
        except ValueError as error:
            raise ConfigError(
                "adapter.target_modules", f"{str(error).splitlines()[0].rstrip('.')}.", "Use 'all-linear'."
            ) from None


def read(base: Base, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
    """Place the adapter that a folder's settings describe; its values come after, by ``load_tensors``.

    Raises ModelError when the settings do not fit the base or ask for more than plain LoRA.
    """
    lora: LoraConfig = LoraConfig.from_peft_type(**settings)
    _refuse_variants(folder, lora)
    # PEFT warns where the base it was trained on has another name now; its digest was compared before.
    lora.base_model_name_or_path = None
    try:
        _place(base, name, lora)
    except ValueError as error:
        cause = str(error).splitlines()[0].rstrip(".")
        raise ModelError(folder, f"does not fit '{base.resolved.name}': {cause}.", "Use its own base.") from None


def parameters(base: Base, name: str) -> dict[str, nn.Parameter]:
    """The adapter's parameters in module order."""
    marker = f".{name}."
    return {key: parameter for key, parameter in base.model.named_parameters() if "lora_" in key and marker in key}


def tensors(base: Base, name: str) -> dict[str, Tensor]:
    """The adapter's tensors under the names of PEFT's files."""
    # Neither embedding nor head takes matrices here; "auto" would ask the hub what the base looked like.
    held = get_peft_model_state_dict(base.peft_model, adapter_name=name, save_embedding_layers=False)
    return {key: tensor.detach().cpu().contiguous() for key, tensor in held.items()}


def load_tensors(base: Base, name: str, values: Mapping[str, Tensor]) -> None:
    """Take the values of a file, under PEFT's names."""
    set_peft_model_state_dict(base.peft_model, dict(values), adapter_name=name)


def settings(base: Base, name: str) -> dict[str, Any]:
    """What stands in adapter_config.json."""
    found: dict[str, Any] = base.peft_model.peft_config[name].to_dict()
    return {**found, "target_modules": sorted(found["target_modules"])}


def scalings(base: Base, name: str) -> list[float]:
    """What decides the answers beside the tensors: the factor of each layer."""
    layers = [module for module in base.model.modules() if isinstance(module, LoraLayer) and name in module.scaling]
    return [float(layer.scaling[name]) for layer in layers]


def drop(base: Base, name: str) -> None:
    """Take the adapter off the base; those that stay keep what they were."""
    learning = {key: p.requires_grad for key, p in base.model.named_parameters()}
    with warnings.catch_warnings():
        # Which adapter PEFT holds for active means nothing here.
        warnings.filterwarnings("ignore", message="Adapter .* was active which is now deleted")
        base.peft_model.delete_adapter(name)
    for key, parameter in base.model.named_parameters():
        parameter.requires_grad_(learning[key])
    _refresh(base)


def saved_per_token(base: Base, name: str) -> int:
    """Values it saves a token for the backward pass, all layers together: the product with each A."""
    layers = [module for module in base.model.modules() if isinstance(module, LoraLayer) and name in module.lora_A]
    return sum(int(layer.lora_A[name].weight.shape[0]) for layer in layers)


def attention_modules(base: Base) -> list[str]:
    """Names of the linear maps of the base's attention."""
    if base.is_encoder_decoder:
        return encoder_decoder.ATTENTION_MODULES[base.model.config.model_type]
    return ATTENTION_MODULES


def _place(base: Base, name: str, lora: LoraConfig) -> None:
    _check_targets(base, lora)
    with warnings.catch_warnings():
        # PEFT asks transformers by an older name; nothing a user could do about it.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        # Which base an adapter belongs to is told by digests, not by the name its folder had on some machine.
        warnings.filterwarnings("ignore", message=".*base_model_name_or_path.*was renamed", category=UserWarning)
        if base.peft_model is None:
            base.peft_model = get_peft_model(base.model, lora, adapter_name=name)
        else:
            base.peft_model.add_adapter(name, lora)
    _refresh(base)


def _check_targets(base: Base, lora: LoraConfig) -> None:
    """Raise ValueError where a matrix would stand on something we do not run it on: embedding, head, norm."""
    if lora.target_modules == "all-linear":
        return
    output = base.model.get_output_embeddings()
    for key, module in base.model.named_modules():
        if "lora_" in key or key.endswith(".base_layer") or not check_target_module_exists(lora, key):
            continue
        inner = module.get_base_layer() if isinstance(module, LoraLayer) else module
        if inner is output or not isinstance(inner, nn.Linear | Conv1D):
            raise ValueError(f"'{key}' takes no LoRA matrices; only the linear maps inside the layers do")


def _refresh(base: Base) -> None:
    """The module tree has changed: rebuild both paths over it."""
    route_lora_layers(base.model)
    if base.decoder is not None:
        decoder = read_blocks(base.model)
        assert not isinstance(decoder, str), decoder
        base.decoder = decoder


def _refuse_variants(folder: Path, lora: LoraConfig) -> None:
    """Raise ModelError for what PEFT computes beside W x + s B A x, which would otherwise be left out in silence."""
    found = [name for name in VARIANTS if getattr(lora, name, None)]
    if lora.bias != "none":
        found.append("bias")
    if found:
        raise ModelError(
            folder, f"uses {', '.join(found)}, which is not supported.", "Train a plain LoRA adapter, or merge it."
        )
    if lora.init_lora_weights not in (True, False, "gaussian", "eva", "orthogonal"):
        raise ModelError(
            folder,
            f"began as {lora.init_lora_weights}, which changes the base's own weights; the base is shared here.",
            "Convert it to plain LoRA: save_pretrained(..., path_initial_model_for_weight_conversion=...).",
        )
    # The values come from the file.
    lora.init_lora_weights = True
