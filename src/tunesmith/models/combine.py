"""A new LoRA adapter from several on one base, through PEFT's ``add_weighted_adapter``.

linear, cat and svd sum the weighted updates; ties (Yadav et al. 2023, arXiv:2306.01708) and dare (Yu et al. 2024,
arXiv:2311.03099) first thin them out. cat is exact and adds the ranks; svd is the best approximation in its rank;
linear, ties and dare work on the factors A and B by themselves, which is PEFT's way and only near the sum; their *_svd
kin work on the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch

from tunesmith.errors import ConfigError, ModelError
from tunesmith.models.merge import adapted_maps, map_under
from tunesmith.models.roles import Base

How = Literal[
    "linear", "cat", "svd", "ties", "ties_svd", "dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd",
    "magnitude_prune", "magnitude_prune_svd",
]  # fmt: skip
HOWS: tuple[str, ...] = get_args(How)
EXACT = ("linear", "cat", "svd")


def check_combinable(base: Base, folders: Sequence[Path], names: Sequence[str]) -> None:
    """Raise ModelError naming the adapter whose answers PEFT's combination would not keep, and why."""
    for folder, name in zip(folders, names, strict=True):
        reason = None
        if base.methods[name] != "lora":
            reason = f"it is a {base.methods[name]} adapter, and PEFT combines LoRA matrices only"
        elif name in base.token_rows:
            reason = "it has tokens of its own, which no other adapter has rows for"
        elif base.peft_model.peft_config[name].use_dora:
            reason = "it is a DoRA adapter, whose magnitudes PEFT would leave out"
        elif any(key.endswith("bias") for key in _parameter_names(base, name)):
            reason = "it has biases of its own, which PEFT would leave out"
        if reason is not None:
            raise ModelError(folder, f"cannot be combined: {reason}.", "Leave it out, or merge it into a base.")


def combine(
    base: Base,
    names: Sequence[str],
    weights: Sequence[float],
    new_name: str,
    how: How,
    *,
    density: float | None = None,
    rank: int | None = None,
    seed: int = 0,
) -> None:
    """Put a new adapter on the base, made of those named, each times its weight.

    density: the share of values that ties, dare and magnitude_prune keep. rank: of the new adapter, for the *svd kinds.
    seed: keys what dare drops. Raises ConfigError where PEFT cannot combine them so.
    """
    config = base.peft_model.peft_config[names[0]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # PEFT gives the new adapter the rank as its alpha, so that its factor is 1; under rsLoRA it would not be.
        kept, config.use_rslora = config.use_rslora, False
        try:
            base.peft_model.base_model.add_weighted_adapter(
                list(names), list(weights), new_name, how, svd_rank=rank, density=density, svd_full_matrices=False
            )
        except ValueError as error:
            cause = str(error).splitlines()[0].rstrip(".")
            raise ConfigError("--how", f"'{how}': {cause}.", "Take cat or svd, which take any ranks.") from None
        finally:
            config.use_rslora = kept
    base.methods[new_name] = "lora"


def distance_to_sum(base: Base, names: Sequence[str], weights: Sequence[float], new_name: str) -> float:
    """||combined update - weighted sum of the updates|| / ||that sum||, over all linear maps together (Frobenius)."""
    off, whole = 0.0, 0.0
    for _, site in adapted_maps(base):
        plain_IO = map_under(base, site, None)[0]
        sum_IO = sum(w * (map_under(base, site, name)[0] - plain_IO) for name, w in zip(names, weights, strict=True))
        off += float((map_under(base, site, new_name)[0] - plain_IO - sum_IO).double().square().sum())
        whole += float(torch.as_tensor(sum_IO).double().square().sum())
    return (off / whole) ** 0.5 if whole > 0 else 0.0


def _parameter_names(base: Base, name: str) -> list[str]:
    return [key for key, _ in base.model.named_parameters() if f".{name}." in key]
