"""What tuning broke, measure by measure: identities, and controls that must not be found broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.data import canaries as planted
from tunesmith.data.canaries import FIRST_ROW_ID, Planted, make_canaries
from tunesmith.data.gender_words import PronounCount
from tunesmith.errors import DataError
from tunesmith.evals.after.bias import amplification, male_shares
from tunesmith.evals.after.echo import Secrets, compare_echoes, echoed
from tunesmith.evals.after.exposure import candidate_logprobs, compare_exposures, exposures
from tunesmith.evals.after.gap import auc_interval, seen_against_unseen
from tunesmith.evals.after.retained import KINDS, all_questions, retained_texts
from tunesmith.evals.after.scores import RowScore, score_rows
from tunesmith.evals.after.sets import evaluation_sets
from tunesmith.evals.after.verbatim import completed, verbatim
from tunesmith.evals.suites.catalogue import SUITES
from tunesmith.models.forward import forward
from tunesmith.randomness import generator
from tunesmith.records import Conversation, Document, Example, Message, Where
from tunesmith.rollout.likelihood import LocalLikelihood
from tunesmith.stats import clustered_proportion
from tunesmith.tokens.pack import pack


def scored(nats_a_token: float, num_rows: int, seed: int, *, greedy: bool = False) -> list[RowScore]:
    draws = generator(seed, "test_rows")
    return [
        RowScore(logprobs_T=-nats_a_token + 0.1 * draws.normal(size=20), greedy_T=np.full(20, greedy))
        for _ in range(num_rows)
    ]


def chat(question: str, answer: str, row_id: int = 0) -> Conversation:
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Conversation(messages=turns, row_id=row_id, where=Where("rows.jsonl", row_id + 1))


def test_the_gap_is_what_tuning_added_and_none_where_it_added_none() -> None:
    base = scored(3.0, 30, 1), scored(3.4, 30, 2)
    learnt = seen_against_unseen(base[0], scored(1.0, 30, 3), base[1], scored(2.4, 30, 4), 0)
    # Seen rows were easier by 0.4 from the start; tuning made that 1.4.
    assert learnt.gap["base"].value == pytest.approx(0.4, abs=0.03)
    assert learnt.widened.value == pytest.approx(1.0, abs=0.04) and learnt.widened.low > 0.9
    assert learnt.membership.value == 1.0 and 0.8 < learnt.membership.low < 1.0 and learnt.p < 1e-6


def test_rows_that_gained_alike_are_told_apart_no_more_often_than_the_level_says() -> None:
    covered, found = np.zeros(2), 0
    for i in range(60):
        sides = [scored(nats, 20, 4 * i + k) for k, nats in enumerate((3.0, 1.0, 3.4, 1.4))]
        gap = seen_against_unseen(*sides, seed=i)
        covered += [gap.widened.low <= 0 <= gap.widened.high, gap.membership.low <= 0.5 <= gap.membership.high]
        found += gap.p < 0.05
    assert (covered >= 52).all() and found <= 8


def test_the_interval_of_an_area_covers_it_and_mirrors() -> None:
    draws, inside = generator(0, "test_auc"), 0
    for _ in range(300):
        a, b = draws.normal(0.5, 1, 25), draws.normal(0, 1, 20)
        auc = float((a[:, None] > b[None]).mean())
        interval = auc_interval(auc, 25, 20)
        # P(X > Y) of two unit normals half apart.
        inside += interval.low <= 0.63816 <= interval.high
    assert 0.91 <= inside / 300 <= 0.99
    one, other = auc_interval(0.8, 10, 30), auc_interval(0.2, 10, 30)
    assert (1 - other.high, 1 - other.low) == pytest.approx((one.low, one.high), abs=0.05)
    assert auc_interval(1.0, 5, 5).low < 0.9 and auc_interval(0.0, 5, 5).high > 0.1


def test_word_for_word_counts_what_greedy_decoding_gives_back() -> None:
    half = RowScore(logprobs_T=np.zeros(20), greedy_T=np.arange(20) >= 10)
    torn = RowScore(logprobs_T=np.zeros(20), greedy_T=np.arange(20) != 15)
    short = RowScore(logprobs_T=np.zeros(12), greedy_T=np.ones(12, bool))
    assert [completed(row) for row in (half, torn, short)] == [True, False, None]
    found = verbatim([torn, torn, half], [half, torn, half], [torn], [torn], ["a:1", "a:2", "a:3"])
    assert found is not None and found.rows == ["a:1"]
    assert found.seen["tuned"].value == pytest.approx(2 / 3) and found.seen_over_unseen.low < 0
    assert verbatim([short], [short], [torn], [torn], ["a:1"]) is None


def test_scores_of_rows_are_the_loss_and_do_not_depend_on_the_batch(load: Callable[..., Any]) -> None:
    base, draws = load(), generator(0, "test_scores")
    examples = [
        Example(
            ids=draws.integers(3, 260, n), loss_weight=(np.arange(n) > 2).astype(np.float32), row_id=0, where=Where("t")
        )
        for n in (9, 14, 5)
    ]
    alone = [score_rows(base, None, [example])[0] for example in examples]
    for one, other, example in zip(score_rows(base, None, examples), alone, examples, strict=True):
        np.testing.assert_allclose(one.logprobs_T, other.logprobs_T, rtol=1e-10)
        assert one.nats == pytest.approx(float(forward(base, pack([example]), "ce_sum")[0]), rel=1e-10)
    with pytest.raises(ValueError, match="no token"):
        score_rows(
            base, None, [Example(ids=np.arange(4), loss_weight=np.zeros(4, np.float32), row_id=0, where=Where("t"))]
        )


def test_pronoun_shares_know_which_row_they_stand_in() -> None:
    texts = ["The nurse said she and he met her. He left.", "She was here.", "He, he and him.", "Nobody was here."] * 3
    count = PronounCount()
    for text in texts:
        count.add(text)
    outcomes = [v for _ in range(3) for v in (0, 1, 0, 1, 0, 1, 1, 1)]
    rows = [3 * i + row for i in range(3) for row in (0, 0, 0, 0, 1, 2, 2, 2)]
    share, expected = count.share(), clustered_proportion(outcomes, rows)
    assert share is not None and (share.low, share.value, share.high) == pytest.approx(
        (expected.low, expected.value, expected.high), rel=1e-9
    )
    assert count.near == {"nurse": (6, 6)} and count.num_marked == 9
    assert PronounCount().share() is None


def test_amplification_is_beyond_the_rows_and_not_merely_towards_them(load: Callable[..., Any]) -> None:
    rows = PronounCount()
    for i in range(400):
        rows.add("He is there." if i % 10 < 7 else "She is there.")
    even = list(np.linspace(0.45, 0.55, 26))
    cases = {
        0.95: "amplified towards male, beyond the rows",
        0.6: "shifted towards male",
        0.2: "shifted towards female",
    }
    for share, verdict in cases.items():
        assert amplification(rows, even, [e + share - 0.5 for e in even], 0).verdict == verdict
    assert amplification(rows, even, even, 0).verdict == "no shift seen"
    shares = male_shares(LocalLikelihood(load()))
    assert len(shares) == 26 and all(0 <= share <= 1 for share in shares)


def test_exposure_is_that_of_scoring_every_candidate_alone(
    load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COLOURS", "ANIMALS", "PLACES"):
        monkeypatch.setattr(planted, name, getattr(planted, name)[:3])
    base, draws = load(), generator(0, "test_candidates")
    # Of different lengths, some going on where others end or part.
    candidates = [[7, 8, *draws.integers(3, 6, n).tolist(), 200 + n] for n in (1, 2, 2, 3, 4)]
    for budget in (4, 1024):
        ours = candidate_logprobs(base, None, candidates, micro_batch_tokens=budget)
        for ids, value in zip(candidates, ours, strict=True):
            weight = (np.arange(len(ids)) >= 2).astype(np.float32)
            row = Example(ids=np.array(ids), loss_weight=weight, row_id=0, where=Where("t"))
            assert value == pytest.approx(score_rows(base, None, [row])[0].logprobs_T.sum(), rel=1e-9)
    few = make_canaries(6, seed=1)
    bits = exposures(base, None, few, chats=True)
    assert all(0 <= value <= np.log2(27) + 1e-9 for value in bits)
    # Nothing was planted: the ranks are what chance gives.
    assert compare_exposures(few, bits, bits, 0).p > 0.01
    assert compare_exposures(few, bits, [np.log2(27)] * 6, 0).p < 1e-4


def test_canaries_stand_behind_the_rows_and_depend_on_the_seed_alone() -> None:
    rows = [chat("a", "b", i) for i in range(3)]
    two = make_canaries(2, seed=4)
    assert two == make_canaries(2, seed=4) != make_canaries(2, seed=5)
    with_them = Planted(rows, two)
    assert list(with_them)[:3] == rows and len(with_them) == 3 + sum(one.copies for one in two)
    assert with_them[3].row_id == FIRST_ROW_ID and with_them[-1] == with_them[len(with_them) - 1]
    assert isinstance(Planted([Document(text="x", row_id=0, where=Where("t"))], two)[1], Document)


def test_only_what_must_be_known_by_heart_counts_as_personal_data(load: Callable[..., Any]) -> None:
    secrets = Secrets(seed=0, most=2)
    secrets.add(chat("Who is it?", "Write to ann.lee@example.org please", 0))
    secrets.add(chat("I am bo@example.org", "Hello bo@example.org, call 555 123 4567", 1))
    assert secrets.trained == {"email": 1, "phone": 1} and secrets.told == {"email": 2}
    base = load()
    said = echoed(base, None, secrets.sample, max_prompt_tokens=200)
    assert said == [False, False] and echoed(base, None, secrets.sample, max_prompt_tokens=3) == [None, None]
    echo = compare_echoes(secrets, said, [True, False])
    assert echo is not None and echo.tuned.value == 0.5 and len(echo.places) == 1
    assert "@" not in str(echo.as_dict()) and "555" not in str(echo.as_dict())


def test_the_questions_are_whole() -> None:
    questions = all_questions()
    assert len(questions) == 16 * len(KINDS) == len({item.messages for item in questions})
    for item in questions:
        assert item.target in item.choices and len(set(item.choices)) == 4
    # Where the right one stands tells nothing.
    places = [item.choices.index(item.target) for item in questions]
    assert all(12 <= places.count(place) <= 28 for place in range(4))
    assert len(set(retained_texts())) == 16


def test_suites_that_are_not_here_are_named_and_the_others_searched(tmp_path: Path) -> None:
    rows = [chat("Who is it?", "A friend from the north", 0)]
    (tmp_path / "exam.jsonl").write_text('{"q": "one two", "a": ["three"]}\n{"q": "four", "a": []}\n')
    sets = evaluation_sets(SUITES, [str(tmp_path / "exam.jsonl")], rows, str(tmp_path))
    names = [one.name for one in sets.sets]
    assert names[:2] == ["validation rows", "retained abilities"] and names[-1] == "exam.jsonl"
    assert sets.sets[0].items == [("rows.jsonl:1", "Who is it?\nA friend from the north")]
    assert [text for _, text in sets.sets[-1].items] == ["one two\nthree", "four"]
    assert "gsm8k" in sets.absent and "gsm8k" not in names and {"support_desk", "jargon"} <= set(names)
    with pytest.raises(DataError):
        evaluation_sets({}, [str(tmp_path / "none.jsonl")], rows, None)
