"""Votes become pairs; what contradicts is found, told and handled as the policy says."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.feedback.judgements import Compared, Edited, Flagged, Ranked, Rated, Thumbed, answer_of
from tunesmith.feedback.prefer import PreferConfig, aggregate, prefer, without_cycles
from tunesmith.feedback.store import FeedbackStore
from tunesmith.feedback.strength_check import doubts, source_strengths
from tunesmith.feedback.votes import Vote
from tunesmith.records import Message, Pair

UPSET = [Message(role="user", content="My order arrived broken. I'm very upset!")]
TEXTS = ("It is what it is.", "I am so sorry! A new one leaves today.", "Sorry. Please send a photo.")


def vote(better: str, worse: str, weight: float = 1.0, by: str = "ann", margin: float = 0.0) -> Vote:
    return Vote(better, worse, weight, margin, "comparison", (f"{by}:{better}{worse}",), (by,))


@pytest.fixture
def store(tmp_path: Path) -> FeedbackStore:
    return FeedbackStore.open(tmp_path / "f.db", create=True)


def asked(store: FeedbackStore, *texts: str) -> tuple[str, list[str]]:
    prompt = store.add_prompt(UPSET)
    return prompt, [store.add_candidate(prompt, text, model=f"m{i}") for i, text in enumerate(texts or TEXTS)]


def test_the_ranking_of_the_support_assistant(store: FeedbackStore) -> None:
    prompt, (a, b, c) = asked(store)
    key = store.add_judgement(prompt, [a, b, c], Ranked(((1,), (2,), (0,))), annotator="ann")
    found = prefer(store, PreferConfig())
    (group,) = found.groups()
    assert [message.content for (message,) in group.answers] == list(TEXTS)
    assert group.pairs == (Pair(better=1, worse=2), Pair(better=1, worse=0), Pair(better=2, worse=0))
    assert group.prompt == tuple(UPSET) and str(group.where).endswith(f"f.db:{prompt}")
    assert all(pair.judgements == (key,) and pair.annotators == ("ann",) for pair in found.prompts[0].pairs)
    assert (found.conflicts, found.cycles, found.left_out) == ([], [], {})


def test_all_kinds_meet_in_one_pair(store: FeedbackStore) -> None:
    prompt, (a, b, c) = asked(store)
    for value, ids in (
        (Compared("B"), [a, b]),
        (Edited(answer_of(TEXTS[1])), [a]),  # What was written is what stands in b.
        (Rated(1), [a]),
        (Rated(5), [b]),
        (Thumbed(False), [a]),
        (Thumbed(True), [b]),
        (Flagged(True, "rude"), [a]),
    ):
        store.add_judgement(prompt, ids, value, annotator="ann")
    found = prefer(store, PreferConfig())
    pairs = {(pair.better, pair.worse): pair for pair in found.prompts[0].pairs}
    assert set(pairs) == {(b, a), (c, a)}  # c only since it was not flagged.
    best = pairs[b, a]
    assert best.kinds == ("comparison", "edit", "rating", "thumb", "flag")
    assert best.weight == 1 + 1 + 0.5 + 0.5 + 0.5 and len(best.judgements) == 7
    # Of the weight, the ratings' alone asks for a margin: 0.25 a grade over 4 grades.
    assert best.margin == pytest.approx(0.5 * 1.0 / 3.5)
    assert found.judgements == {"comparison": 1, "edit": 1, "rating": 2, "thumb": 2, "flag": 1}


def test_the_majority_surplus_is_the_weight_and_an_even_split_gives_no_pair() -> None:
    pairs, conflicts = aggregate([vote("a", "b", by="1"), vote("b", "a", by="2"), vote("a", "b", 2, by="3")], "p")
    assert [(p.better, p.worse, p.weight, p.weight_for, p.weight_against) for p in pairs] == [("a", "b", 2, 3, 1)]
    (conflict,) = conflicts
    assert (conflict.annotators_for, conflict.annotators_against) == (("1", "3"), ("2",))
    assert not conflict.dropped and len(conflict.judgements) == 2 + 1
    # 0.1 + 0.2 against 0.3 is even too.
    pairs, conflicts = aggregate([vote("a", "b", 0.1), vote("a", "b", 0.2), vote("b", "a", 0.3, by="2")], "p")
    assert pairs == [] and conflicts[0].dropped
    # The first vote's direction has no say.
    pairs, _ = aggregate([vote("b", "a"), vote("a", "b", 3, margin=1.0)], "p")
    assert [(p.better, p.weight, p.margin) for p in pairs] == [("a", 2, 1.0)]


def test_a_ring_through_several_judgements_is_found(store: FeedbackStore) -> None:
    prompt, (a, b, c) = asked(store)
    said = [
        store.add_judgement(prompt, pair, Compared("A"), annotator=by)
        for pair, by in (([a, b], "ann"), ([b, c], "bob"), ([c, a], "eve"))
    ]
    for policy, left in (("keep", 3), ("drop", 0)):
        found = prefer(store, PreferConfig(cycles=policy))
        (cycle,) = found.cycles
        assert set(cycle.answers) == {a, b, c} and set(cycle.annotators) == {"ann", "bob", "eve"}
        assert set(cycle.judgements) == set(said) and cycle.pairs_dropped == 3 - left
        for better, worse in itertools.pairwise([*cycle.answers, cycle.answers[0]]):
            assert (better, worse) in {(a, b), (b, c), (c, a)}
        assert found.num_pairs == left and found.left_out == ({} if left else {"pair of a ring": 3})
    # Withdrawn, it is no ring.
    store.withdraw(said[0])
    assert prefer(store, PreferConfig()).cycles == []


def test_a_ring_leaves_the_pairs_beside_it_alone() -> None:
    pairs, _ = aggregate([vote(*pair) for pair in ("ab", "bc", "ca", "xa", "cy", "xy")], "p")
    kept, cycles = without_cycles(pairs, "p", "drop")
    assert {(p.better, p.worse) for p in kept} == {("x", "a"), ("c", "y"), ("x", "y")}
    assert len(cycles) == 1 and cycles[0].pairs_dropped == 3
    _, two = without_cycles([*pairs, *aggregate([vote(*p) for p in ("de", "ef", "fd")], "p")[0]], "p", "keep")
    assert len(two) == 2


def test_a_shortest_ring_is_shown() -> None:
    pairs, _ = aggregate([vote(*pair) for pair in ("ab", "bc", "cd", "de", "ea", "ca")], "p")
    (cycle,) = without_cycles(pairs, "p", "keep")[1]
    assert set(cycle.answers) == {"a", "b", "c"}


NAMES = "abcde"
CAST = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES), st.sampled_from([0.5, 1.0, 2.0])).filter(
        lambda cast: cast[0] != cast[1]
    ),
    max_size=14,
)


@given(CAST)
@settings(max_examples=150, deadline=None)
def test_pairs_conflicts_and_rings_agree_with_a_count_by_hand(cast: list[tuple[str, str, float]]) -> None:
    sums = {(a, b): 0.0 for a in NAMES for b in NAMES}
    for better, worse, weight in cast:
        sums[better, worse] += weight
    pairs, conflicts = aggregate([vote(*one) for one in cast], "p")
    expected = {(a, b): sums[a, b] - sums[b, a] for a, b in sums if sums[a, b] > sums[b, a]}
    assert {(p.better, p.worse): p.weight for p in pairs} == pytest.approx(expected)
    assert len(conflicts) == sum(sums[a, b] > 0 and sums[b, a] > 0 for a, b in itertools.combinations(NAMES, 2))
    kept, cycles = without_cycles(pairs, "p", "drop")
    # Warshall's closure: in a ring is what lies below itself.
    below = set(expected)
    for k, i, j in itertools.product(NAMES, repeat=3):
        if (i, k) in below and (k, j) in below:
            below.add((i, j))
    assert {n for cycle in cycles for n in cycle.answers} <= {n for n in NAMES if (n, n) in below}
    assert {(p.better, p.worse) for p in kept} == {(a, b) for a, b in expected if (b, a) not in below}
    assert bool(cycles) == any((n, n) in below for n in NAMES)


def test_answers_and_sources_are_those_of_the_store(store: FeedbackStore) -> None:
    prompt, (a, b, c) = asked(store)
    store.add_judgement(prompt, [a], Edited(answer_of("Sorry!")), annotator="ann")
    for pair in ([b, a], [b, c], [c, a], [a, c], [c, b]):
        store.add_judgement(prompt, pair, Compared("A"), annotator="ann")
    store.add_judgement(prompt, [a, b], Compared("tie"), annotator="ann")
    found = prefer(store, PreferConfig())
    strengths = source_strengths(found, prior_sd=2.0)
    assert strengths is not None and strengths.names == ("m0", "m1", "m2") and strengths.num_votes == 6
    assert strengths.fit.prior_sd is None and strengths.fit.tie is not None
    assert strengths.fit.strengths[1].value > strengths.fit.strengths[0].value
    assert [message.content for (message,) in found.prompts[0].answers.values()] == [*TEXTS, "Sorry!"]


def test_sources_that_never_lost_are_held_by_the_prior(store: FeedbackStore) -> None:
    prompt, (a, b, _) = asked(store)
    assert source_strengths(prefer(store, PreferConfig()), prior_sd=2.0) is None
    store.add_judgement(prompt, [a, b], Compared("B"), annotator="ann")
    strengths = source_strengths(prefer(store, PreferConfig()), prior_sd=2.0)
    assert strengths is not None and strengths.fit.prior_sd == 2.0
    assert strengths.fit.strengths[1].value > 0


def test_a_pair_that_all_other_votes_speak_against_is_doubtful(store: FeedbackStore) -> None:
    prompt, (a, b, c) = asked(store)
    for pair, times in (([a, b], 1), ([b, c], 3), ([c, a], 3)):
        for i in range(times):
            store.add_judgement(prompt, pair, Compared("A"), annotator=f"ann{i}")
    found = prefer(store, PreferConfig())
    (doubt,) = doubts(found, below=0.35)
    assert (doubt.better, doubt.worse) == (a, b) and doubt.probability < 0.35
    assert doubts(prefer(store, PreferConfig(cycles="drop")), below=0.35) == []


def test_an_order_without_a_circle_is_in_no_doubt(store: FeedbackStore) -> None:
    """d > a > b > c: that a lost much and b won much does not speak against a > b."""
    prompt, (a, b, c, d) = asked(store, *TEXTS, "Well.")
    for pair, times in (([a, b], 1), ([b, c], 9), ([d, a], 9)):
        for i in range(times):
            store.add_judgement(prompt, pair, Compared("A"), annotator=f"ann{i}")
    store.add_judgement(prompt, [c, d], Compared("both bad"), annotator="ann")
    assert doubts(prefer(store, PreferConfig()), below=0.5) == []
    # Closed, it is a circle, and then they do.
    for i in range(9):
        store.add_judgement(prompt, [c, d], Compared("A"), annotator=f"ann{i}")
    (doubt,) = doubts(prefer(store, PreferConfig()), below=0.5)
    # Wins less expected wins balance at every answer: w (1 - p) is the same all around, and the logits sum to 0.
    slack = scipy.optimize.brentq(lambda k: 3 * math.log((9 - k) / k) + math.log((1 - k) / k), 0.5, 1 - 1e-9)
    assert (doubt.better, doubt.worse) == (a, b) and doubt.probability == pytest.approx(1 - slack, rel=1e-4)


def test_answers_tied_all_around_are_in_no_doubt(store: FeedbackStore) -> None:
    prompt, (a, b, c) = asked(store)
    store.add_judgement(prompt, [a, b, c], Ranked(((0, 1, 2),)), annotator="ann")
    found = prefer(store, PreferConfig())
    assert found.num_pairs == 0 and doubts(found, below=0.5) == []
