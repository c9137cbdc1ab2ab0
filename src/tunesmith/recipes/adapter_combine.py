"""A new adapter from several on one base, with their names and weights in its provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from tunesmith.config import Config
from tunesmith.errors import RunError
from tunesmith.models.adapters import adapter_digest, adapter_role, load_adapter, save_role
from tunesmith.models.combine import EXACT, How, check_combinable, combine, distance_to_sum
from tunesmith.models.load import load_base
from tunesmith.models.resolve import EMBEDDED_MODEL
from tunesmith.recipes.adapter_folders import base_for, read_adapter_folder

NAME = "combined"


class CombineConfig(Config):
    """Which adapters become one, and how."""

    adapters: list[str] = Field(min_length=2)
    """Folders of the adapters; all of one base, all LoRA."""
    output: str
    """The new adapter's folder; it must not exist."""
    weights: list[float] | None = None
    """One an adapter; None: equal shares of 1."""
    how: How = "svd"
    """linear, cat, svd, ties, dare_linear, dare_ties, magnitude_prune, or the *_svd kind of one: PEFT's names."""
    density: float | None = Field(None, gt=0, le=1)
    """The share of values that ties, dare and magnitude_prune keep; they need it."""
    rank: int | None = Field(None, ge=1)
    """Rank of the new adapter, for the *svd kinds; None: the largest of the parents'."""
    seed: int = 0
    """Keys what dare drops."""
    model: str = EMBEDDED_MODEL
    """The base; adapters with provenance bring their own."""

    @model_validator(mode="after")
    def _fits_together(self) -> CombineConfig:
        if self.weights is not None and len(self.weights) != len(self.adapters):
            raise ValueError(f"there are {len(self.adapters)} adapters and {len(self.weights)} weights")
        thins = self.how not in EXACT
        if thins and self.density is None:
            raise ValueError(f"'{self.how}' needs a density, the share of values it keeps, for example 0.5")
        if not thins and self.density is not None:
            raise ValueError(f"'{self.how}' keeps every value, so it takes no density")
        if self.rank is not None and not self.how.endswith("svd"):
            raise ValueError(f"'{self.how}' cannot be asked for a rank; the *svd kinds can")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """What was written. distance: of the new update from the weighted sum of its parents', relative to that sum."""

    output: str
    digest: str
    how: str
    rank: int
    weights: list[float]
    distance: float

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def combine_adapters(config: CombineConfig) -> Combined:
    """Load the parents on one base, combine them, write the new adapter.

    Raises AdapterMismatchError for parents of different bases, ModelError for one that is no plain LoRA adapter,
    ConfigError where the way does not take these, RunError for an output that exists.
    """
    folders, output = [Path(folder) for folder in config.adapters], Path(config.output)
    if output.exists():
        raise RunError(output, "exists.", "Name another folder.")
    weights = config.weights or [1 / len(folders)] * len(folders)
    base = load_base(base_for(folders[0], config.model))
    names = [f"parent_{number}" for number in range(len(folders))]
    roles = [load_adapter(base, folder, name) for folder, name in zip(folders, names, strict=True)]
    check_combinable(base, folders, roles)
    combine(base, names, weights, NAME, config.how, density=config.density, rank=config.rank, seed=config.seed)
    digest = adapter_digest(base, NAME)
    parents = _parents(folders, [adapter_digest(base, name) for name in names], weights)
    way = {"how": config.how, "density": config.density, "rank": config.rank, "seed": config.seed}
    save_role(base, adapter_role(base, NAME), output, {"adapter_digest": digest, "combined_from": parents, **way})
    return Combined(
        output=str(output),
        digest=digest,
        how=config.how,
        rank=int(base.peft_model.peft_config[NAME].r),
        weights=weights,
        distance=distance_to_sum(base, names, weights, NAME),
    )


def _parents(folders: Sequence[Path], digests: Sequence[str], weights: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {
            "folder": folder.name,
            "weight": weight,
            "adapter_digest": digest,
            "data_digest": read_adapter_folder(folder).data_digest,
        }
        for folder, digest, weight in zip(folders, digests, weights, strict=True)
    ]


def describe_combined(found: Combined) -> list[str]:
    """For people."""
    weights = ", ".join(f"{weight:g}" for weight in found.weights)
    return [
        f"{found.how} with weights {weights}: rank {found.rank}",
        f"its update is {100 * found.distance:.2f} % away from the weighted sum of its parents'",
        f"wrote {found.output}",
        f"next:  tunesmith chat --adapter {found.output}",
    ]
