"""Examples laid on disk keep their place, also where the rows come from several files."""

from __future__ import annotations

from pathlib import Path

from conftest import build_tokenizer

from tunesmith.records import Conversation, Document, Message, Where
from tunesmith.tokens.render import RenderConfig
from tunesmith.tokens.store import build_store


def test_places_and_row_ids_come_back(tmp_path: Path) -> None:
    turns = (Message(role="user", content="a"), Message(role="assistant", content="b"))
    places = [Where("one.jsonl", 3), Where("two.jsonl", 1), Where("one.jsonl", 9), Where("three.jsonl", None)]
    records = [Conversation(messages=turns, row_id=10 + i, where=where) for i, where in enumerate(places[:3])]
    document = Document(text="c", row_id=13, where=places[3])
    store, _ = build_store([*records, document], build_tokenizer(), RenderConfig(), tmp_path, max_tokens=99)
    assert [example.where for example in store] == places
    assert store.row_ids == [10, 11, 12, 13]
    assert [example.row_id for example in store] == store.row_ids
