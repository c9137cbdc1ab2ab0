"""The labeller driven by scripted keys: every kind, undo, skip, resume, repeats, hostile text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tunesmith.feedback.judgements import (
    Compared,
    Edited,
    Flagged,
    Kind,
    Ranked,
    Rated,
    Thumbed,
    Value,
)
from tunesmith.feedback.label import Labeller, Session
from tunesmith.feedback.queue import REPEAT_GAP, plan_queue
from tunesmith.feedback.screen import visible
from tunesmith.feedback.store import FeedbackStore
from tunesmith.records import Message


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore.open(tmp_path / "f.db", create=True) as held:
        yield held


def fill(store: FeedbackStore, num_prompts: int = 1, num_candidates: int = 2) -> None:
    for p in range(num_prompts):
        prompt = store.add_prompt([Message(role="user", content=f"prompt {p}")])
        for c in range(num_candidates):
            store.add_candidate(prompt, f"answer {c} to {p}")


class Sitting:
    """Runs a labeller over keys given as a text or a list, and keeps the screens."""

    def __init__(self, store: FeedbackStore, kind: Kind, annotator: str = "anna", **queue: Any) -> None:
        self.store, self.kind, self.annotator = store, kind, annotator
        self.queue = plan_queue(store, kind, annotator, **{"repeat_share": 0.0, **queue})
        self.screens: list[str] = []

    def run(self, keys: str | list[str], edit: Callable[[str], str | None] | None = None) -> Session:
        pressed = iter(keys)
        return Labeller(
            store=self.store,
            kind=self.kind,
            annotator=self.annotator,
            queue=self.queue,
            read_key=lambda: next(pressed, ""),
            show=self.screens.append,
            edit=edit,
            clock=iter(range(10_000)).__next__,
        ).run()

    def said(self) -> list[Value]:
        return [one.value for one in self.store.judgements(kind=self.kind, annotator=self.annotator)]


@pytest.mark.parametrize(
    ("kind", "keys", "expected"),
    [
        ("comparison", "a", Compared("A")),
        ("comparison", "B", Compared("B")),
        ("comparison", "t", Compared("tie")),
        ("comparison", "x", Compared("both bad")),
        ("thumb", "y", Thumbed(True)),
        ("thumb", "n", Thumbed(False)),
        ("rating", "1", Rated(1)),
        ("rating", "5", Rated(5)),
        ("flag", "n", Flagged(False)),
        ("flag", "1", Flagged(True, "rude")),
        ("flag", "fsells é\x7fme\r", Flagged(True, "sells me")),
        ("ranking", "B > A\r", Ranked(((1,), (0,)))),
        ("ranking", "a=b\n", Ranked(((0, 1),))),
    ],
)
def test_a_key_is_a_judgement(store: FeedbackStore, kind: Kind, keys: str, expected: Value) -> None:
    fill(store)
    sitting = Sitting(store, kind)
    session = sitting.run(keys)
    assert sitting.said() == [expected]
    assert session.judged == 1 and session.left == len(sitting.queue) - 1


def test_wrong_keys_judge_nothing_and_are_told(store: FeedbackStore) -> None:
    fill(store)
    sitting = Sitting(store, "rating")
    sitting.run(["0", "6", "\x1b[A", "?", " ", "yn", "12"])
    assert sitting.said() == []
    assert "'0' is no key here." in sitting.screens[1]
    assert any("\\x1b[a" in screen for screen in sitting.screens) and not any("\x1b" in s for s in sitting.screens)


@pytest.mark.parametrize("line", ["", "A", "A > A", "A > C", "A > B >"])
def test_a_ranking_that_is_none_is_asked_again(store: FeedbackStore, line: str) -> None:
    fill(store)
    sitting = Sitting(store, "ranking")
    sitting.run(line + "\rA > B\r")
    assert sitting.said() == [Ranked(((0,), (1,)))]
    assert "Such as: A > B" in "".join(sitting.screens)


def test_undo_withdraws_and_asks_the_item_again(store: FeedbackStore) -> None:
    fill(store, 3)
    sitting = Sitting(store, "comparison")
    session = sitting.run("aubsuaq")
    first, second = (item.key for item in sitting.queue[:2])
    live = list(store.judgements())
    assert [(tuple(sorted(j.candidates)), j.value) for j in live] == [(first, Compared("B")), (second, Compared("A"))]
    assert (session.judged, session.undone, session.skipped, session.left) == (2, 1, 0, 1)
    assert store.counts().withdrawn == 1
    assert Sitting(store, "comparison").run("u").judged == 0, "nothing of this session to undo"
    assert store.counts().withdrawn == 1


def test_a_skipped_item_comes_back_in_the_next_sitting(store: FeedbackStore) -> None:
    fill(store, 3)
    assert Sitting(store, "comparison").run("saa").left == 1
    again = Sitting(store, "comparison")
    assert again.run("b").left == 0
    assert tuple(sorted(list(store.judgements())[-1].candidates)) == again.queue[0].key


def test_every_judgement_is_committed_at_its_key(store: FeedbackStore) -> None:
    """Another connection sees each one before the next key is asked for."""
    fill(store, 3)
    seen: list[int] = []

    def key() -> str:
        with FeedbackStore.open(store.path) as other:
            seen.append(sum(other.counts().judgements.values()))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return "a"

    queue = plan_queue(store, "comparison", "anna")
    labeller = Labeller(
        store=store, kind="comparison", annotator="anna", queue=queue, read_key=key, show=lambda text: None
    )
    assert labeller.run().quit
    assert seen == [0, 1, 2]


def test_annotators_have_orders_of_their_own_over_the_same_items(store: FeedbackStore) -> None:
    fill(store, 12, 3)
    queues = {name: plan_queue(store, "comparison", name, per_prompt=2, repeat_share=0) for name in ("anna", "ben")}
    assert [i.key for i in queues["anna"]] != [i.key for i in queues["ben"]]
    assert {i.key for i in queues["anna"]} == {i.key for i in queues["ben"]}
    assert len(queues["anna"]) == 24 and queues["anna"] == plan_queue(
        store, "comparison", "anna", per_prompt=2, repeat_share=0
    )
    firsts = Counter(item.candidates[0].id == item.key[0] for item in [*queues["anna"], *queues["ben"]])
    # Of 48 fair coins, fewer than 12 heads or tails come once in 4 000 times.
    assert min(firsts.values()) >= 12
    assert [i.key for i in plan_queue(store, "comparison", "anna", seed=1)] != [
        i.key for i in plan_queue(store, "comparison", "anna")
    ]


def test_repeats_are_hidden_and_name_what_they_repeat(store: FeedbackStore) -> None:
    fill(store, 30, 2)
    sitting = Sitting(store, "comparison", repeat_share=0.2)
    keys = [item.key for item in sitting.queue]
    again = [place for place, item in enumerate(sitting.queue) if item.again]
    assert len(again) == 6 and len(keys) == 36
    for place in again:
        first = keys.index(keys[place])
        assert REPEAT_GAP <= place - first <= REPEAT_GAP + len(again)
    assert any(sitting.queue[p].candidates != sitting.queue[keys.index(keys[p])].candidates for p in again), (
        "the repetition shows the candidates in an order of its own"
    )
    sitting.run("a" * 36)
    made = list(store.judgements())
    repeats = [one for one in made if one.asked_again_of is not None]
    by_id = {one.id: one for one in made}
    assert len(made) == 36 and len(repeats) == 6
    assert all(set(by_id[str(one.asked_again_of)].candidates) == set(one.candidates) for one in repeats)
    assert not any("again" in screen for screen in sitting.screens), "nothing tells a repetition"
    assert Sitting(store, "comparison", repeat_share=0.2).run("a").judged == 0


def test_what_was_skipped_is_not_asked_as_a_repetition(store: FeedbackStore) -> None:
    fill(store, 30, 2)
    sitting = Sitting(store, "comparison", repeat_share=0.2)
    session = sitting.run("s" * 40)
    assert session.skipped == 30 and sitting.said() == []


def test_undoing_the_first_takes_its_repetition_from_the_queue(store: FeedbackStore) -> None:
    fill(store, 30, 2)
    sitting = Sitting(store, "thumb", repeat_share=0.2)
    first_again = next(place for place, item in enumerate(sitting.queue) if item.again)
    sitting.run("y" * (first_again + 1) + "u" + "n" + "q")
    repeats = [one for one in store.judgements() if one.asked_again_of]
    assert [one.value for one in repeats] == [Thumbed(False)]


def test_an_answer_is_rewritten_in_the_editor_or_as_a_line(store: FeedbackStore) -> None:
    fill(store, 1, 2)
    sitting = Sitting(store, "edit")
    sitting.run("e", edit=lambda text: text + " and more\n")
    sitting.run("ebetter\r")
    texts = [value.corrected[-1].content for value in sitting.said() if isinstance(value, Edited)]
    assert texts == [sitting.queue[0].candidates[0].text + " and more", "better"]


@pytest.mark.parametrize("made", [None, "", " \n", "same", "with \x00"])
def test_an_edit_that_is_none_is_not_saved(store: FeedbackStore, made: str | None) -> None:
    fill(store, 1, 1)
    sitting = Sitting(store, "edit")
    session = sitting.run("e", edit=lambda text: f"{text}\n" if made == "same" else made)
    assert session.judged == 0 and sitting.said() == []
    assert "not saved" in sitting.screens[-1]


def test_model_text_cannot_act_on_the_terminal(store: FeedbackStore) -> None:
    prompt = store.add_prompt([Message(role="user", content="p\x1b[2J")])
    for text in ("\x1b]0;title\x07 [red]x[/red]", "right\u202eto left\r\x9b5n \u00ad"):
        store.add_candidate(prompt, text)
    sitting = Sitting(store, "comparison")
    sitting.run("q")
    (shown,) = sitting.screens
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert "\\x1b]0;title\\x07 [red]x[/red]" in shown and "\\u202e" in shown and "\\x9b5n" in shown
    assert visible("é 漢\n字 🎁") == "é 漢\n字 🎁"


def test_progress_counts_repeats_as_items_and_tells_the_pace(store: FeedbackStore) -> None:
    fill(store, 3)
    sitting = Sitting(store, "comparison")
    sitting.run("aaa")
    assert [screen.split("\n")[0] for screen in sitting.screens] == [
        "comparison 1 of 3, anna: 0 judged now",
        "comparison 2 of 3, anna: 1 judged now, about 0:02 left",
        "comparison 3 of 3, anna: 2 judged now, about 0:01 left",
    ]
