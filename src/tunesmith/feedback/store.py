"""The feedback store: one SQLite file that people label into, append-only, safe under several writers and kill -9.

Every judgement is one committed transaction; a withdrawal is a row of its own, and nothing is ever changed or deleted
(triggers hold that). Source of what is promised of a commit: sqlite.org/wal.html, sqlite.org/pragma.html#synchronous.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from tunesmith.errors import DataError
from tunesmith.feedback.judgements import (
    KIND_OF,
    ORIGINS,
    Answer,
    Judgement,
    Kind,
    Origin,
    StoredCandidate,
    StoredPrompt,
    Value,
    answer_of,
    candidate_id_of,
    canonical_json,
    check_answer,
    check_judgement,
    check_prompt,
    prompt_id_of,
    turns_from_json,
    turns_to_json,
    value_from_json,
    value_to_json,
)
from tunesmith.feedback.schema import check_path, prepare, sqlite_errors
from tunesmith.records import Message

BUSY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What a store holds; ``judgements`` by kind and ``annotators`` by name count those that stand."""

    prompts: int
    candidates: int
    judgements: Mapping[str, int]
    annotators: Mapping[str, int]
    withdrawn: int


class FeedbackStore:
    """Prompts, candidates and judgements in one file; use it as a context manager, in the thread that opened it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection

    @classmethod
    def open(cls, path: str | Path, *, create: bool = False, busy_seconds: float = BUSY_SECONDS) -> FeedbackStore:
        """Open a store, and bring one of an older schema up to this version.

        create: make the file where there is none. busy_seconds: how long to wait for another writer. Raises DataError
        for a path without a store, a file that is none and one of a newer schema; RunError where the folder cannot be
        written or the file stays busy; DiskFullError.
        """
        path = Path(path).expanduser()
        check_path(path, create=create)
        with sqlite_errors(path):
            connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None)
            try:
                prepare(connection, path)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def close(self) -> None:
        """Let the file go; a second call does nothing."""
        self._db.close()

    def __enter__(self) -> FeedbackStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes of the block are committed together, or none; a block inside another is a part that may fail."""
        nested = self._db.in_transaction
        with sqlite_errors(self.path):
            self._db.execute("SAVEPOINT part" if nested else "BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("RELEASE part" if nested else "COMMIT")
            except BaseException:
                self._roll_back(nested=nested)
                raise

    @contextmanager
    def _write(self) -> Iterator[None]:
        """A transaction of its own, or, inside a block, a part of that one."""
        if self._db.in_transaction:
            yield
            return
        with self.transaction():
            yield

    def _roll_back(self, *, nested: bool) -> None:
        # SQLite has rolled all back by itself after some errors, a full disk for one.
        if not self._db.in_transaction:
            return
        if nested:
            self._db.execute("ROLLBACK TO part")
        self._db.execute("RELEASE part" if nested else "ROLLBACK")

    def add_prompt(self, messages: Sequence[Message], *, created: str | None = None) -> str:
        """Put a prompt in unless it is there, and give its id. Raises ValueError for turns that are no prompt."""
        check_prompt(messages)
        plain = [[message.role, message.content] for message in messages]
        key = prompt_id_of(messages)
        with self._write():
            self._db.execute(
                "INSERT INTO prompts (id, messages, created) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING",
                (key, canonical_json(plain), created or now()),
            )
        return key

    def add_candidate(
        self,
        prompt_id: str,
        answer: str | Answer,
        *,
        model: str | None = None,
        adapter_digest: str | None = None,
        sampling: Mapping[str, Any] | None = None,
        seed: int | None = None,
        created: str | None = None,
    ) -> str:
        """Put an answer in unless it is there, and give its id; what wrote it first is kept.

        Raises ValueError for an empty answer and DataError for an unknown prompt.
        """
        turns = answer_of(answer) if isinstance(answer, str) else answer
        check_answer(turns)
        key = candidate_id_of(prompt_id, turns)
        with self._write():
            if self._db.execute("SELECT 1 FROM prompts WHERE id = ?", (prompt_id,)).fetchone() is None:
                raise DataError(self.path, f"there is no prompt {prompt_id}.", "Add the prompt first.")
            self._db.execute(
                "INSERT INTO candidates (id, prompt_id, answer, model, adapter_digest, sampling, seed, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                (
                    key, prompt_id, canonical_json(turns_to_json(turns)), model, adapter_digest,
                    canonical_json(dict(sampling or {})), seed, created or now(),
                ),
            )  # fmt: skip
        return key

    def add_judgement(
        self,
        prompt_id: str,
        candidates: Sequence[str],
        value: Value,
        *,
        annotator: str,
        source: Origin = "human",
        weight: float = 1.0,
        asked_again_of: str | None = None,
        created: str | None = None,
        judgement_id: str | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> str:
        """Commit a judgement and give its id; one with a ``judgement_id`` that is there already is put in once.

        provenance: what JSON can hold of how it was come to; that of the first time is kept.
        Raises ValueError for a value that cannot be said of these candidates; DataError for a candidate that is unknown
        or of another prompt, an unknown ``asked_again_of``, and an id that already says something else.
        """
        check_judgement(value, prompt_id, candidates, annotator, weight)
        if source not in ORIGINS:
            raise ValueError(f"the source is one of {', '.join(ORIGINS)}")
        key = judgement_id or uuid.uuid4().hex
        with self._write():
            there = next(self._judgements("j.id = ?", (key,)), None)
            if there is not None:
                said = (there.prompt_id, there.candidates, value_to_json(there.value), there.annotator)
                if said != (prompt_id, tuple(candidates), value_to_json(value), annotator):
                    raise DataError(self.path, f"judgement {key} already says something else.", "Give it another id.")
                return key
            self._check_references(prompt_id, candidates, asked_again_of)
            self._db.execute(
                "INSERT INTO judgements (id, kind, prompt_id, annotator, value, source, weight, asked_again_of, "
                "created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key, KIND_OF[type(value)], prompt_id, annotator, canonical_json(value_to_json(value)), source,
                    weight, asked_again_of, created or now(),
                ),
            )  # fmt: skip
            self._db.executemany(
                "INSERT INTO judged VALUES (?, ?, ?)", [(key, i, candidate) for i, candidate in enumerate(candidates)]
            )
            if provenance:
                self._db.execute("INSERT INTO provenance VALUES (?, ?)", (key, canonical_json(dict(provenance))))
        return key

    def _check_references(self, prompt_id: str, candidates: Sequence[str], asked_again_of: str | None) -> None:
        for candidate in candidates:
            row = self._db.execute("SELECT prompt_id FROM candidates WHERE id = ?", (candidate,)).fetchone()
            if row is None:
                raise DataError(self.path, f"there is no candidate {candidate}.", "Add the candidate first.")
            if row[0] != prompt_id:
                cause = f"candidate {candidate} answers prompt {row[0]}, not {prompt_id}."
                raise DataError(self.path, cause, "Judge answers to one prompt together.")
        if asked_again_of is not None and not self.has_judgement(asked_again_of):
            raise DataError(self.path, f"there is no judgement {asked_again_of}.", "Name the one that is repeated.")

    def has_judgement(self, judgement_id: str) -> bool:
        """Whether there is a judgement of that id, withdrawn or not."""
        return self._db.execute("SELECT 1 FROM judgements WHERE id = ?", (judgement_id,)).fetchone() is not None

    def withdraw(self, judgement_id: str, *, created: str | None = None) -> bool:
        """Note that a judgement no longer stands; False where that is noted already. Raises DataError."""
        with self._write():
            if not self.has_judgement(judgement_id):
                raise DataError(self.path, f"there is no judgement {judgement_id}.", "Check the id.")
            done = self._db.execute(
                "INSERT INTO withdrawals VALUES (?, ?) ON CONFLICT (judgement_id) DO NOTHING",
                (judgement_id, created or now()),
            )
            return done.rowcount == 1

    def prompts(self) -> Iterator[StoredPrompt]:
        """All prompts, in the order they came in."""
        for key, messages, created in self._rows("SELECT id, messages, created FROM prompts ORDER BY seq"):
            yield StoredPrompt(id=key, messages=turns_from_json(json.loads(messages), train=False), created=created)

    def candidates(self, prompt_id: str | None = None) -> Iterator[StoredCandidate]:
        """The candidates of a prompt, or of all, in the order they came in."""
        where, values = ("WHERE prompt_id = ?", (prompt_id,)) if prompt_id is not None else ("", ())
        for row in self._rows(
            "SELECT id, prompt_id, answer, model, adapter_digest, sampling, seed, created "
            f"FROM candidates {where} ORDER BY seq",
            values,
        ):
            key, prompt, answer, model, adapter, sampling, seed, created = row
            yield StoredCandidate(
                id=key, prompt_id=prompt, answer=turns_from_json(json.loads(answer)), model=model,
                adapter_digest=adapter, sampling=json.loads(sampling), seed=seed, created=created,
            )  # fmt: skip

    def judgements(
        self, *, kind: Kind | None = None, annotator: str | None = None, live: bool = True
    ) -> Iterator[Judgement]:
        """Judgements in the order they came in; ``live`` leaves out those that were withdrawn."""
        asked: dict[str, str] = {}
        if kind is not None:
            asked["j.kind = ?"] = kind
        if annotator is not None:
            asked["j.annotator = ?"] = annotator
        conditions = [*asked, *(["w.created IS NULL"] if live else [])]
        return self._judgements(" AND ".join(conditions) or "1", tuple(asked.values()))

    def _judgements(self, where: str, values: Sequence[Any]) -> Iterator[Judgement]:
        rows = self._rows(
            "SELECT j.id, j.kind, j.prompt_id, j.annotator, j.value, j.source, j.weight, j.asked_again_of, j.created, "
            "w.created, o.facts, d.candidate_id FROM judgements j JOIN judged d ON d.judgement_id = j.id "
            "LEFT JOIN provenance o ON o.judgement_id = j.id "
            f"LEFT JOIN withdrawals w ON w.judgement_id = j.id WHERE {where} ORDER BY j.seq, d.position",
            values,
        )
        for head, group in itertools.groupby(rows, key=lambda row: row[:-1]):
            key, kind, prompt, annotator, value, source, weight, again, created, withdrawn, facts = head
            yield Judgement(
                id=key, prompt_id=prompt, candidates=tuple(row[-1] for row in group),
                value=value_from_json(kind, json.loads(value)), annotator=annotator, source=source, weight=weight,
                asked_again_of=again, created=created, withdrawn=withdrawn,
                provenance=json.loads(facts) if facts else {},
            )  # fmt: skip

    def counts(self) -> Counts:
        """How much of what the store holds."""
        with sqlite_errors(self.path):
            size = {
                table: self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("prompts", "candidates", "withdrawals")
            }
            live = "FROM judgements WHERE id NOT IN (SELECT judgement_id FROM withdrawals)"
            kinds = dict(self._db.execute(f"SELECT kind, count(*) {live} GROUP BY kind ORDER BY kind"))
            people = dict(self._db.execute(f"SELECT annotator, count(*) {live} GROUP BY annotator ORDER BY annotator"))
        return Counts(size["prompts"], size["candidates"], kinds, people, size["withdrawals"])

    def digest(self) -> str:
        """SHA-256 of what the store says, in hexadecimal: the same for equal content, in whatever order it came in."""
        total = hashlib.sha256()
        for table, columns in (
            ("prompts", "id"),
            ("candidates", "id, model, adapter_digest, sampling, seed"),
            ("judgements", "id, kind, prompt_id, annotator, value, source, weight, asked_again_of"),
            ("judged", "judgement_id, position, candidate_id"),
            ("withdrawals", "judgement_id"),
            ("provenance", "judgement_id, facts"),
        ):
            for row in self._rows(f"SELECT {columns} FROM {table} ORDER BY 1, 2" if "," in columns else
                                  f"SELECT {columns} FROM {table} ORDER BY 1"):  # fmt: skip
                total.update(f"{table}{canonical_json(list(row))}\n".encode())
        return total.hexdigest()

    def _rows(self, query: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        with sqlite_errors(self.path):
            yield from self._db.execute(query, values)


def now() -> str:
    """This moment in UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
