"""Adapters on a base: made, saved and read through PEFT's layout, with a provenance block that refuses a wrong base.

What a method is, is a module with the functions of ``Method``; which one an adapter has stands in ``Base.methods``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.errors import AdapterMismatchError, ConfigError, ModelError, TunesmithError
from tunesmith.models import bottleneck, ia3, lora, prefix, prompt
from tunesmith.models.adapter_config import AdapterConfig as AdapterConfig
from tunesmith.models.extended import is_token_row, read_token_rows
from tunesmith.models.heads import SCORE, SCORE_KEY, head_tensors, with_head
from tunesmith.models.roles import Base, Role

PROVENANCE_FILE = "tunesmith_provenance.json"
BASE_TOKENIZER = "base_tokenizer_digest"
WEIGHTS_FILE = "adapter_model.safetensors"


class Method(Protocol):
    """What a module gives that implements a method; ``name`` is the adapter's."""

    PEFT_TYPE: str

    def place(self, base: Base, name: str, config: AdapterConfig, seed: int) -> None:
        """Put a fresh adapter on the base; at the start it changes nothing, unless it is virtual tokens.

        Raises ConfigError.
        """

    def read(self, base: Base, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        """Put the adapter on the base that a folder's adapter_config.json describes. Raises ModelError."""

    def load_tensors(self, base: Base, name: str, values: Mapping[str, Tensor]) -> None:
        """Give the adapter the values of its file; names and shapes have been compared."""

    def tensors(self, base: Base, name: str) -> dict[str, Tensor]:
        """Its tensors on the CPU, under the names they have in its file."""

    def parameters(self, base: Base, name: str) -> dict[str, nn.Parameter]:
        """What learns, in a fixed order."""

    def settings(self, base: Base, name: str) -> dict[str, Any]:
        """What stands in adapter_config.json."""

    def scalings(self, base: Base, name: str) -> Any:
        """What decides its answers beside the tensors, as JSON takes it."""

    def drop(self, base: Base, name: str) -> None:
        """Take it off the base; those that stay keep what they were."""

    def saved_per_token(self, base: Base, name: str) -> int:
        """Values it saves a token for the backward pass, over all layers, beside what the layers save."""


METHODS: Mapping[str, Method] = {"lora": lora, "bottleneck": bottleneck, "prefix": prefix, "prompt": prompt, "ia3": ia3}


def add_adapter(base: Base, name: str, config: AdapterConfig, seed: int) -> Role:
    """Place a fresh adapter on the base and return the role that trains it; at the start it equals the base, unless
    it has virtual tokens (``models/prefix.py``).

    Raises ConfigError when the method cannot be had on this base or the adapter's own name is a part of the model's.
    """
    if config.method == "full":
        return full_role(base)
    _check_name(base, name)
    METHODS[config.method].place(base, name, config, seed)
    base.methods[name] = config.method
    return adapter_role(base, name)


def method_of(base: Base, name: str) -> Method:
    """The method of an adapter on the base. Raises KeyError where none has this name."""
    return METHODS[base.methods[name]]


def _check_name(base: Base, name: str) -> None:
    """PEFT tells an adapter's tensors by its name as a part of theirs: no part of the base may be called the same."""
    if name in base.methods:
        raise ConfigError("adapter name", f"'{name}' is on the base already.", "Drop it first, or call this otherwise.")
    taken = {"base_layer", "lora_A", "lora_B", "weight", "bias"}
    for key in base.model.state_dict():
        if "lora_" not in key:
            taken.update(key.split("."))
    if not name or "." in name or name in taken or name in "lora_" or name.startswith("lora_"):
        raise ConfigError("adapter name", f"'{name}' is a part of the model's own names.", "Call it otherwise.")


def adapter_role(base: Base, name: str, *, trainable: bool = True) -> Role:
    """The role of an adapter already on the base; its parameters are listed in module order."""
    parameters = method_of(base, name).parameters(base, name)
    if name in base.token_rows:
        parameters.update(base.token_rows[name].parameters)
    # PEFT flips requires_grad for its notion of the active adapter; here each role states its own.
    for parameter in parameters.values():
        parameter.requires_grad_(trainable)
    return Role(name=name, adapter=name, parameters=parameters if trainable else {})


def full_role(base: Base) -> Role:
    """Every weight of the base learns, from fp32 master copies; the base can then not be shared with other roles."""
    if base.quantization is not None:
        raise ConfigError(
            "adapter.method",
            "full tuning moves every weight, and weights in 4 bits cannot move.",
            "Leave quantization out, or train an adapter beside the 4-bit base.",
        )
    if base.methods:
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


def adapter_tensors(base: Base, name: str) -> dict[str, Tensor]:
    """An adapter's tensors under the names of PEFT's files."""
    own = method_of(base, name).tensors(base, name)
    return {**own, **base.token_rows[name].peft_tensors()} if name in base.token_rows else own


def adapter_digest(base: Base, name: str | None) -> str:
    """SHA-256 of an adapter's tensors and of what scales them in each layer, or 'base' for none.

    Two adapters with one digest give the same answers.
    """
    if name is None:
        return "base"
    digest = hashlib.sha256(json.dumps(method_of(base, name).scalings(base, name)).encode())
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
        **({"quantization": dict(base.quantization)} if base.quantization else {}),
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
        settings = method_of(base, role.adapter).settings(base, role.adapter)
        settings["base_model_name_or_path"] = base.resolved.name
        settings["inference_mode"] = True
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
    ModelError when files are missing, do not fit or ask for what its method does not have. An adapter without our
    provenance (stock PEFT's) is taken with a note in ``base.notes``.
    """
    if not (folder / "adapter_config.json").is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise ModelError(folder, "no adapter here (adapter_config.json, adapter_model.safetensors).", "Check the path.")
    _check_name(base, name)
    written_tokenizer = _check_provenance(base, folder)
    settings = read_mapping(folder / "adapter_config.json")
    # A linear head lies beside the adapter, and is none of PEFT's business on a causal model.
    has_head = settings.get("modules_to_save") == [SCORE]
    if has_head:
        settings.update({"modules_to_save": None, "task_type": "CAUSAL_LM"})
    method = _method_named(folder, settings.get("peft_type"))
    token_rows = settings.pop("trainable_token_indices", None)
    tensors = _tensors_of(folder)
    METHODS[method].read(base, name, folder, settings)
    base.methods[name] = method
    try:
        if token_rows is not None:
            read_token_rows(base, name, folder, token_rows, written_tokenizer)
        expected = adapter_tensors(base, name)
        if has_head:
            # One row a class, which only the file can tell; a reward's head has one.
            num_outputs = len(tensors[SCORE_KEY]) if SCORE_KEY in tensors else 1
            expected[SCORE_KEY] = torch.empty(num_outputs, base.head.weight_VD.shape[1])
        _compare(folder, expected, tensors, base.resolved.name)
    except TunesmithError:
        # An adapter without values must not stay.
        drop_adapter(base, name)
        raise
    if name in base.token_rows:
        base.token_rows[name].load_peft_tensors(tensors)
    own = {key: tensor for key, tensor in tensors.items() if not is_token_row(key) and key != SCORE_KEY}
    METHODS[method].load_tensors(base, name, own)
    role = adapter_role(base, name, trainable=trainable)
    return with_head(base, role, tensors[SCORE_KEY], trainable=trainable) if has_head else role


def _tensors_of(folder: Path) -> dict[str, Tensor]:
    """What the adapter's file holds, read before anything is placed. Raises ModelError for one that is damaged."""
    try:
        tensors: dict[str, Tensor] = load_file(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        raise ModelError(folder / WEIGHTS_FILE, f"is damaged: {error}.", "Copy it again.") from None
    return tensors


def read_mapping(path: Path) -> dict[str, Any]:
    """What one of an adapter's JSON files says. Raises ModelError where it cannot be read."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(path, f"cannot be read: {str(error).splitlines()[0]}.", "Copy the folder again.") from None
    if not isinstance(tree, dict):
        raise ModelError(path, "is not a mapping.", "Copy the folder again.")
    return tree


def _method_named(folder: Path, peft_type: str | None) -> str:
    for name, method in METHODS.items():
        if peft_type == method.PEFT_TYPE:
            return name
    known = ", ".join(method.PEFT_TYPE for method in METHODS.values())
    raise ModelError(folder, f"adapter type {peft_type} is not supported.", f"Use one of {known}.")


def _compare(folder: Path, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], base_name: str) -> None:
    """Raise AdapterMismatchError where a file's tensors are not those the adapter on the base has."""
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    shapes = [k for k in expected if k in tensors and tensors[k].shape != expected[k].shape]
    if missing or unknown or shapes:
        first = (missing or unknown or shapes)[0]
        raise AdapterMismatchError(
            folder,
            f"does not fit the base: {len(missing)} tensors missing, {len(unknown)} unknown, {len(shapes)} of another "
            f"shape (first: {first}).",
            f"Use it with the base it was trained on, not '{base_name}'.",
        )


def _check_provenance(base: Base, folder: Path) -> str | None:
    """The digest of the tokenizer the adapter was trained with, if its provenance is there to say."""
    path = folder / PROVENANCE_FILE
    if not path.is_file():
        base.notes.append(f"{folder}: no provenance file; it cannot be checked against the base.")
        return None
    written = read_mapping(path)
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
    if written.get("quantization") != base.quantization:
        # The usual way to use such an adapter, but its answers are then not quite those it was trained to give.
        base.notes.append(
            f"{folder}: trained on a base {_stored_as(written.get('quantization'))}, loaded on one "
            f"{_stored_as(base.quantization)}."
        )
    return str(trained_with)


def _stored_as(quantization: Mapping[str, Any] | None) -> str:
    if quantization is None:
        return "in full precision"
    twice = ", double quantisation" if quantization.get("double_quant") else ""
    return f"in {quantization.get('bits')} bits ({quantization.get('type')}{twice})"


def drop_adapter(base: Base, name: str) -> None:
    """Take an adapter off the base; those that stay keep what they were. Raises KeyError for one that is not there."""
    method_of(base, name).drop(base, name)
    del base.methods[name]
    base.token_rows.pop(name, None)


def trainable_share(base: Base, role: Role) -> float:
    """Trainable parameters as a share of all parameters in memory."""
    total = base.num_parameters + (role.num_parameters if role.adapter is not None else 0)
    return role.num_parameters / total


def describe_trainable(num_parameters: int, share: float) -> str:
    """What learns, as a person reads it."""
    return f"{num_parameters} parameters, {100 * share:.2f} % of all"


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter rather than a whole model."""
    return (folder / "adapter_config.json").is_file()
