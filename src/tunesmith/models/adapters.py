"""Adapters on a base: made, saved and read through PEFT's layout, with a provenance block that refuses a wrong base."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from tunesmith.config import Config
from tunesmith.errors import AdapterMismatchError, ConfigError, ModelError
from tunesmith.models import encoder_decoder
from tunesmith.models.blocks import read_blocks
from tunesmith.models.extended import is_token_row, read_token_rows
from tunesmith.models.heads import SCORE, SCORE_KEY, head_tensors, with_head
from tunesmith.models.reference import route_lora_layers
from tunesmith.models.roles import Base, Role
from tunesmith.randomness import derive_seed

PROVENANCE_FILE = "tunesmith_provenance.json"
BASE_TOKENIZER = "base_tokenizer_digest"
WEIGHTS_FILE = "adapter_model.safetensors"
ATTENTION_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]
# Settings of PEFT that change what a LoRA layer or its base computes.
VARIANTS = (
    "use_dora", "lora_bias", "modules_to_save", "layer_replication", "target_parameters", "alora_invocation_tokens",
    "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "velora_config", "monteclora_config", "megatron_config",
)  # fmt: skip


class AdapterConfig(Config):
    """What is trained: LoRA matrices beside a frozen base, or all of the base's weights."""

    method: Literal["lora", "full"] = "lora"
    """lora: low-rank matrices (arXiv:2106.09685); full: every weight, with fp32 master copies."""
    r: int = Field(16, ge=1, le=4096)
    """Rank of the LoRA matrices."""
    lora_alpha: float = Field(32, gt=0)
    """LoRA's numerator: the low-rank product is scaled by lora_alpha / r."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of the low-rank product."""
    target_modules: Literal["all-linear", "attention"] | list[str] = "all-linear"
    """Which linear maps get LoRA matrices; the head never does."""
    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(r) instead (arXiv:2312.03732)."""


def add_adapter(base: Base, name: str, config: AdapterConfig, seed: int) -> Role:
    """Place a fresh adapter on the base and return the role that trains it; at the start it equals the base.

    Raises ConfigError when no module of the model carries a target's name, one that does is no linear map inside a
    layer, or the adapter's own name is a part of the model's names.
    """
    if config.method == "full":
        return full_role(base)
    _check_name(base, name)
    targets = _attention_modules(base) if config.target_modules == "attention" else config.target_modules
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
    return lora_role(base, name)


def _attention_modules(base: Base) -> list[str]:
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


def _check_name(base: Base, name: str) -> None:
    """PEFT tells an adapter's tensors by its name as a part of theirs: no part of the base may be called the same."""
    taken = {"base_layer", "lora_A", "lora_B", "weight", "bias"}
    for key, _ in base.model.named_parameters():
        if "lora_" not in key:
            taken.update(key.split("."))
    if not name or "." in name or name in taken or name in "lora_":
        raise ConfigError("adapter name", f"'{name}' is a part of the model's own names.", "Call it otherwise.")


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


def lora_role(base: Base, name: str, *, trainable: bool = True) -> Role:
    """The role of an adapter already on the base; its parameters are listed in module order."""
    marker = f".{name}."
    parameters = {
        key: parameter for key, parameter in base.model.named_parameters() if "lora_" in key and marker in key
    }
    if name in base.token_rows:
        parameters.update(base.token_rows[name].parameters)
    # PEFT flips requires_grad for its notion of the active adapter; here each role states its own.
    for parameter in parameters.values():
        parameter.requires_grad_(trainable)
    return Role(name=name, adapter=name, parameters=parameters if trainable else {})


def full_role(base: Base) -> Role:
    """Every weight of the base learns, from fp32 master copies; the base can then not be shared with other roles."""
    if base.peft_model is not None:
        raise ConfigError(
            "adapter.method", "full tuning rewrites a base that adapters share.", "Load a base of its own."
        )
    base.model.float()
    parameters = dict(base.model.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    base.head = type(base.head)(
        base.model.get_output_embeddings().weight, base.head.bias_V, base.head.softcap, base.head.scale
    )
    return Role(name="full", adapter=None, parameters=parameters)


def adapter_tensors(base: Base, name: str) -> dict[str, torch.Tensor]:
    """An adapter's tensors under the names of PEFT's files."""
    lora = {
        key: tensor.detach().cpu().contiguous()
        for key, tensor in get_peft_model_state_dict(
            # Neither embedding nor head takes matrices here; "auto" would ask the hub what the base looked like.
            base.peft_model,
            adapter_name=name,
            save_embedding_layers=False,
        ).items()
    }
    return {**lora, **base.token_rows[name].peft_tensors()} if name in base.token_rows else lora


def adapter_digest(base: Base, name: str | None) -> str:
    """SHA-256 of an adapter's tensors and of what scales them in each layer, or 'base' for none.

    Two adapters with one digest give the same answers.
    """
    if name is None:
        return "base"
    layers = [module for module in base.model.modules() if isinstance(module, LoraLayer) and name in module.scaling]
    digest = hashlib.sha256(json.dumps([float(layer.scaling[name]) for layer in layers]).encode())
    for key, tensor in sorted(adapter_tensors(base, name).items()):
        digest.update(key.encode())
        digest.update(tensor.float().numpy().tobytes())
    return digest.hexdigest()


def provenance_of(base: Base, adapter: str | None, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What an adapter must be run on: digests of base, tokenizer and template, plus what the recipe adds.

    With new tokens the tokenizer is the one beside the adapter, and the base's is named too.
    """
    resolved, rows = base.resolved, base.token_rows.get(adapter) if adapter else None
    own = {"tokenizer_digest": rows.tokenizer_digest, BASE_TOKENIZER: resolved.tokenizer_digest} if rows else {}
    return {
        "format": 1,
        "base_name": resolved.name,
        "base_digest": resolved.base_digest,
        "tokenizer_digest": resolved.tokenizer_digest,
        "template_digest": resolved.template_digest,
        **own,
        **(extra or {}),
    }


def save_role(base: Base, role: Role, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write a role to a folder: PEFT's two files for an adapter, a whole model for full tuning, and the provenance."""
    folder.mkdir(parents=True, exist_ok=True)
    if role.adapter is None:
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
    else:
        tensors = {**adapter_tensors(base, role.adapter), **head_tensors(role)}
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        lora = base.peft_model.peft_config[role.adapter]
        settings = lora.to_dict()
        settings["base_model_name_or_path"] = base.resolved.name
        settings["inference_mode"] = True
        settings["target_modules"] = sorted(settings["target_modules"])
        if role.head is not None:
            settings.update({"task_type": "SEQ_CLS", "modules_to_save": [SCORE]})
        if role.adapter in base.token_rows:
            rows = base.token_rows[role.adapter]
            settings["trainable_token_indices"] = rows.peft_indices()
            rows.tokenizer.save_pretrained(folder)
        (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True, default=str) + "\n")
    (folder / PROVENANCE_FILE).write_text(json.dumps(provenance_of(base, role.adapter, extra), indent=2) + "\n")


def load_adapter(base: Base, folder: Path, name: str, *, trainable: bool = False) -> Role:
    """Read an adapter from PEFT's layout onto the base.

    Raises AdapterMismatchError naming both digests when it was trained on another base, tokenizer or template, and
    ModelError when files are missing, do not fit or ask for more than plain LoRA. An adapter without our provenance
    (stock PEFT's) is taken with a note in ``base.notes``.
    """
    if not (folder / "adapter_config.json").is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise ModelError(folder, "no adapter here (adapter_config.json, adapter_model.safetensors).", "Check the path.")
    _check_name(base, name)
    written_tokenizer = _check_provenance(base, folder)
    lora = LoraConfig.from_pretrained(folder.as_posix())
    # A scalar head lies beside the adapter, and is none of PEFT's business on a causal model.
    has_head = lora.modules_to_save == [SCORE]
    if has_head:
        lora.modules_to_save, lora.task_type = None, "CAUSAL_LM"
    _refuse_variants(folder, lora)
    # PEFT warns where the base it was trained on has another name now; its digest was compared above.
    lora.base_model_name_or_path = None
    if lora.trainable_token_indices is not None:
        read_token_rows(base, name, folder, lora.trainable_token_indices, written_tokenizer)
        lora.trainable_token_indices = None
    try:
        _place(base, name, lora)
    except ValueError as error:
        cause = str(error).splitlines()[0].rstrip(".")
        raise ModelError(folder, f"does not fit '{base.resolved.name}': {cause}.", "Use its own base.") from None
    tensors = load_file(folder / WEIGHTS_FILE)
    expected = adapter_tensors(base, name)
    if has_head:
        expected[SCORE_KEY] = torch.empty(1, base.head.weight_VD.shape[1])
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    shapes = [k for k in expected if k in tensors and tensors[k].shape != expected[k].shape]
    if missing or unknown or shapes:
        first = (missing or unknown or shapes)[0]
        raise AdapterMismatchError(
            folder,
            f"does not fit the base: {len(missing)} tensors missing, {len(unknown)} unknown, {len(shapes)} of another "
            f"shape (first: {first}).",
            f"Use it with the base it was trained on, not '{base.resolved.name}'.",
        )
    if name in base.token_rows:
        base.token_rows[name].load_peft_tensors(tensors)
    own = {key: tensor for key, tensor in tensors.items() if not is_token_row(key) and key != SCORE_KEY}
    set_peft_model_state_dict(base.peft_model, own, adapter_name=name)
    role = lora_role(base, name, trainable=trainable)
    return with_head(base, role, tensors[SCORE_KEY], trainable=trainable) if has_head else role


def _refuse_variants(folder: Path, lora: LoraConfig) -> None:
    """Raise ModelError for what PEFT computes beside W x + s B A x, which would otherwise be left out in silence."""
    if lora.peft_type != "LORA":
        raise ModelError(folder, f"adapter type {lora.peft_type} is not supported.", "Use a LoRA adapter.")
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


def _check_provenance(base: Base, folder: Path) -> str | None:
    """The digest of the tokenizer the adapter was trained with, if its provenance is there to say."""
    path = folder / PROVENANCE_FILE
    if not path.is_file():
        base.notes.append(f"{folder}: no provenance file; it cannot be checked against the base.")
        return None
    written = json.loads(path.read_text())
    trained_with = written.get("tokenizer_digest")
    # An adapter with new tokens brings its tokenizer along; the base must have the one that was extended.
    needed = {**written, "tokenizer_digest": written.get(BASE_TOKENIZER, trained_with)}
    for what in ("base", "tokenizer", "template"):
        theirs, ours = needed.get(f"{what}_digest"), getattr(base.resolved, f"{what}_digest")
        if theirs != ours:
            raise AdapterMismatchError(
                folder,
                f"was trained with {what} {theirs} ('{written.get('base_name')}'), but '{base.resolved.name}' has "
                f"{what} {ours}.",
                f"Load the base it names: --model {written.get('base_name')}.",
            )
    return str(trained_with)


def drop_adapter(base: Base, name: str) -> None:
    """Take an adapter off the base; those that stay keep what they were. Raises KeyError for one that is not there."""
    if base.peft_model is None or name not in base.peft_model.peft_config:
        raise KeyError(name)
    learning = {key: p.requires_grad for key, p in base.model.named_parameters()}
    with warnings.catch_warnings():
        # Which adapter PEFT holds for active means nothing here.
        warnings.filterwarnings("ignore", message="Adapter .* was active which is now deleted")
        base.peft_model.delete_adapter(name)
    base.token_rows.pop(name, None)
    for key, parameter in base.model.named_parameters():
        parameter.requires_grad_(learning[key])
    _refresh(base)


def trainable_share(base: Base, role: Role) -> float:
    """Trainable parameters as a share of all parameters in memory."""
    total = base.num_parameters + (role.num_parameters if role.adapter is not None else 0)
    return role.num_parameters / total


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter rather than a whole model."""
    return (folder / "adapter_config.json").is_file()
