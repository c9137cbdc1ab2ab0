"""What a frozen reference says of every group: computed once, before the first step, and kept between runs.

Nothing of the reference stays in memory: the policy has its weights until the first step changes them. Each group is
scored alone, so that a score depends on nothing but the group and the model, and files of a few groups are kept under
a digest of both.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from tunesmith.errors import NonFiniteLossError, RunError
from tunesmith.models.adapters import adapter_digest
from tunesmith.records import Example, Where
from tunesmith.runs import atomic_write_bytes
from tunesmith.runtime import cache_folder
from tunesmith.training.distribute import World
from tunesmith.training.preference import Model, answer_logprobs
from tunesmith.training.watch import watch

# A file's worth: what a killed process loses at most.
GROUPS_A_FILE = 64
# One folder a reference; the least recently used go first.
MAX_FOLDERS = 32


def reference_scores(
    model: Model, groups: Sequence[tuple[Sequence[Example], Where]], world: World, *, cache: bool = True
) -> list[NDArray[np.float64]]:
    """For each group the log-probabilities (K,) in nats of its answers under the model as it is now.

    groups: the examples of one prompt and where they come from. cache: keep them in the cache folder and take them
    from there. Raises NonFiniteLossError where one is infinite or not a number.
    """
    folder = cache_folder() / "reference_scores" / reference_key(model) if cache else None
    parts = [groups[at : at + GROUPS_A_FILE] for at in range(0, len(groups), GROUPS_A_FILE)]
    paths = [None if folder is None else folder / f"{_digest(part)}.safetensors" for part in parts]
    sizes = [[len(examples) for examples, _ in part] for part in parts]
    known = [None if path is None else _read(path, sum(size)) for path, size in zip(paths, sizes, strict=True)]
    # One rank without a file makes all of them compute, since they compute together.
    missing = [i for i, flat in enumerate(known) if world.sum(float(flat is not None)) < world.size]
    if missing:
        with watch(sum(len(parts[i]) for i in missing), 0, model.base.device, what="reference") as show:
            done = 0
            for i in missing:
                flat = _scored(model, parts[i], world)
                if (path := paths[i]) is not None and world.is_main:
                    _write(path, flat)
                known[i] = flat
                done += len(parts[i])
                show(done, {})
    if folder is not None and world.is_main:
        _forget_oldest(folder)
    flats = [flat for flat in known if flat is not None]
    return [part for flat, size in zip(flats, sizes, strict=True) for part in np.split(flat, np.cumsum(size)[:-1])]


def reference_key(model: Model) -> str:
    """A name (32 hexadecimal digits) that differs wherever the scores could: weights, precision, kernels, code."""
    base = model.base
    facts = {
        # The digest is of the weights; what the config says (rotary base, epsilon) decides on the scores as well.
        "base": base.digest,
        "config": {key: value for key, value in base.model.config.to_dict().items() if key != "_name_or_path"},
        "adapter": adapter_digest(base, model.role.adapter),
        "dtype": str(base.dtype),
        "device": base.device.type,
        "kernels": "fast" if base.decoder is not None else "reference",
        # Sums over other threads or other instructions round otherwise.
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "code": _code_digest(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _code_digest() -> str:
    """SHA-256 of the code between token ids and log-probabilities."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    alone = [package / "tokens" / "forest.py", package / "tokens" / "pack.py", package / "training" / "preference.py"]
    for file in sorted([*(package / "kernels").glob("*.py"), *(package / "models").glob("*.py"), *alone]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _digest(part: Sequence[tuple[Sequence[Example], Where]]) -> str:
    """SHA-256 (hex) of the groups' tokens, which of them are in the loss, and how they are grouped."""
    digest = hashlib.sha256()
    for examples, _ in part:
        digest.update(f"group {len(examples)};".encode())
        for example in examples:
            digest.update(f"{len(example.ids)};".encode())
            digest.update(example.ids.astype("<i8").tobytes())
            digest.update(example.loss_weight.astype("<f4").tobytes())
    return digest.hexdigest()


def _scored(model: Model, part: Sequence[tuple[Sequence[Example], Where]], world: World) -> NDArray[np.float64]:
    """Scores of all groups, flat; each rank computes every world.size-th group."""
    scores: list[torch.Tensor] = []
    for i, (examples, where) in enumerate(part):
        own = torch.zeros(len(examples), dtype=torch.float64)
        if i % world.size == world.rank:
            with torch.no_grad():
                own = answer_logprobs(model, [examples]).cpu()
            if not bool(torch.isfinite(own).all()):
                raise NonFiniteLossError(
                    where, "the reference gives its answers no finite log-probability.", "Set dtype: float32."
                )
        scores.append(own)
    flat = torch.cat(scores)
    return world.sum(flat.to(model.base.device)).cpu().numpy() if world.size > 1 else flat.numpy()


def _read(path: Path, num_scores: int) -> NDArray[np.float64] | None:
    """The scores of a file that is whole; None for one that is absent or damaged."""
    try:
        blob = path.read_bytes()
        content, _, seal = blob.rpartition(b"sha256:")
        if hashlib.sha256(content).hexdigest().encode() != seal:
            return None
        scores: NDArray[np.float64] = load(content)["logprobs"]
    except (OSError, ValueError, KeyError):
        return None
    return scores if scores.shape == (num_scores,) and scores.dtype == np.float64 else None


def _write(path: Path, scores: NDArray[np.float64]) -> None:
    """Keep scores; a cache that cannot be written costs time, not the run."""
    content = save({"logprobs": scores})
    with contextlib.suppress(OSError, RunError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic_write_bytes(path, content + b"sha256:" + hashlib.sha256(content).hexdigest().encode())


def _forget_oldest(used: Path) -> None:
    with contextlib.suppress(OSError):
        used.touch()
        folders = sorted(used.parent.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in folders[MAX_FOLDERS:]:
            shutil.rmtree(folder, ignore_errors=True)
