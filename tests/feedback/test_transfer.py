"""Files into a store and back: every kind, without loss, with faults named and nothing dropped in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.convertible import FEEDBACK_SHAPES, convertible_shapes
from tunesmith.errors import DataError
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
)
from tunesmith.feedback.store import FeedbackStore
from tunesmith.feedback.transfer import ImportOptions, export_store, import_files
from tunesmith.records import Message

UPSET = "My order arrived broken. I'm very upset!"
A, B, C = "It is what it is.", "I am so sorry! A new one leaves today.", "Sorry. Please send a photo."
ROWS: dict[str, dict[str, Any]] = {
    "preference": {"prompt": UPSET, "chosen": B, "rejected": A},
    "ranking": {"prompt": UPSET, "candidates": {"A": A, "B": B, "C": C}, "ranking": "B > C = A"},
    "rating": {"prompt": UPSET, "completion": B, "rating": 5},
    "unpaired": {"prompt": UPSET, "completion": A, "label": False},
    "flag": {"prompt": UPSET, "completion": A, "flagged": True, "reason": "rude"},
    "edit": {"prompt": UPSET, "original": A, "corrected": C},
}
VALUES: dict[str, Value] = {
    "preference": Compared("A"),
    "ranking": Ranked(((1,), (0, 2))),
    "rating": Rated(5),
    "unpaired": Thumbed(False),
    "flag": Flagged(True, "rude"),
    "edit": Edited(answer_of(C)),
}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def store_at(path: Path) -> FeedbackStore:
    return FeedbackStore.open(path, create=True)


@pytest.mark.parametrize("shape", FEEDBACK_SHAPES)
def test_each_shape_comes_in_as_its_kind(tmp_path: Path, shape: str) -> None:
    with store_at(tmp_path / "f.db") as store:
        report = import_files(store, [write(tmp_path / "ann.jsonl", ROWS[shape])], ImportOptions())
        (judgement,) = store.judgements()
        texts = {candidate.id: candidate.text for candidate in store.candidates()}
    assert (judgement.value, judgement.annotator, judgement.source) == (VALUES[shape], "ann", "import")
    assert texts[judgement.candidates[0]] == {"preference": B, "rating": B}.get(shape, A)
    assert report.kinds == {judgement.kind: 1} and report.rows_read == 1


def test_the_same_rows_come_in_once_and_new_ones_are_added(tmp_path: Path) -> None:
    thumb, rating = ROWS["unpaired"], ROWS["rating"]
    with store_at(tmp_path / "f.db") as store:
        # Twice in one file is said twice.
        first = import_files(store, [write(tmp_path / "ann.jsonl", thumb, thumb)], ImportOptions())
        grown = import_files(store, [write(tmp_path / "ann.jsonl", thumb, thumb, rating)], ImportOptions())
        other = import_files(store, [tmp_path / "ann.jsonl"], ImportOptions(annotator="bob"))
        assert store.counts().annotators == {"ann": 3, "bob": 3}
    assert (first.kinds, first.already_there) == ({"thumb": 2}, 0)
    assert (grown.kinds, grown.already_there, grown.new_candidates) == ({"rating": 1}, 2, 1)
    assert (other.already_there, other.new_prompts) == (0, 0)


def test_files_read_together_or_one_after_the_other_say_the_same(tmp_path: Path) -> None:
    one, two = (write(tmp_path / name, ROWS["unpaired"]) for name in ("one.jsonl", "two.jsonl"))
    options = ImportOptions(annotator="ann")
    with store_at(tmp_path / "together.db") as together, store_at(tmp_path / "after.db") as after:
        assert import_files(together, [one, two, one], options).kinds == {"thumb": 1}
        for path in (one, two, one):
            import_files(after, [path], options)
        assert together.digest() == after.digest()


def test_an_export_comes_back_where_a_clock_was_set_back(tmp_path: Path) -> None:
    with store_at(tmp_path / "a.db") as store, store_at(tmp_path / "b.db") as other:
        prompt = store.add_prompt([Message(role="user", content=UPSET)])
        answer = store.add_candidate(prompt, A)
        first = store.add_judgement(prompt, [answer], Thumbed(True), annotator="a", created="2026-01-02T00:00:00+00:00")
        earlier = "2026-01-01T00:00:00+00:00"
        store.add_judgement(prompt, [answer], Thumbed(True), annotator="a", asked_again_of=first, created=earlier)
        export_store(store, tmp_path / "out")
        import_files(other, [tmp_path / "out"], ImportOptions())
        assert other.digest() == store.digest()


def everything(store: FeedbackStore) -> None:
    """One of all there is, with texts that are hard to write down."""
    prompts = [
        [Message(role="user", content=UPSET)],
        [
            Message(role="system", content="Be kind."),
            Message(role="user", content="Line 1\nLine 2 \u2028 \u00e9 \U0001f600"),
        ],
        [Message(role="user", content="\n\nHuman: a dialogue?\n\nAssistant:")],
        [
            Message(role="user", content="Hi"),
            Message(role="assistant", content="Hello."),
            Message(role="user", content="A = B > C"),
        ],
    ]  # fmt: skip
    for n, messages in enumerate(prompts):
        prompt = store.add_prompt(messages)
        more = (
            *answer_of("One moment."), Message(role="user", content="Well?"),
            Message(role="assistant", content="Done.", train=False),
        )  # fmt: skip
        ids = [
            store.add_candidate(prompt, A, model="m", adapter_digest="d", sampling={"temperature": 0.7}, seed=n),
            store.add_candidate(prompt, f"  {B}\n"),
            store.add_candidate(prompt, more),
        ]
        first = store.add_judgement(prompt, ids[:2], Compared("B"), annotator="ann", weight=0.25)
        store.add_judgement(prompt, ids[1::-1], Compared("A"), annotator="ann", asked_again_of=first)
        for value in (
            Compared("A"),
            Compared("tie"),
            Compared("both bad"),
            *(Compared(p=p) for p in (0.83, 0.2, 0.5)),
        ):
            store.add_judgement(prompt, ids[:2], value, annotator="bob", source="ai")
        store.add_judgement(prompt, [ids[2], *ids[:2]], Ranked(((2, 0), (1,))), annotator="eve")
        store.add_judgement(prompt, ids[:2], Ranked(((0, 1),)), annotator="eve")
        for value in (Rated(4), Thumbed(True), Flagged(False), Flagged(True, 'rude, "loud"'), Edited(more[:1])):
            store.add_judgement(prompt, ids[:1], value, annotator="eve")
        store.withdraw(store.add_judgement(prompt, ids[:1], Rated(1), annotator="eve"))
    store.add_prompt([Message(role="user", content="Nobody answered.")])


def test_an_export_is_lossless(tmp_path: Path) -> None:
    with store_at(tmp_path / "one.db") as one, store_at(tmp_path / "two.db") as two:
        everything(one)
        files = export_store(one, tmp_path / "out").files
        assert sum(files.values()) == 5 + sum(1 for _ in one.judgements(live=False))
        report = import_files(two, [tmp_path / "out"], ImportOptions())
        assert two.digest() == one.digest()
        assert list(two.judgements(live=False)) == list(one.judgements(live=False))
        assert list(two.prompts()) == list(one.prompts()) and list(two.candidates()) == list(one.candidates())
        assert (report.ignored_columns, report.left_out, report.withdrawn) == ([], {}, 4)
        again = import_files(two, [tmp_path / "out"], ImportOptions())
        assert again.kinds == {} and two.digest() == one.digest()
        # A change that is not carried over would show.
        one.add_judgement(*_one(one), Rated(2), annotator="late")
        assert two.digest() != one.digest()


def _one(store: FeedbackStore) -> tuple[str, list[str]]:
    candidate = next(store.candidates())
    return candidate.prompt_id, [candidate.id]


def test_exported_files_are_rows_that_other_verbs_read(tmp_path: Path) -> None:
    from tunesmith.data.preferences import PreferenceDataConfig, load_preferences

    with store_at(tmp_path / "f.db") as store:
        everything(store)
        export_store(store, tmp_path / "out")
    shapes = {
        "comparisons": "preference", "rankings": "ranking", "ratings": "rating",
        "thumbs": "unpaired", "flags": "flag", "edits": "edit",
    }  # fmt: skip
    for name, shape in shapes.items():
        path = tmp_path / "out" / f"{name}.jsonl"
        first = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
        assert convertible_shapes(first) == [shape]
    config = PreferenceDataConfig(train=str(tmp_path / "out" / "comparisons.jsonl"), validation_share=0)
    loaded = load_preferences(config)
    assert len(loaded.train) == 4 and loaded.contradictions.conflicts == 4
    # Said of A against B: "A" and p = 0.83; of B against A: "B" at a quarter, again, and p = 0.2.
    assert {pair.weight for group in loaded.train for pair in group.pairs} == {2.0, 2.25}


def test_an_export_replaces_nothing_unasked(tmp_path: Path) -> None:
    with store_at(tmp_path / "f.db") as store:
        everything(store)
        export_store(store, tmp_path / "out")
        with pytest.raises(DataError, match=r"candidates.jsonl: the file exists"):
            export_store(store, tmp_path / "out")
        export_store(store, tmp_path / "out", overwrite=True)
        (tmp_path / "file").write_text("x")
        with pytest.raises(DataError, match="cannot be made"):
            export_store(store, tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**ROWS["preference"], "rejected": B}, "rows.jsonl:2:rejected: the chosen and the rejected"),
        ({**ROWS["preference"], "rejected": " "}, "rows.jsonl:2:rejected: the text is empty"),
        ({**ROWS["ranking"], "candidates": [A, B, A]}, "rows.jsonl:2: two of the candidates are the same answer"),
        ({**ROWS["ranking"], "ranking": "B > A > D"}, "rows.jsonl:2:ranking: the ranking names an unknown candidate"),
        ({**ROWS["ranking"], "ranking": "B > A > B"}, "rows.jsonl:2:ranking: the ranking names a candidate twice"),
        ({**ROWS["rating"], "rating": 7}, "rows.jsonl:2:rating: the rating is out of range"),
        ({**ROWS["edit"], "corrected": A}, "rows.jsonl:2:corrected: the correction is the original"),
        ({**ROWS["rating"], "weight": 0}, "rows.jsonl:2:weight: the weight is no number above 0"),
        ({**ROWS["rating"], "weight": 1e300}, "rows.jsonl:2: a weight is a number from 0.0001 to 10000"),
        ({"prompt": UPSET, "answers": [{"answer": A, "seed": 10**30}]}, r"rows.jsonl:2:answers\[0\]: .*too large"),
        ({"prompt": UPSET, "answers": [{"answer": A}], "created": {"a": 1}}, "rows.jsonl:2:created: a time as text"),
        ({**ROWS["rating"], "weight": "much"}, "rows.jsonl:2:weight: the weight is no number"),
        ({**ROWS["rating"], "annotator": ["a"]}, "rows.jsonl:2:annotator: a name is expected"),
        ({**ROWS["rating"], "judgement": "good"}, "rows.jsonl:2:judgement: an object is expected"),
        ({**ROWS["rating"], "judgement": {"who": "a"}}, "rows.jsonl:2:judgement.who: unknown key"),
        ({**ROWS["rating"], "judgement": {"source": "cat"}}, "rows.jsonl:2:judgement.source: the source is unknown"),
        ({**ROWS["rating"], "judgement": {"asked_again_of": "x"}}, "rows.jsonl:2: there is no judgement x"),
        ({**ROWS["preference"], "judgement": {"value": {"outcome": "tie"}}}, "judgement.value: the value contradicts"),
        ({**ROWS["preference"], "judgement": {"value": {"p": 3}}}, "judgement.value: the value is none of a comp"),
        ({"prompt": UPSET, "completion": A}, "rows.jsonl:2: the columns hold no feedback"),
        ({**ROWS["rating"], **ROWS["unpaired"]}, "rows.jsonl:2: the columns fit more than one kind"),
        ({"prompt": UPSET, "answers": [{"answer": A, "seed": "x"}]}, r"rows.jsonl:2:answers\[0\]: a candidate is"),
        ({"prompt": UPSET, "answers": [{"answer": ""}]}, r"rows.jsonl:2:answers\[0\]:completion|the text is empty"),
    ],
)  # fmt: skip
def test_a_fault_names_its_place_and_nothing_comes_in(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS["edit"], row)
    with store_at(tmp_path / "f.db") as store:
        with pytest.raises(DataError, match=says):
            import_files(store, [path], ImportOptions())
        assert (store.counts().prompts, store.counts().judgements) == (0, {})
        report = import_files(store, [path], ImportOptions(drop_bad_rows=True))
        assert sum(report.rows_dropped.values()) == 1 and report.kinds == {"edit": 1}
        # Not even an answer of the faulty row.
        assert [candidate.text for candidate in store.candidates()] == [A]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with store_at(tmp_path / "f.db") as store:
        with pytest.raises(DataError, match="no export of a feedback store"):
            import_files(store, [tmp_path], ImportOptions())
        with pytest.raises(DataError, match="no such file"):
            import_files(store, [tmp_path / "gone.jsonl"], ImportOptions())
        two = write(tmp_path / "two.jsonl", {"prompt": UPSET}, {"text": "x"})
        with pytest.raises(DataError, match=r"2 faults in 2 rows; nothing was imported(.|\n)*--on-bad-row drop"):
            import_files(store, [two], ImportOptions())


def test_columns_by_other_names_and_a_stated_shape(tmp_path: Path) -> None:
    row = {"question": UPSET, "reply": B, "label": True, "rating": 5, "shop": "x", "annotator": 17}
    options = ImportOptions(shape="rating", columns={"prompt": "question", "completion": "reply"})
    with store_at(tmp_path / "f.db") as store:
        report = import_files(store, [write(tmp_path / "r.jsonl", row)], options)
        (judgement,) = store.judgements()
    assert (judgement.value, judgement.annotator) == (Rated(5), "17")
    assert report.ignored_columns == ["label", "shop"]
    prompt = prompt_id_of([Message(role="user", content=UPSET)])
    assert judgement.candidates == (candidate_id_of(prompt, answer_of(B)),)


def test_dialogues_in_one_string_come_through_store_and_pairs_as_they_are(tmp_path: Path) -> None:
    """HH-RLHF rows, as the loader reads them from their file and from what ``prefer`` makes of them."""
    from tunesmith.data.preferences import PreferenceDataConfig, load_preferences
    from tunesmith.recipes.feedback_prefer import FeedbackPreferConfig, make_preferences

    said = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: How do I pick a lock?\n\nAssistant:"
    rows = [
        {"chosen": f"{said} Call a locksmith.", "rejected": f"{said} With a pick."},
        {"chosen": f"{said} Why?\n\nHuman: Mine.\n\nAssistant: Ask one.", "rejected": f"{said} With a pick."},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hey!", "rejected": "\n\nHuman: Hi\n\nAssistant: What."},
    ]
    path = write(tmp_path / "hh.jsonl", *rows)
    with store_at(tmp_path / "f.db") as store:
        import_files(store, [path], ImportOptions())
    make_preferences(FeedbackPreferConfig(store=str(tmp_path / "f.db"), output_dir=str(tmp_path / "out")))
    groups = [
        load_preferences(PreferenceDataConfig(train=str(file), validation_share=0)).train
        for file in (path, tmp_path / "out" / "pairs.jsonl")
    ]
    # Whether a user's turn is marked for training says nothing.
    read, made = [
        [([(m.role, m.content) for m in group.prompt], group.answers, group.pairs) for group in several]
        for several in groups
    ]
    assert len(read) == 2 and read == made
