"""Which linear maps of a model get LoRA matrices, and whether a recipe's names and patterns mean any of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import nn
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ConfigError
from tunesmith.models.roles import Base


def attention_modules(base: Base) -> list[str]:
    """Names, as ``target_modules`` takes them, of the linear maps that stand in a module called attention.

    A name that a map elsewhere has too (GPT-2's c_proj) is given with its parent's. Raises ConfigError where there are
    none.
    """
    keys = [key for key, module in _plain_modules(base) if _is_linear_map(base, module)]
    inside = [key for key in keys if re.search("attn|attention", _parent(key).lower())]
    if not inside:
        raise ConfigError(
            "adapter.target_modules",
            f"'{base.resolved.name}' has no module called attention; its linear maps are {_listed(keys)}.",
            "List those you mean, or use 'all-linear'.",
        )
    elsewhere = {_last(key) for key in keys if key not in inside}
    return sorted({f"{_parent(key)}.{_last(key)}" if _last(key) in elsewhere else _last(key) for key in inside})


def targeted(base: Base, lora: LoraConfig) -> dict[str, Any]:
    """Module name -> module, of those that a LoraConfig's target_modules mean."""
    every = lora.target_modules == "all-linear"
    return {
        key: module
        for key, module in _plain_modules(base)
        if (_is_linear_map(base, module) if every else check_target_module_exists(lora, key))
    }


def check_targets(base: Base, lora: LoraConfig) -> None:
    """Raise ValueError where a matrix would stand on something we do not run it on: embedding, head, norm."""
    for key, module in targeted(base, lora).items():
        if not _is_linear_map(base, module):
            raise ValueError(f"'{key}' takes no LoRA matrices; only the linear maps inside the layers do")


def check_names(base: Base, lora: LoraConfig) -> None:
    """Raise ConfigError for a target or a pattern that means no module, which PEFT would pass over in silence.

    Also for two patterns of one module: which of them PEFT takes depends on their order, which its file does not keep.
    """
    keys = [key for key, module in _plain_modules(base) if _is_linear_map(base, module)]
    if not isinstance(lora.target_modules, str):
        for name in sorted(lora.target_modules or ()):
            if not any(key == name or key.endswith(f".{name}") for key, _ in _plain_modules(base)):
                raise _no_such("adapter.target_modules", name, keys)
    chosen = list(targeted(base, lora))
    for place, patterns in (("rank_pattern", lora.rank_pattern), ("alpha_pattern", lora.alpha_pattern)):
        owner: dict[str, str] = {}
        for pattern in patterns:
            matched = _matched(f"adapter.{place}", pattern, chosen)
            if not matched:
                raise _no_such(f"adapter.{place}", pattern, chosen)
            for key in matched:
                if key in owner:
                    cause = f"'{owner[key]}' and '{pattern}' both mean '{key}'."
                    raise ConfigError(f"adapter.{place}", cause, "Keep one of them for it.")
                owner[key] = pattern


def _matched(place: str, pattern: str, keys: Sequence[str]) -> list[str]:
    """The modules that PEFT takes a pattern for."""
    try:
        return [key for key in keys if get_pattern_key([pattern], key) == pattern]
    except re.error as error:
        raise ConfigError(place, f"'{pattern}' is no regular expression: {error}.", "Correct it.") from None


def _no_such(place: str, name: str, keys: Sequence[str]) -> ConfigError:
    names = {_last(key) for key in keys} | {f"{_parent(key)}.{_last(key)}" for key in keys} | set(keys)
    near = difflib.get_close_matches(name, sorted(names), n=3)
    fix = f"Nearest: {', '.join(near)}." if near else f"There are {_listed(keys)}."
    return ConfigError(place, f"'{name}' means none of the modules.", fix)


def _plain_modules(base: Base) -> list[tuple[str, Any]]:
    """The model's modules as they were before PEFT wrapped some."""
    return [
        (key, module.get_base_layer() if isinstance(module, LoraLayer) else module)
        for key, module in base.model.named_modules()
        if "lora_" not in key and not key.endswith(".base_layer")
    ]


def _is_linear_map(base: Base, module: Any) -> bool:
    return isinstance(module, nn.Linear | Conv1D) and module is not base.model.get_output_embeddings()


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _parent(key: str) -> str:
    return _last(key.rpartition(".")[0])


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(sorted({_last(key) for key in keys}))
