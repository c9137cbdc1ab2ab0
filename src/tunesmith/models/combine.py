"""A new LoRA adapter from several on one base, through PEFT's ``add_weighted_adapter``.

linear, cat and svd sum the weighted updates; ties (Yadav et al. 2023, arXiv:2306.01708) and dare (Yu et al. 2024,
arXiv:2311.03099) first thin them out. cat is exact and adds the ranks; svd is the best approximation in its rank;
linear, ties and dare work on the factors A and B by themselves, each times the root of weight times scaling, which is
PEFT's way and only near the sum; their *_svd kin work on the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from tunesmith.errors import ConfigError, ModelError
from tunesmith.models.merge import adapted_maps, map_under
from tunesmith.models.roles import Base, Role

How = Literal[
    "linear", "cat", "svd", "ties", "ties_svd", "dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd",
    "magnitude_prune", "magnitude_prune_svd",
]  # fmt: skip
HOWS: tuple[str, ...] = get_args(How)
EXACT = ("linear", "cat", "svd")


def check_combinable(base: Base, folders: Sequence[Path], roles: Sequence[Role]) -> None:
    """Raise ModelError naming the adapter whose answers PEFT's combination would not keep, and why."""
    for folder, role in zip(folders, roles, strict=True):
        name = str(role.adapter)
        reason = None
        if base.methods[name] != "lora":
            reason = f"it is a {base.methods[name]} adapter, and PEFT combines LoRA matrices only"
        elif role.head is not None:
            reason = "it has a head of its own, which PEFT would leave out"
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
    if not (how == "cat" or how.endswith("svd")):
        _check_ranks(base, names, how)
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
    _fill_ranks(base, new_name)


def _check_ranks(base: Base, names: Sequence[str], how: str) -> None:
    """Raise ConfigError where some map has matrices of several ranks: PEFT compares the settings' alone."""
    for key, layer in _layers(base):
        ranks = {len(layer.lora_A[name].weight) for name in names if name in layer.lora_A}
        if len(ranks) > 1:
            cause = f"'{how}': {key} has matrices of ranks {', '.join(map(str, sorted(ranks)))}."
            raise ConfigError("--how", cause, "Take cat or svd, which take any ranks.")


@torch.no_grad()
def _fill_ranks(base: Base, name: str) -> None:
    """Rows of zeros where PEFT leaves less than the rank it writes down, which nobody could load.

    So it does where a map is smaller than the rank, and where a parent's rank_pattern made one of its maps smaller.
    """
    rank = int(base.peft_model.peft_config[name].r)
    for _, layer in _layers(base):
        if name in layer.lora_A and (missing := rank - len(layer.lora_A[name].weight)) > 0:
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            a.data, b.data = nn.functional.pad(a.data, (0, 0, 0, missing)), nn.functional.pad(b.data, (0, missing))


def _layers(base: Base) -> list[tuple[str, LoraLayer]]:
    return [(key, module) for key, module in base.model.named_modules() if isinstance(module, LoraLayer)]


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
