"""Files into a feedback store, and a store into files: what ``tunesmith feedback import`` and ``export`` do and say."""

from __future__ import annotations

import shlex
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith.data.check import shown
from tunesmith.data.convert import in_option_words, option_words
from tunesmith.errors import ConfigError, DataError, DiskFullError, RunError
from tunesmith.feedback.argilla import ASKED, Question
from tunesmith.feedback.schema import check_path
from tunesmith.feedback.store import FeedbackStore
from tunesmith.feedback.transfer import Exported, Imported, ImportOptions, export_store, import_files


def import_feedback(store: Path, sources: list[str], options: ImportOptions) -> Imported:
    """Read files into a store, which is made where there is none; a first import that fails leaves no file behind."""
    store = store.expanduser()
    check_path(store, create=True)
    if store.exists():
        return _import(store, sources, options)
    made = store.with_name(f".{store.name}.{uuid.uuid4().hex[:12]}")
    try:
        done = _import(made, sources, options)
        # Another process may have made one meanwhile, which then stands; not every disk knows hard links.
        with suppress(OSError):
            store.hardlink_to(made)
            return done
    except (RunError, DiskFullError) as error:
        raise type(error)(store, error.cause, error.fix) from None
    finally:
        for file in (made, *(made.with_name(made.name + end) for end in ("-wal", "-shm", "-journal"))):
            file.unlink(missing_ok=True)
    return _import(store, sources, options)


def _import(store: Path, sources: list[str], options: ImportOptions) -> Imported:
    with FeedbackStore.open(store, create=True) as opened:
        try:
            return import_files(opened, sources, options)
        except DataError as error:
            raise in_option_words(error) from None


def export_feedback(store: Path, folder: Path, *, overwrite: bool) -> Exported:
    """Write all of a store as files of rows."""
    with FeedbackStore.open(store) as opened:
        return export_store(opened, folder, overwrite=overwrite)


def parse_questions(texts: list[str]) -> dict[str, Question]:
    """``NAME=KIND`` or ``NAME=KIND:FIELD`` texts as what Argilla's questions ask. Raises ConfigError."""
    out = {}
    for text in texts:
        name, equals, asked = text.partition("=")
        kind, _, about = asked.partition(":")
        if not equals or not name or kind not in ASKED:
            fix = f"Write --question NAME=KIND or NAME=KIND:FIELD, KIND being one of {', '.join(ASKED)}."
            raise ConfigError(f"--question {text}", "is not understood.", fix)
        out[name] = Question(next(known for known in ASKED if known == kind), about or None)
    return out


def describe_import(done: Imported, store: Path) -> list[str]:
    """What came in, and what to do next."""
    lines = [f"read {_many(done.rows_read, 'row')} of {', '.join(done.files)}"]
    if done.rows_dropped:
        lines += [f"dropped {_many(sum(done.rows_dropped.values()), 'fault')}:", option_words(done.fault_table)]
    if done.left_out:
        lines += ["left out:", *(f"  {number} x {cause}" for cause, number in done.left_out.items())]
    if done.ignored_columns:
        lines.append(f"not carried: {', '.join(map(shown, done.ignored_columns))}")
    kinds = ", ".join(_many(number, kind) for kind, number in sorted(done.kinds.items()))
    new = f"{_many(done.new_prompts, 'new prompt')}, {_many(done.new_candidates, 'new answer')}"
    lines.append(f"put into {store}: {kinds or 'no judgement'}; {new}")
    if done.already_there:
        lines.append(f"there already: {_many(done.already_there, 'judgement')}")
    if done.withdrawn:
        lines.append(f"withdrawn: {done.withdrawn}")
    return [*lines, f"next: tunesmith feedback prefer preferences --store {shlex.quote(str(store))}"]


def describe_export(done: Exported, store: Path, folder: Path) -> list[str]:
    """What was written, and how to read it again."""
    lines = [f"wrote {_many(rows, 'row')} to {path}" for path, rows in done.files.items() if rows]
    empty = [Path(path).name for path, rows in done.files.items() if not rows]
    if empty:
        lines.append(f"empty: {', '.join(empty)}")
    return [*lines, f"next: tunesmith feedback import {shlex.quote(str(folder))} --store other.db"]


def as_dict(done: Exported) -> dict[str, Any]:
    """Plain values for --json."""
    return {"files": done.files}


def _many(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
