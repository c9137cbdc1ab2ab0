"""A plain Python function of the user's as a reward source.

The rule by which it is called, told by the names of its parameters:

- a parameter called ``prompts``, ``answers``, ``completions`` or ``responses``, or the first two annotated as lists:
  the function is called once with lists and returns as many numbers; else once an answer, and returns one number;
- a known name (see ``ONE`` and ``MANY``) is given what it says; the first two others are the prompt and the answer;
- what has a default and no known name keeps its default; anything else is refused before training begins.

A prompt is the text of its last user turn; a function that wants the whole conversation names ``messages``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import RewardError
from tunesmith.rollout.rewards import Answered

# Parameter -> what it is given. TRL's names are among them, so that its reward functions run as they are.
ONE = {
    "prompt": "prompt",
    "answer": "answer",
    "completion": "answer",
    "response": "answer",
    "messages": "messages",
    "ids": "ids",
    "completion_ids": "ids",
    "stop_reason": "stop_reason",
    "row_id": "row_id",
}
_BATCHED = {"prompts": "prompt", "answers": "answer", "completions": "answer", "responses": "answer"}
MANY = {**ONE, **_BATCHED, "stop_reasons": "stop_reason", "row_ids": "row_id"}
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def given(item: Answered, what: str) -> Any:
    """What a parameter is given of one answer."""
    values: dict[str, Callable[[], Any]] = {
        "prompt": lambda: next((m.content for m in reversed(item.messages) if m.role == "user"), ""),
        "answer": lambda: item.text,
        "messages": lambda: [{"role": m.role, "content": m.content} for m in item.messages],
        "ids": lambda: [int(i) for i in item.ids],
        "stop_reason": lambda: item.stop_reason,
        "row_id": lambda: item.row_id,
    }
    return values[what]()


class FunctionReward:
    """Calls a function, one answer at a time or all at once as its signature says."""

    def __init__(self, function: Callable[..., Any], name: str, identity: Mapping[str, str] | None = None) -> None:
        self.name, self.function = name, function
        self.identity: Mapping[str, str] = identity or {"function": name}
        self.counts: Mapping[str, int] = {}
        self.batched, self._positional, self._keywords = _plan(function, name)

    @classmethod
    def load(cls, address: str, name: str | None = None) -> FunctionReward:
        """The function at ``path/to/file.py:function`` or ``package.module:function``; its code is run to get it."""
        function, source = load_function(address)
        short = address.rpartition(":")[2]
        # A function of a compiled module has no source to tell it by.
        digest = hashlib.sha256(source.read_bytes()).hexdigest() if source is not None else "unknown"
        return cls(function, name or short, {"function": short, "code": digest})

    def score(self, items: Sequence[Answered]) -> NDArray[np.float64]:
        """(N,) what the function says. Raises RewardError where it raises or returns something else than numbers."""
        if not items:
            return np.zeros(0)
        if not self.batched:
            return np.array([self._number(self._call([item]), item) for item in items])
        values = self._call(items)
        if not hasattr(values, "__len__") or isinstance(values, str | bytes | Mapping) or len(values) != len(items):
            held = f"{len(values)} numbers" if hasattr(values, "__len__") else f"a {type(values).__name__}"
            raise self._error(
                items, f"returned {held} for {len(items)} answers.", "Return a list with one number an answer."
            )
        return np.array([self._number(value, item) for value, item in zip(values, items, strict=True)])

    def _call(self, items: Sequence[Answered]) -> Any:
        def give(what: str) -> Any:
            return [given(item, what) for item in items] if self.batched else given(items[0], what)

        try:
            return self.function(
                *(give(what) for what in self._positional),
                **{name: give(what) for name, what in self._keywords.items()},
            )
        except Exception as error:
            raise self._error(
                items,
                f"the function raised {type(error).__name__}: {str(error).rstrip('.')}, in {_place(error)}.",
                "Correct the function; --debug shows where it came from.",
            ) from error

    def _number(self, value: Any, item: Answered) -> float:
        if not isinstance(value, str | bytes) and value is not None:
            try:
                return float(value)
            except (TypeError, ValueError):
                pass
        raise self._error([item], f"returned {value!r:.60}, which is no number.", "Return a number for every answer.")

    def _error(self, items: Sequence[Answered], cause: str, fix: str) -> RewardError:
        rows = f"prompt row {items[0].row_id}" if len(items) == 1 else f"prompt rows {_rows(items)}"
        return RewardError(f"reward '{self.name}': {rows}", cause, fix)


def _rows(items: Sequence[Answered]) -> str:
    rows = list(dict.fromkeys(item.row_id for item in items))
    return ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


def _place(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"line {last.lineno} of {Path(last.filename).name}"


def _plan(function: Callable[..., Any], name: str) -> tuple[bool, list[str], dict[str, str]]:
    """(called with lists?, what the positional parameters are given, what the keywords are given)."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # Some builtins have none.
        return False, ["prompt", "answer"], {}
    unnamed = [p for p in parameters if p.kind in _POSITIONAL and p.name not in MANY and p.default is p.empty]
    listed = unnamed[:2] if len(unnamed) >= 2 else []
    batched = any(p.name in _BATCHED for p in parameters) or (bool(listed) and all(map(_is_list, listed)))
    known = MANY if batched else ONE
    roles = {p.name: what for p, what in zip(listed, ("prompt", "answer"), strict=False)}
    positional, keywords, open_names = [], {}, []
    for p in parameters:
        what = known.get(p.name, roles.get(p.name))
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            continue
        if what is None:
            if p.default is p.empty:
                open_names.append(p.name)
        elif p.kind is p.POSITIONAL_ONLY:
            positional.append(what)
        else:
            keywords[p.name] = what
    if open_names or "answer" not in [*positional, *keywords.values()]:
        cause = f"nothing is known to give its parameter '{open_names[0]}'" if open_names else "it takes no answer"
        raise RewardError(
            f"reward '{name}'",
            f"{cause}.",
            "Write it as f(prompt, answer) -> float or f(prompts, answers) -> list; it may also name "
            "messages, ids, stop_reason and row_id.",
        )
    return batched, positional, keywords


def _is_list(parameter: inspect.Parameter) -> bool:
    kind = parameter.annotation
    if isinstance(kind, str):  # from __future__ import annotations
        return kind.partition("[")[0].rpartition(".")[2] in ("list", "List", "Sequence", "tuple", "Iterable")
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and issubclass(origin, Sequence) and origin is not str


def load_function(address: str) -> tuple[Callable[..., Any], Path | None]:
    """The function an address names, and the file it stands in. Raises RewardError."""
    module_name, separator, name = address.rpartition(":")
    if not separator or not module_name or not name:
        raise RewardError(f"function '{address}'", "is no address of a function.", "Write my_rewards.py:polite.")
    module = _load_file(Path(module_name)) if module_name.endswith(".py") else _load_module(module_name)
    function = getattr(module, name, None)
    if not callable(function):
        found = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        cause = "holds no such function" if function is None else "is not a function"
        raise RewardError(
            f"function '{address}'", f"{cause}.", f"It holds {', '.join(found[:8]) or 'none'}: name one of them."
        )
    source = getattr(module, "__file__", None)
    return function, Path(source) if source else None


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise RewardError(path, "no such file.", "Name the file as seen from where you start tunesmith.")
    # Under a name of its own: the user's file may be called like a module, or another such file, that is in use.
    name = f"tunesmith_reward_{path.stem}_{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses, pickle and type hints look a class's module up by its name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise RewardError(f"{path}:{error.lineno}", f"is not Python: {error.msg}.", "Correct the line.") from error
    except Exception as error:
        raise _not_loaded(str(path), error) from error
    return module


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise _not_loaded(f"module '{name}'", error) from error


def _not_loaded(place: str, error: Exception) -> RewardError:
    fix = "Correct it, and try `python` on it alone."
    if isinstance(error, ImportError):
        fix = "Install what it imports, or put its folder into PYTHONPATH; a file of yours is named file.py:function."
    return RewardError(place, f"cannot be loaded: {type(error).__name__}: {str(error).rstrip('.')}.", fix)
