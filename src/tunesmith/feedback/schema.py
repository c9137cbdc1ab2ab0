"""The file under the feedback store: its tables, how an older one is brought up to date, SQLite's errors as ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.errors import DataError, DiskFullError, RunError

# "TuFb": tells a store from any other SQLite file.
APPLICATION_ID = 0x54754662
# Migration i takes a file of schema version i to i + 1; what was released is never edited.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE prompts (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, messages TEXT NOT NULL, created TEXT NOT NULL
    ) STRICT;
    CREATE TABLE candidates (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
        prompt_id TEXT NOT NULL REFERENCES prompts (id), answer TEXT NOT NULL, model TEXT, adapter_digest TEXT,
        sampling TEXT NOT NULL, seed INTEGER, created TEXT NOT NULL
    ) STRICT;
    CREATE INDEX candidates_of_prompt ON candidates (prompt_id);
    CREATE TABLE judgements (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL CHECK (kind IN ('comparison', 'thumb', 'rating', 'flag', 'edit', 'ranking')),
        prompt_id TEXT NOT NULL REFERENCES prompts (id), annotator TEXT NOT NULL, value TEXT NOT NULL,
        source TEXT NOT NULL CHECK (source IN ('human', 'ai', 'import')), weight REAL NOT NULL CHECK (weight > 0),
        asked_again_of TEXT REFERENCES judgements (id), created TEXT NOT NULL
    ) STRICT;
    CREATE INDEX judgements_of_annotator ON judgements (annotator);
    CREATE INDEX judgements_of_prompt ON judgements (prompt_id);
    CREATE TABLE judged (
        judgement_id TEXT NOT NULL REFERENCES judgements (id), position INTEGER NOT NULL,
        candidate_id TEXT NOT NULL REFERENCES candidates (id), PRIMARY KEY (judgement_id, position)
    ) STRICT;
    CREATE TABLE withdrawals (
        judgement_id TEXT PRIMARY KEY REFERENCES judgements (id), created TEXT NOT NULL
    ) STRICT;
    """
    + "".join(
        f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table} "
        "BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;\n"
        for table in ("prompts", "candidates", "judgements", "judged", "withdrawals")
        for verb in ("UPDATE", "DELETE")
    ),
    # A table of its own, so that what an older store says, and its digest, stay as they are.
    """
    CREATE TABLE provenance (
        judgement_id TEXT PRIMARY KEY REFERENCES judgements (id), facts TEXT NOT NULL
    ) STRICT;
    """
    + "".join(
        f"CREATE TRIGGER provenance_no_{verb} BEFORE {verb} ON provenance "
        "BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;\n"
        for verb in ("UPDATE", "DELETE")
    ),
)


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new file or bring an older one up to date; set the journal and the foreign keys.

    Raises DataError for a file that is no store or of a newer schema; RunError where WAL is not to be had.
    """
    db.execute("PRAGMA foreign_keys = ON")
    version = _version(db, path)
    # With WAL a reader never waits for a writer; FULL keeps a commit through a power cut as well.
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    db.execute("PRAGMA synchronous = FULL")
    if mode != "wal":
        fix = "Keep it on a local disk; a network folder has no shared memory."
        raise RunError(path, f"the file system does not allow SQLite's WAL (it stays {mode}).", fix)
    if version == len(MIGRATIONS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        # Asked again: another process may have made or migrated the file while this one waited.
        for migration in MIGRATIONS[_version(db, path) :]:
            for statement in _statements(migration):
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _version(db: sqlite3.Connection, path: Path) -> int:
    """The schema's version, 0 for an empty file. Raises DataError for a file that is no store, or a newer one."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise DataError(path, "is an SQLite file, but no feedback store.", "Name a store, or a new file.")
    if version > len(MIGRATIONS):
        cause = f"was written by a newer tunesmith (schema {version}; this one knows up to {len(MIGRATIONS)})."
        raise DataError(path, cause, "Update tunesmith: pip install --upgrade tunesmith.")
    return int(version)


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one; ``executescript`` would commit the transaction around them."""
    text = ""
    for line in script.split(";"):
        text += line + ";"
        if sqlite3.complete_statement(text):
            if text.strip(" \n;"):
                yield text
            text = ""


def check_path(path: Path, *, create: bool) -> None:
    """Raise DataError where no store can be opened, before SQLite makes an empty file of it."""
    if path.is_dir():
        raise DataError(path, "is a folder, not a feedback store.", "Name the store's file.")
    if not path.exists():
        if not create:
            fix = "Check the path, or make one with `tunesmith feedback import` or `tunesmith feedback sample`."
            raise DataError(path, "there is no feedback store.", fix)
        if not path.parent.is_dir():
            raise DataError(path, "there is no such folder to put a store into.", "Make it first.")


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """SQLite's errors as ours: place, cause, fix."""
    try:
        yield
    except sqlite3.Error as error:
        # The low byte is the primary code (sqlite.org/rescode.html).
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise DiskFullError(
                path, "no space left to write it.", "Free some space; what was kept is whole."
            ) from None
        if code == sqlite3.SQLITE_NOTADB:
            raise DataError(path, "is no SQLite file.", "Name a feedback store, or a new file.") from None
        if code == sqlite3.SQLITE_CORRUPT:
            fix = f"Save what is left with: sqlite3 {path} .recover"
            raise DataError(path, "the file is damaged.", fix) from None
        if code == sqlite3.SQLITE_BUSY:
            fix = "Close the other program that writes into it, or try again."
            raise RunError(path, "another process holds the store.", fix) from None
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR):
            fix = "Check the permissions of the file and its folder: SQLite keeps two files beside it."
            raise RunError(path, f"cannot be written ({error}).", fix) from None
        raise
