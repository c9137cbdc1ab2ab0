"""A chain of jobs, each in a folder that says what it was made of: a rerun does only what is due, and says why.

What a stage was made of are its settings and the digests of what it reads, not the fact that an earlier stage ran:
one that was done again and came to the same files makes nothing after it due.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.errors import RunError
from tunesmith.runs import atomic_write_text, file_digest

STAGE_FILE, BEGUN_FILE = "stage.json", "begun.json"
# Of an adapter's folder: what a change of shows in an answer. Checkpoints and logs do not.
_OF_A_FOLDER = ("*.safetensors", "adapter_config.json")


class Interrupted(Exception):
    """The user stopped a stage; the same command goes on in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One job.

    settings: all that its outcome depends on besides files. reads: name -> file or adapter's folder. leaves: what must
    be there for it to count as done. clear: takes away what another job left that this one could mistake for its own.
    work: does it, told whether it goes on with what the same job began, and gives facts for the report; it raises
    Interrupted where the user stopped it.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]
    work: Callable[[bool], Mapping[str, Any]]
    reads: Mapping[str, Path] = field(default_factory=dict)
    leaves: tuple[Path, ...] = ()
    clear: Callable[[], None] = lambda: None

    def made_of(self) -> dict[str, Any]:
        """Settings and the digest of each file; None for one that is not there yet."""
        tree = {"settings": dict(self.settings), "reads": {name: path_digest(p) for name, p in self.reads.items()}}
        return dict(json.loads(json.dumps(tree, sort_keys=True, default=str)))

    def done(self) -> Mapping[str, Any] | None:
        """What stage.json holds; None where the stage never came to its end. Raises RunError for a damaged one."""
        return _read(self.folder / STAGE_FILE)


def why_due(stage: Stage) -> str | None:
    """Why a stage must run, in words; None where what it left still stands."""
    made, done = stage.made_of(), stage.done()
    if done is None:
        begun = _read(stage.folder / BEGUN_FILE)
        return "it was stopped on its way" if begun and begun["made_of"] == made else "it was not done yet"
    if done["made_of"] != made:
        return "; ".join(_changes(done["made_of"], made))
    gone = [path.name for path in stage.leaves if not path.exists()]
    return f"{', '.join(gone)} is gone" if gone else None


def run_stage(stage: Stage, *, afresh: bool = False) -> dict[str, Any]:
    """Do a stage and write its stage.json last, whole or not at all; returns what that holds.

    A stage that the same inputs had begun goes on in its folder, unless ``afresh``.
    """
    made, begun = stage.made_of(), _read(stage.folder / BEGUN_FILE)
    going_on = not afresh and stage.done() is None and begun is not None and begun["made_of"] == made
    stage.folder.mkdir(parents=True, exist_ok=True)
    if not going_on:
        # Before the new job is noted as begun: a process that dies in between clears once more.
        (stage.folder / BEGUN_FILE).unlink(missing_ok=True)
        stage.clear()
    # What is half done must not pass for what was done.
    (stage.folder / STAGE_FILE).unlink(missing_ok=True)
    atomic_write_text(stage.folder / BEGUN_FILE, json.dumps({"made_of": made}, indent=1) + "\n")
    began = time.perf_counter()
    facts = dict(stage.work(going_on))
    record = {
        "stage": stage.name,
        "made_of": made,
        "digest": hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest(),
        "seconds": round(time.perf_counter() - began, 1),
        "resumed": going_on,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "facts": facts,
    }
    text = json.dumps(record, indent=1, default=str) + "\n"
    atomic_write_text(stage.folder / STAGE_FILE, text)
    (stage.folder / BEGUN_FILE).unlink()
    return dict(json.loads(text))


def path_digest(path: Path) -> str | None:
    """SHA-256 of a file, or of an adapter's files in a folder; None where there is nothing.

    Of a database, what a process that died has committed and not yet put into the file counts as well.
    """
    if path.is_file():
        journal = path.with_name(f"{path.name}-wal")
        if not journal.is_file() or not journal.stat().st_size:
            return file_digest(path)
        return hashlib.sha256(f"{file_digest(path)} {file_digest(journal)}".encode()).hexdigest()
    if not path.is_dir():
        return None
    files = sorted({file for pattern in _OF_A_FOLDER for file in path.glob(pattern)})
    told = [[file.name, file_digest(file)] for file in files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest() if told else None


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, in words."""
    settings = _differing(before.get("settings", {}), now["settings"])
    reads = _differing(before.get("reads", {}), now["reads"])
    lines = [f"settings changed: {', '.join(settings)}"] if settings else []
    return lines + ([f"what it reads changed: {', '.join(reads)}"] if reads else [])


def _differing(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    out = []
    for key in sorted({*before, *now}):
        one, other = before.get(key), now.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            out += _differing(one, other, f"{prefix}{key}.")
        # A key that was not there yet differs from one that says nothing.
        elif one != other or (key in before) != (key in now):
            out.append(f"{prefix}{key}")
    return out


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        tree = None
    if not isinstance(tree, dict) or not isinstance(tree.get("made_of"), dict):
        raise RunError(path, "is not the record of a stage.", "Delete it; the stage is done again.")
    return tree
