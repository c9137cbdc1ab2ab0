"""The strict loader: YAML plus key=value overrides -> frozen objects; an unknown key is an error, never ignored.

Each module keeps the config it reads beside its code as a ``Config`` subclass; a recipe's config inherits
from the ones it is made of, so that the YAML stays flat where Hugging Face's keys are flat.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tunesmith.errors import ConfigError

# Names other tools use for our keys: accepted in a recipe, with a note in the run, never both at once.
ALIASES = {
    "max_seq_length": "max_length",
    "cutoff_len": "max_length",
    "sequence_len": "max_length",
    "adapter.lora_r": "adapter.r",
    "adapter.lora_rank": "adapter.r",
    "adapter.alpha": "adapter.lora_alpha",
    "adapter.lora_target_modules": "adapter.target_modules",
}
# Characters of a faulty value that its error shows.
_MOST_GIVEN = 120


class Config(BaseModel):
    """Base of every config: frozen, strict about unknown keys, fields documented where they are declared."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False, use_attribute_docstrings=True
    )


C = TypeVar("C", bound=Config)


def load_config(kind: type[C], path: Path | None, overrides: Sequence[str] = ()) -> tuple[C, list[str]]:
    """Read a YAML recipe, apply ``key=value`` overrides and check it.

    Returns the frozen config and notes about aliases that were translated. Raises ConfigError naming
    file:line:key, the cause and the nearest valid key.
    """
    place = str(path) if path is not None else "command line"
    tree, lines = _read_yaml(path) if path is not None else ({}, {})
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise ConfigError(f"override '{text}'", "is not of the form key=value.", "Write for example seed=7.")
        _set_key(tree, key, _parse_value(text, value))
        lines[key] = 0
    notes = _translate_aliases(tree, lines, place)
    return build_config(kind, tree, place=place, lines=lines), notes


def build_config(kind: type[C], tree: dict[str, Any], *, place: str, lines: dict[str, int] | None = None) -> C:
    """Check a plain tree of settings against a config class; errors name the place, the key and the fix."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise _explain(kind, error, place, lines or {}) from None


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(path.as_posix(), "no such recipe.", "Check the path; `ls recipes` shows ours.") from None
    except IsADirectoryError:
        raise ConfigError(path.as_posix(), "is a folder, not a recipe.", "Name a .yaml file.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(path.as_posix(), f"is not UTF-8 (byte {error.start}).", "Save it as UTF-8.") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "the text is not YAML"
        raise ConfigError(f"{path}{line}", f"{problem}.", "Check indentation and quotes.") from None
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise ConfigError(str(path), "a recipe is a mapping of keys to values.", "Write `key: value` lines.")
    lines: dict[str, int] = {}
    _collect_lines(node, "", lines, str(path))
    return tree, lines


def key_lines(path: Path) -> dict[str, int]:
    """Line from 1 of every dotted key of a YAML file; items of a list are numbered from 0. Raises ConfigError."""
    return _read_yaml(path)[1]


def _collect_lines(
    node: yaml.Node | None, prefix: str, lines: dict[str, int], place: str, around: tuple[yaml.Node, ...] = ()
) -> None:
    if any(node is one for one in around):
        where = f"{place}:{lines.get(prefix[:-1], 0)}:{prefix[:-1]}"
        raise ConfigError(where, "an alias stands inside what it names.", "Write the value out.")
    around = (*around, node) if node is not None else around
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            lines[f"{prefix}{number}"] = item.start_mark.line + 1
            _collect_lines(item, f"{prefix}{number}.", lines, place, around)
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value_node in node.value:
        key = f"{prefix}{key_node.value}"
        line = key_node.start_mark.line + 1
        if key in lines:
            raise ConfigError(
                f"{place}:{line}:{key}", f"the key is already set in line {lines[key]}.", "Keep one of the two."
            )
        lines[key] = line
        _collect_lines(value_node, f"{key}.", lines, place, around)


def _parse_value(override: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"override '{override}'", "the value is not YAML.", "Quote it.") from None


def _set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override '{key}'", f"'{parent}' is a value, not a group.", "Drop the dotted part.")
        tree = child
    tree[last] = value


def _translate_aliases(tree: dict[str, Any], lines: dict[str, int], place: str) -> list[str]:
    notes = []
    for alias, name in ALIASES.items():
        value = _pop_key(tree, alias)
        if value is None:
            continue
        line = lines.get(alias, 0)
        if _pop_key(_deep_copy(tree), name) is not None:
            raise ConfigError(
                f"{place}:{line}:{alias}", f"means the same as '{name}', which is set too.", "Keep one of the two."
            )
        _set_key(tree, name, value)
        lines[name] = line
        notes.append(f"'{alias}' is called '{name}' here; it was taken as that.")
    return notes


def _deep_copy(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, dict) else value for key, value in tree.items()}


def _pop_key(tree: dict[str, Any], key: str) -> Any:
    *parents, last = key.split(".")
    for parent in parents:
        child = tree.get(parent)
        if not isinstance(child, dict):
            return None
        tree = child
    return tree.pop(last, None)


def _explain(kind: type[Config], error: ValidationError, place: str, lines: dict[str, int]) -> ConfigError:
    """One ConfigError for all faults of a recipe: the first is the place, the others follow in the text."""
    parts = []
    for fault in error.errors():
        # Union branches add their class name to the location; only names that are keys help the reader.
        names = [str(part) for part in fault["loc"] if not str(part)[:1].isupper() and "[" not in str(part)]
        key = ".".join(names) or "recipe"
        # A key that is missing has the line of what it is missing in.
        line = lines.get(key) or lines.get(key.rpartition(".")[0], 0)
        where = f"{place}:{line}:{key}" if line else f"{place}:{key}"
        if fault["type"] == "extra_forbidden":
            parent, _, last = key.rpartition(".")
            nearest = difflib.get_close_matches(last, _field_names(kind, parent.split(".") if parent else []), n=1)
            hint = f"Did you mean '{nearest[0]}'?" if nearest else "See docs/recipe.md for the keys."
            parts.append((where, "unknown key.", hint))
        else:
            given = "" if fault["type"] == "missing" else _given(fault["input"])
            message = fault["msg"].removeprefix("Value error, ").rstrip(".")
            parts.append((where, f"{message[0].lower()}{message[1:]}{given}.", "Correct the value."))
    where, cause, fix = parts[0]
    for other_where, other_cause, other_fix in parts[1:]:
        fix += f" Also {other_where}: {other_cause} {other_fix}"
    return ConfigError(where, cause, fix)


def _given(value: Any) -> str:
    """What was given instead, cut where it is long; of keys and lists of keys nothing, since their place is told."""
    if isinstance(value, dict) or (isinstance(value, list | tuple) and any(isinstance(one, dict) for one in value)):
        return ""
    text = repr(value)
    return f", not {text if len(text) <= _MOST_GIVEN else f'{text[:_MOST_GIVEN]}...'}"


def _field_names(kind: type[Config], path: list[str]) -> list[str]:
    fields = kind.model_fields
    for name in path:
        if name not in fields:
            return []
        inner = [t for t in _types_in(fields[name].annotation) if isinstance(t, type) and issubclass(t, BaseModel)]
        fields = {key: value for t in inner for key, value in t.model_fields.items()}
    return list(fields)


def _types_in(annotation: Any) -> Iterable[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _types_in(argument)
