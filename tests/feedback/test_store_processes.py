"""The store under real processes: two writers at once, many that make it at once, and one that is killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from tunesmith.feedback.store import FeedbackStore

WRITER = """
import sys
from tunesmith.feedback.judgements import Rated
from tunesmith.feedback.store import FeedbackStore
from tunesmith.records import Message

path, annotator, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
with FeedbackStore.open(path, create=True) as store:
    prompt = store.add_prompt([Message(role="user", content="Where is my parcel?")])
    answers = [store.add_candidate(prompt, f"Answer {i}.") for i in range(3)]
    for i in range(number):
        key = store.add_judgement(prompt, [answers[i % 3]], Rated(1 + i % 5), annotator=annotator)
        print(key, flush=True)
"""


def start(path: Path, annotator: str, number: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), annotator, str(number)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def integrity(path: Path) -> str:
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        return str(db.execute("PRAGMA integrity_check").fetchone()[0])


def test_writers_that_make_one_store_at_once_lose_nothing(tmp_path: Path) -> None:
    path, number = tmp_path / "f.db", 60
    writers = [start(path, name, number) for name in ("ann", "bob", "eve")]
    said = {}
    for name, writer in zip(("ann", "bob", "eve"), writers, strict=True):
        said[name] = writer.communicate(timeout=120)[0].split()
        assert writer.returncode == 0
    with FeedbackStore.open(path) as store:
        assert store.counts().annotators == {"ann": number, "bob": number, "eve": number}
        assert store.counts().prompts == 1 and store.counts().candidates == 3
        for name, keys in said.items():
            assert [j.id for j in store.judgements(annotator=name)] == keys
    assert integrity(path) == "ok"


def test_what_was_told_of_is_there_after_kill_nine(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    told: list[str] = []
    for round_ in range(3):
        writer = start(path, "ann", 1_000_000)
        assert writer.stdout is not None
        # Killed while it writes: no word of the last judgement may have come, but none that came may be lost.
        told += [writer.stdout.readline().strip() for _ in range(20 + round_)]
        os.kill(writer.pid, signal.SIGKILL)
        # Not communicate(), which would lose the lines that readline() has read ahead.
        told += writer.stdout.read().split()
        assert writer.wait(timeout=60) == -signal.SIGKILL
        writer.stdout.close()
        with FeedbackStore.open(path) as store:
            there = [j.id for j in store.judgements()]
        # A line cut in the middle is no word.
        whole = [key for key in told if len(key) == 32]
        assert set(whole) <= set(there)
        # At most the one judgement a kill came upon between its commit and its word.
        assert len(there) - len(whole) <= round_ + 1
        assert integrity(path) == "ok"


def test_a_killed_transaction_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    script = WRITER.replace(
        "    for i in range(number):", "    with store.transaction():\n     for i in range(number):"
    )
    command = [sys.executable, "-c", script, str(path), "ann", "1000000"]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for _ in range(200):
        writer.stdout.readline()
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate(timeout=60)
    with FeedbackStore.open(path) as store:
        assert store.counts().judgements == {} and store.counts().candidates == 3
    assert integrity(path) == "ok"
