"""The feedback store: what it keeps, what it refuses, and that nothing in it ever changes."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from tunesmith.errors import DataError, DiskFullError, RunError
from tunesmith.feedback import schema
from tunesmith.feedback.judgements import (
    Compared,
    Edited,
    Flagged,
    Ranked,
    Rated,
    Thumbed,
    Value,
    answer_of,
    candidate_id_of,
    prompt_id_of,
    value_from_json,
    value_to_json,
)
from tunesmith.feedback.store import FeedbackStore
from tunesmith.records import Message

PROMPT = (Message(role="user", content="My order arrived broken. I'm very upset!"),)
ANSWERS = ("It is what it is.", "I am so sorry! A new one leaves today.", "Sorry. Please send a photo.")
VALUES: list[tuple[int, Value]] = [
    (2, Compared("A")),
    (2, Compared("both bad")),
    (2, Compared(p=0.83)),
    (1, Thumbed(False)),
    (1, Rated(4)),
    (1, Flagged(True, "rude")),
    (1, Flagged(False)),
    (1, Edited(answer_of("Sorry about that!"))),
    (3, Ranked(((1,), (0, 2)))),
]


def filled(path: Path) -> tuple[FeedbackStore, str, list[str]]:
    store = FeedbackStore.open(path, create=True)
    prompt = store.add_prompt(PROMPT)
    return store, prompt, [store.add_candidate(prompt, text, model="m", seed=7) for text in ANSWERS]


def test_every_kind_comes_back_as_it_was_said(tmp_path: Path) -> None:
    store, prompt, ids = filled(tmp_path / "f.db")
    said = [
        store.add_judgement(prompt, ids[:n], value, annotator="ann", source="ai", weight=0.5) for n, value in VALUES
    ]
    again = store.add_judgement(prompt, ids[:2], Compared("B"), annotator="ann", asked_again_of=said[0])
    store.close()
    with FeedbackStore.open(tmp_path / "f.db") as store:
        found = list(store.judgements())
        assert [(j.id, len(j.candidates), j.value) for j in found[:-1]] == [
            (key, n, v) for key, (n, v) in zip(said, VALUES, strict=True)
        ]
        assert {(j.annotator, j.source, j.weight) for j in found[:-1]} == {("ann", "ai", 0.5)}
        assert (found[-1].id, found[-1].asked_again_of) == (again, said[0])
        assert [j.kind for j in store.judgements(kind="flag")] == ["flag", "flag"]
        assert [p.messages for p in store.prompts()] == [PROMPT]
        assert [(c.text, c.model, c.seed) for c in store.candidates(prompt)] == [(text, "m", 7) for text in ANSWERS]
        assert list(store.candidates("nobody")) == []
        counts = store.counts()
    assert (counts.prompts, counts.candidates, counts.judgements["comparison"]) == (1, 3, 4)
    assert counts.annotators == {"ann": len(VALUES) + 1}


def test_ids_are_digests_of_what_is_said(tmp_path: Path) -> None:
    store, prompt, ids = filled(tmp_path / "f.db")
    assert prompt == prompt_id_of(PROMPT)
    assert ids == [candidate_id_of(prompt, answer_of(text)) for text in ANSWERS]
    other = store.add_prompt((Message(role="system", content="Be kind."), *PROMPT))
    assert other != prompt and store.add_candidate(other, ANSWERS[0]) != ids[0]
    assert store.add_prompt(PROMPT) == prompt and store.add_candidate(prompt, ANSWERS[0], model="late") == ids[0]
    assert next(store.candidates(prompt)).model == "m"


def test_a_withdrawal_is_a_row_and_nothing_is_deleted(tmp_path: Path) -> None:
    store, prompt, ids = filled(tmp_path / "f.db")
    keep, undone = (store.add_judgement(prompt, ids[:1], Rated(r), annotator="a") for r in (1, 5))
    before = store.digest()
    assert store.withdraw(undone) and not store.withdraw(undone)
    assert [j.id for j in store.judgements()] == [keep]
    assert [(j.id, j.withdrawn is not None) for j in store.judgements(live=False)] == [(keep, False), (undone, True)]
    assert store.counts().withdrawn == 1 and store.counts().judgements == {"rating": 1}
    assert store.digest() != before
    with pytest.raises(DataError, match="no judgement nobody"):
        store.withdraw("nobody")
    with sqlite3.connect(tmp_path / "f.db") as other:
        for statement in ("DELETE FROM judgements", "UPDATE judgements SET weight = 2", "DELETE FROM withdrawals"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                other.execute(statement)


def test_answers_of_several_turns_and_dialogues_as_prompts(tmp_path: Path) -> None:
    said = [("user", "Hi"), ("assistant", "Hello."), ("user", "Bye?"), ("assistant", "Bye.")]
    turns = [Message(role=role, content=text) for role, text in said]
    with FeedbackStore.open(tmp_path / "f.db", create=True) as store:
        prompt = store.add_prompt(turns[:3])
        store.add_candidate(prompt, (turns[1], turns[2], Message(role="assistant", content="Bye.", train=False)))
        (back,) = store.prompts()
        (answer,) = store.candidates()
    assert [(m.role, m.content, m.train) for m in back.messages] == [
        ("user", "Hi", True), ("assistant", "Hello.", False), ("user", "Bye?", True),
    ]  # fmt: skip
    assert [m.train for m in answer.answer] == [True, True, False] and answer.text == "Hello.\n\nBye?\n\nBye."


def test_the_digest_knows_content_and_not_order(tmp_path: Path) -> None:
    stores = []
    for name, order in (("one", (0, 1)), ("two", (1, 0))):
        store, prompt, ids = filled(tmp_path / f"{name}.db")
        for i in order:
            store.add_judgement(prompt, [ids[i]], Rated(i + 1), annotator="a", judgement_id=f"j{i}")
        stores.append(store)
    assert stores[0].digest() == stores[1].digest()
    stores[0].add_judgement(prompt, [ids[2]], Rated(5), annotator="a")
    assert stores[0].digest() != stores[1].digest()


def test_what_cannot_be_said_is_refused(tmp_path: Path) -> None:
    store, prompt, ids = filled(tmp_path / "f.db")
    other = store.add_candidate(store.add_prompt((Message(role="user", content="Hi"),)), "Hello.")
    for candidates, value, match in (
        ([ids[0], ids[0]], Compared("A"), "the same answer"),
        (ids, Compared("A"), "2 candidates, not of 3"),
        (ids[:2], Ranked(((0,), (1,), (2,))), "3 candidates, not of 2"),
        (ids[:2], Rated(3), "1 candidates, not of 2"),
        (ids[:1], Edited(answer_of(ANSWERS[0])), "correction is the original"),
    ):
        with pytest.raises(ValueError, match=match):
            store.add_judgement(prompt, candidates, value, annotator="a")
    for candidates, match in ((["gone"], "no candidate gone"), ([other], "answers prompt")):
        with pytest.raises(DataError, match=match):
            store.add_judgement(prompt, candidates, Rated(3), annotator="a")
    with pytest.raises(ValueError, match="annotator"):
        store.add_judgement(prompt, ids[:1], Rated(3), annotator=" ")
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight"):
            store.add_judgement(prompt, ids[:1], Rated(3), annotator="a", weight=weight)
    with pytest.raises(DataError, match="no judgement"):
        store.add_judgement(prompt, ids[:1], Rated(3), annotator="a", asked_again_of="nobody")
    for text in ("", " \n"):
        with pytest.raises(ValueError, match="empty"):
            store.add_candidate(prompt, text)
    with pytest.raises(DataError, match="no prompt nobody"):
        store.add_candidate("nobody", "text")
    for text, match in (("a\x00b", "NUL"), ("cut \ud83d", "surrogate")):
        with pytest.raises(ValueError, match=match):
            store.add_candidate(prompt, text)
        with pytest.raises(ValueError, match=match):
            store.add_judgement(prompt, ids[:1], Rated(3), annotator=text)
    for turns, match in (
        ((*PROMPT, Message(role="assistant", content="No.")), "ends with"),
        ((Message(role="assistant", content="Hi."), *PROMPT), "begins with the assistant"),
        ((*PROMPT, *PROMPT), "two user turns"),
        ((Message(role="user", content=" "),), "empty"),
        ((), "ends with"),
    ):
        with pytest.raises(ValueError, match=match):
            store.add_prompt(turns)
    assert store.counts().judgements == {}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Compared(),
        lambda: Compared("A", 0.5),
        lambda: Compared(p=1.5),
        lambda: Rated(6),
        lambda: Flagged(True, " "),
        lambda: Flagged(False, "rude"),
        lambda: Ranked(((0,), (0,))),
        lambda: Ranked(((0,), (2,))),
        lambda: Ranked(((0,),)),
        lambda: Ranked(((0, 1), ())),
        lambda: Edited(()),
        lambda: value_from_json("ranking", {"tiers": 3}),
        lambda: value_from_json("rating", {}),
    ],
)
def test_impossible_values_cannot_be_made(make) -> None:
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize("value", [value for _, value in VALUES])
def test_values_survive_json(value: Value) -> None:
    from tunesmith.feedback.judgements import KIND_OF

    assert value_from_json(KIND_OF[type(value)], value_to_json(value)) == value


def test_a_tier_has_no_order() -> None:
    assert value_to_json(Ranked(((1,), (2, 0)))) == value_to_json(Ranked(((1,), (0, 2))))


def test_an_id_is_put_in_once_and_says_one_thing(tmp_path: Path) -> None:
    store, prompt, ids = filled(tmp_path / "f.db")
    for _ in range(2):
        assert store.add_judgement(prompt, ids[:1], Rated(3), annotator="a", judgement_id="j") == "j"
    with pytest.raises(DataError, match="already says something else"):
        store.add_judgement(prompt, ids[:1], Rated(4), annotator="a", judgement_id="j")
    assert store.counts().judgements == {"rating": 1}


def test_a_transaction_is_whole_or_not_there(tmp_path: Path) -> None:
    store, prompt, ids = filled(tmp_path / "f.db")
    with pytest.raises(KeyboardInterrupt), store.transaction():
        store.add_judgement(prompt, ids[:1], Rated(3), annotator="a")
        raise KeyboardInterrupt
    assert store.counts().judgements == {}
    store.add_judgement(prompt, ids[:1], Rated(3), annotator="a")
    assert store.counts().judgements == {"rating": 1}


def test_paths_without_a_store_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"
    with pytest.raises(DataError, match="there is no feedback store"):
        FeedbackStore.open(missing)
    assert not missing.exists()
    with pytest.raises(DataError, match="is a folder"):
        FeedbackStore.open(tmp_path, create=True)
    with pytest.raises(DataError, match="no such folder"):
        FeedbackStore.open(tmp_path / "a" / "b.db", create=True)
    text = tmp_path / "rows.jsonl"
    text.write_text('{"prompt": "Hi", "chosen": "a", "rejected": "b"}\n' * 50, encoding="utf-8")
    before = text.read_bytes()
    with pytest.raises(DataError, match="no SQLite file"):
        FeedbackStore.open(text, create=True)
    assert text.read_bytes() == before
    foreign = tmp_path / "other.db"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE t (x)")
    with pytest.raises(DataError, match="no feedback store"):
        FeedbackStore.open(foreign, create=True)


def test_a_damaged_store_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    store, prompt, ids = filled(path)
    for i in range(200):
        store.add_judgement(prompt, ids[:1], Rated(1 + i % 5), annotator="a" * 200)
    store.close()
    data = bytearray(path.read_bytes())
    data[4096 * 6 :] = b"\xff" * (len(data) - 4096 * 6)
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"the file is damaged. Fix: .*recover"), FeedbackStore.open(path) as store:
        list(store.judgements())


def test_a_newer_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    filled(path)[0].close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"newer tunesmith \(schema 99.*Fix: Update"):
        FeedbackStore.open(path)
    assert path.read_bytes() == before


def test_an_older_store_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.db"
    store, prompt, ids = filled(path)
    store.add_judgement(prompt, ids[:1], Rated(3), annotator="a")
    store.close()
    later = (*schema.MIGRATIONS, "ALTER TABLE judgements ADD COLUMN note TEXT; CREATE TABLE notes (x TEXT) STRICT;")
    monkeypatch.setattr(schema, "MIGRATIONS", later)
    with FeedbackStore.open(path) as store:
        assert [j.value for j in store.judgements()] == [Rated(3)]
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(later),)
    # One that fails leaves the file as it was.
    monkeypatch.setattr(schema, "MIGRATIONS", (*later, "CREATE TABLE fresh (x TEXT); CREATE TABLE notes (x TEXT);"))
    with pytest.raises(sqlite3.OperationalError):
        FeedbackStore.open(path)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(later),)
        assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'fresh'").fetchone() == (0,)


def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    store, prompt, ids = filled(tmp_path / "f.db")
    store.add_judgement(prompt, ids[:1], Rated(3), annotator="a")
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(DiskFullError, match="no space left"):
        store.add_candidate(prompt, "long " * 20_000)
    store.add_judgement(prompt, ids[1:2], Rated(5), annotator="a")
    assert [j.value for j in store.judgements()] == [Rated(3), Rated(5)]
    assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    # Root may write everywhere but there.
    target = Path("/proc") if os.access(folder, os.W_OK) and Path("/proc/self").exists() else folder
    with pytest.raises(RunError, match="cannot be written"):
        FeedbackStore.open(target / "f.db", create=True)


def test_a_held_store_is_told_of_and_not_waited_for_for_ever(tmp_path: Path) -> None:
    store, prompt, ids = filled(tmp_path / "f.db")
    second = FeedbackStore.open(tmp_path / "f.db", busy_seconds=0.1)
    with store.transaction():
        store.add_judgement(prompt, ids[:1], Rated(3), annotator="a")
        with pytest.raises(RunError, match="another process holds the store"):
            second.add_judgement(prompt, ids[:1], Rated(4), annotator="b")
        assert list(second.judgements()) == []  # A reader sees what was committed, and does not wait.
    second.add_judgement(prompt, ids[:1], Rated(4), annotator="b")
    assert [j.annotator for j in store.judgements()] == ["a", "b"]
