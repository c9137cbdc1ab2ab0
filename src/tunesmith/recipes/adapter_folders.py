"""Adapter folders as they lie on disk: what each holds, where it comes from, and what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.models.adapters import METHODS, PROVENANCE_FILE, WEIGHTS_FILE, read_mapping
from tunesmith.models.load import ModelConfig
from tunesmith.models.quantized_linear import QuantizationConfig
from tunesmith.models.resolve import EMBEDDED_MODEL
from tunesmith.recipes.chat import base_of
from tunesmith.runs import file_digest

CONFIG_FILE = "adapter_config.json"
# What tells an adapter's size, under PEFT's names; the first a folder has.
SIZES = ("r", "reduction_factor", "num_virtual_tokens", "bottleneck_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """What an adapter's files say of it; None where they do not, and why in ``problems``.

    digest: of its values and factors, as the run that made it wrote it; weights_sha256: of the file as it lies here.
    """

    path: str
    method: str | None
    size: str | None
    num_parameters: int | None
    num_bytes: int
    base_name: str | None
    base_digest: str | None
    data_digest: str | None
    digest: str | None
    weights_sha256: str | None
    when: str | None
    parents: list[str]
    problems: list[str]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def base_for(folder: Path, model: str) -> ModelConfig:
    """The base an adapter was trained on, packed as it was then, in float32: weights are compared and added there.

    model: taken where it is not the default one, or the adapter does not say.
    """
    path = folder / PROVENANCE_FILE
    packing = read_mapping(path).get("quantization") if path.is_file() else None
    name = (base_of(folder) or model) if model == EMBEDDED_MODEL else model
    quantization = None if packing is None else QuantizationConfig(**packing)
    return ModelConfig(model_name_or_path=name, dtype="float32", quantization=quantization)


def find_adapters(folder: Path, *, checkpoints: bool = False) -> list[AdapterFolder]:
    """Every adapter at or below a folder, by path. A folder with one of the two files is one, though a broken one.

    checkpoints: those inside runs too. Raises ModelError where there is no folder, or none below it.
    """
    if not folder.is_dir():
        raise ModelError(folder, "is no folder.", "Name one that holds adapters or runs.")
    found = [read_adapter_folder(path) for path in _candidates(folder, checkpoints)]
    if not found:
        raise ModelError(folder, f"no {CONFIG_FILE} here or below.", "Name a folder that holds adapters or runs.")
    return found


def _candidates(folder: Path, checkpoints: bool) -> Iterator[Path]:
    for place, below, files in os.walk(folder):
        below[:] = sorted(
            n for n in below if not n.startswith(".") and (checkpoints or not n.startswith("checkpoint-"))
        )
        if CONFIG_FILE in files or WEIGHTS_FILE in files:
            yield Path(place)


def read_adapter_folder(folder: Path) -> AdapterFolder:
    """What one folder's files say, without loading a model; what is missing or unreadable is a problem, no error."""
    problems: list[str] = []
    settings = _read_json(folder / CONFIG_FILE, problems)
    provenance = _read_json(folder / PROVENANCE_FILE, problems)
    weights = folder / WEIGHTS_FILE
    num_parameters = _count(weights, problems)
    method = _method(settings, problems)
    size = next((f"{key} {settings[key]}" for key in SIZES if settings.get(key) is not None), None)
    parents = [str(parent.get("folder")) for parent in provenance.get("combined_from", [])]
    return AdapterFolder(
        path=str(folder),
        method=method,
        size=size,
        num_parameters=num_parameters,
        num_bytes=sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
        base_name=provenance.get("base_name") or settings.get("base_model_name_or_path"),
        base_digest=provenance.get("base_digest"),
        data_digest=provenance.get("data_digest"),
        digest=provenance.get("adapter_digest"),
        weights_sha256=file_digest(weights) if weights.is_file() else None,
        when=datetime.fromtimestamp(weights.stat().st_mtime, UTC).isoformat(timespec="seconds")
        if weights.is_file()
        else None,
        parents=parents,
        problems=problems,
        settings=settings,
    )


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.is_file():
        without = ": it cannot be checked against its base" if path.name == PROVENANCE_FILE else ""
        problems.append(f"{path.name} is missing{without}")
        return {}
    try:
        return read_mapping(path)
    except ModelError as error:
        problems.append(f"{path.name} {error.cause.rstrip('.')}")
        return {}


def _method(settings: Mapping[str, Any], problems: list[str]) -> str | None:
    kind = settings.get("peft_type")
    for name, method in METHODS.items():
        if kind == method.PEFT_TYPE:
            return name
    if kind is not None:
        problems.append(f"adapter type {kind} is not supported")
        return str(kind)
    return None


def _count(weights: Path, problems: list[str]) -> int | None:
    """Values in a weights file, from its header alone."""
    from safetensors import SafetensorError, safe_open

    if not weights.is_file():
        pickled = (
            "; there is adapter_model.bin, a pickle, which is not read" if weights.with_suffix(".bin").is_file() else ""
        )
        problems.append(f"{weights.name} is missing{pickled}")
        return None
    try:
        with safe_open(weights, framework="np") as tensors:
            shapes = [tensors.get_slice(key).get_shape() for key in tensors.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        problems.append(f"{weights.name} is damaged ({error})")
        return None
    if not shapes:
        problems.append(f"{weights.name} holds no tensor")
    total = 0
    for shape in shapes:
        count = 1
        for extent in shape:
            count *= extent
        total += count
    return total


def describe_list(found: list[AdapterFolder], root: Path) -> list[str]:
    """A block of lines an adapter."""
    lines = []
    for one in found:
        where = os.path.relpath(one.path, root)
        lines.append(f"{one.path if where == '.' else where}")
        facts = [
            one.method or "?",
            one.size,
            _count_text(one.num_parameters),
            f"{one.num_bytes / 1e6:.2f} MB",
            one.when,
        ]
        lines.append("  " + " · ".join(fact for fact in facts if fact))
        lines.append(
            f"  base {one.base_name or '?'} {_short(one.base_digest)} · adapter {_short(one.digest)}"
            f" · data {_short(one.data_digest)}"
        )
        lines += [f"  made of {', '.join(one.parents)}"] if one.parents else []
        lines += [f"  problem: {problem}" for problem in one.problems]
    faulty = sum(bool(one.problems) for one in found)
    lines.append(f"{len(found)} adapters, {faulty} with a problem" if faulty else f"{len(found)} adapters")
    return lines


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "?"


def _count_text(number: int | None) -> str | None:
    return None if number is None else f"{number:,} parameters"
