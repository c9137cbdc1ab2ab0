"""From an adapter or a model to a file for the edge: written, loaded by the engine that will serve it, and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from tunesmith.config import Config
from tunesmith.errors import ExportCheckError, ModelError, RunError
from tunesmith.evals.after.retained import retained_texts
from tunesmith.evals.parity import Ours, Parity, compare, our_side
from tunesmith.models import llama_cpp
from tunesmith.models.adapters import is_adapter_folder, load_adapter
from tunesmith.models.export.families import served_context
from tunesmith.models.export.modelfile import write_modelfile
from tunesmith.models.export.quantize import PLAIN, check_quant
from tunesmith.models.export.write import Written, write_lora, write_model
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.roles import Base
from tunesmith.recipes.adapter_folders import base_for
from tunesmith.recipes.chat import base_of
from tunesmith.recipes.export_text import describe_parity, readme
from tunesmith.runs import atomic_write_text

Say = Callable[[str], None]


class ExportConfig(Config):
    """What ``tunesmith export`` is asked."""

    source: str
    """Folder of an adapter or a run, or a model: embedded name, hub id, folder, .gguf file."""
    to: Literal["gguf"] = "gguf"
    """The format."""
    quant: str | None = None
    """How weights are stored; empty: q8_0, with lora_only f16."""
    output: str
    """A .gguf file, or a folder."""
    base: str | None = None
    """The model an adapter belongs to, where its folder does not say or it lies elsewhere now."""
    lora_only: bool = False
    """The LoRA matrices alone, to be laid over the GGUF of the base."""
    check: bool | None = None
    """Compare with llama.cpp; empty: where its binding is installed."""
    text: str | None = None
    """A text file for the perplexity, one text a paragraph; empty: sixteen short texts of ours."""
    max_gap: float | None = None
    """Largest allowed gap of perplexity, as a share; empty: that of the format."""
    overwrite: bool = False
    """Replace files that are there."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export left behind. parity: None where it was not checked, which ``notes`` says."""

    written: Written
    modelfile: Path
    readme: Path
    parity: Parity | None
    notes: list[str]
    lora_only: bool

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "file": str(self.written.path),
            "bytes": self.written.num_bytes,
            "tensor_types": self.written.types,
            "modelfile": str(self.modelfile),
            "readme": str(self.readme),
            "parity": self.parity.as_dict() if self.parity is not None else None,
            "notes": self.notes,
            "lora_only": self.lora_only,
        }


def export(config: ExportConfig, say: Say = lambda _: None) -> Exported:
    """Write the file, compare it with what was trained, and write beside it what Ollama and people need.

    Raises ConfigError, ModelError, RunError and MissingExtraError before anything is written where that can be known,
    ExportCheckError where llama.cpp answers otherwise: the file then stays under a name that says so.
    """
    quant = _quant(config)
    checks = llama_cpp.is_installed() if config.check is None else config.check
    if checks:
        llama_cpp.library()
    texts = _texts(config)
    stem = Path(config.source).expanduser().resolve().name if Path(config.source).exists() else config.source
    file, modelfile, page = _targets(config, f"{stem.rpartition('/')[2].removesuffix('.gguf')}-{quant}")
    base, adapter = _open(config)
    say(f"writing {file}")
    parity = None
    if checks:
        written, parity = _write_checked(config, base, adapter, file, quant, texts, say)
    else:
        written = _write(config, base, adapter, file, quant)
    notes = [*base.notes, *written.notes]
    if parity is None:
        why = "--no-check" if config.check is False else f"{llama_cpp.BINDING} is not installed ({llama_cpp.INSTALL})"
        notes.append(f"not compared with llama.cpp: {why}.")
    tokenizer = base.tokenizer_of(adapter)
    stops = [str(tokenizer.convert_ids_to_tokens(i)) for i in sorted(base.end_ids_of(adapter))]
    base_file = f"BASE-{quant}.gguf" if config.lora_only else None
    atomic_write_text(
        modelfile, write_modelfile(file.name, tokenizer, stops, served_context(base.model.config), base_file)
    )
    exported = Exported(written, modelfile, page, parity, notes, config.lora_only)
    atomic_write_text(page, readme(exported.as_dict(), config.source, base.resolved.name))
    return exported


def _quant(config: ExportConfig) -> str:
    quant = (config.quant or ("f16" if config.lora_only else "q8_0")).lower()
    check_quant(quant)
    if config.lora_only and quant not in PLAIN:
        raise ModelError("--quant", f"an adapter alone is not kept in {quant}.", f"Use one of {', '.join(PLAIN)}.")
    return quant


def _texts(config: ExportConfig) -> list[str]:
    if config.text is None:
        return retained_texts()
    try:
        text = Path(config.text).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError("--text", f"{config.text} cannot be read: {error}.", "Name a UTF-8 text file.") from None
    texts = [part.strip() for part in text.split("\n\n") if part.strip()]
    if not texts:
        raise ModelError("--text", f"{config.text} holds no text.", "Name a file with some hundred words.")
    return texts


def _targets(config: ExportConfig, stem: str) -> tuple[Path, Path, Path]:
    """Paths of the file, its Modelfile and its page. Raises RunError where one is in the way or nothing can be written.

    A folder's are called as Ollama and people expect; beside a named file, which may lie anywhere, they bear its name.
    """
    output = Path(config.output).expanduser()
    if output.suffix.lower() == ".gguf":
        targets = (output, output.with_suffix(".Modelfile"), output.with_suffix(".md"))
    else:
        targets = (output / f"{stem}.gguf", output / "Modelfile", output / "README.md")
    try:
        targets[0].parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=targets[0].parent, prefix=".tunesmith-"):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        raise RunError(output, f"cannot be written: {why}.", "Name another --output.") from None
    there = [path for path in targets if path.exists()]
    if targets[0].is_dir() or (there and not config.overwrite):
        raise RunError(there[0], "is there already.", "Name another --output, or add --overwrite.")
    return targets


def _open(config: ExportConfig) -> tuple[Base, str | None]:
    """Base and adapter in fp32 on the CPU, whatever they were trained in: rounding comes once, at the end."""
    path = Path(config.source).expanduser()
    is_adapter = path.is_dir() and is_adapter_folder(path)
    if config.lora_only and not is_adapter:
        raise ModelError(config.source, "is no adapter.", "Leave --lora-only out.")
    name = (config.base or base_of(path)) if is_adapter else config.source
    if name is None:
        raise ModelError(path, "does not say which model it belongs to.", "Add --base MODEL.")
    model = ModelConfig(model_name_or_path=name, device="cpu", dtype="float32")
    if is_adapter and not config.lora_only:
        # An adapter trained beside weights in 4 bits is merged into what these stand for, as it knew them.
        model = model.model_copy(update={"quantization": base_for(path, name).quantization})
    base = load_base(model)
    base.notes.clear()
    if not is_adapter:
        return base, None
    role = load_adapter(base, path, "default")
    if role.head is not None:
        what = "a number" if role.head.num_outputs == 1 else "numbers"
        cause = f"gives {what}, not words: its head has no place in such a file."
        raise ModelError(path, cause, "Export an adapter that answers.")
    return base, role.adapter


def _write(config: ExportConfig, base: Base, adapter: str | None, file: Path, quant: str) -> Written:
    if not config.lora_only:
        return write_model(base, adapter, file, quant)
    assert adapter is not None, "only an adapter comes this far"
    return write_lora(base, adapter, file, quant)


def _write_checked(
    config: ExportConfig, base: Base, adapter: str | None, file: Path, quant: str, texts: list[str], say: Say
) -> tuple[Written, Parity]:
    """Write beside the place and compare; the file takes its name, and an older one's place, when it has passed."""
    unchecked = file.with_name(f"{file.stem}.UNCHECKED.gguf")
    try:
        written = _write(config, base, adapter, unchecked, quant)
        say("comparing with llama.cpp")
        ours = our_side(base, adapter, texts)
        try:
            parity = _check(config, base, adapter, ours, unchecked, quant)
        except ModelError as error:
            raise _failed(unchecked, file, str(error)) from None
        if parity.faults:
            raise _failed(unchecked, file, " ".join([*parity.faults, *describe_parity(parity)]))
        unchecked.replace(file)
    finally:
        unchecked.unlink(missing_ok=True)
    return replace(written, path=file), parity


def _check(config: ExportConfig, base: Base, adapter: str | None, ours: Ours, file: Path, quant: str) -> Parity:
    if not config.lora_only:
        return compare(base, adapter, ours, file, quant, allowed_gap=config.max_gap)
    # The adapter is laid over its base in the same format, written for this alone.
    with TemporaryDirectory(dir=file.parent, prefix=".tunesmith-") as folder:
        bare = write_model(base, None, Path(folder) / "base.gguf", quant).path
        return compare(base, adapter, ours, bare, quant, lora=file, allowed_gap=config.max_gap)


def _failed(unchecked: Path, file: Path, found: str) -> ExportCheckError:
    """The error of a failed check; the file stays under a name nobody serves by mistake."""
    kept = file.with_name(f"{file.stem}.FAILED-CHECK.gguf")
    unchecked.replace(kept)
    return ExportCheckError(
        kept,
        f"llama.cpp does not answer as the model that was trained: {found}",
        "Use a format with more bits, or --max-gap for a larger gap; --no-check takes it as it is.",
    )
