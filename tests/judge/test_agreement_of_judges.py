"""Agreement with people: figures against references written out here, and no score without it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_data
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import proportion_confint

from tunesmith.errors import DataError, RunError
from tunesmith.evals.judge import Ruling, Said
from tunesmith.evals.judge_agreement import (
    NOT_CALIBRATED,
    Labelled,
    agreement_facts,
    agreement_line,
    agreement_on_pairs,
    area_under_curve,
    file_agreement,
    mean_of_independent,
)
from tunesmith.evals.judge_rows import load_judged
from tunesmith.evals.judge_stats import Told
from tunesmith.evals.match import Match
from tunesmith.evals.rubrics import GRADE, HARM, PAIR, REFUSAL, Rubric
from tunesmith.stats import wilson_interval


def said(rubric: Rubric, *labels: str | None) -> list[Ruling]:
    values = [None if label is None else rubric.labels[label] for label in labels]
    return [Ruling(label=x, value=v, said=Said(text="")) for x, v in zip(labels, values, strict=True)]


def people(*values: float) -> list[Labelled]:
    return [Labelled(question=f"q{i}", people=(value,)) for i, value in enumerate(values)]


def test_classes_against_the_textbook() -> None:
    truth = [1.0] * 40 + [0.0] * 60
    labels = ["yes"] * 30 + ["no"] * 10 + ["yes"] * 15 + ["no"] * 45
    facts = agreement_facts(REFUSAL, people(*truth), said(REFUSAL, *labels))
    chance = 0.4 * 0.45 + 0.6 * 0.55
    assert facts["kappa"]["value"] == pytest.approx((0.75 - chance) / (1 - chance))
    assert facts["balanced_accuracy"]["value"] == pytest.approx((30 / 40 + 45 / 60) / 2)
    low, high = proportion_confint(30, 40, method="wilson")
    assert (facts["recall"]["yes"]["low"], facts["recall"]["yes"]["high"]) == (pytest.approx(low), pytest.approx(high))
    assert "kappa 0.490" in facts["main"] and facts["said"] == {"yes": 45, "no": 55}


def test_the_unreadable_counts_against_the_judge_and_bounds_it() -> None:
    truth = [1.0] * 10 + [0.0] * 10
    labels: list[str | None] = [*["yes"] * 10, *["no"] * 6, *[None] * 4]
    facts = agreement_facts(REFUSAL, people(*truth), said(REFUSAL, *labels))
    assert facts["unparsed"] == 4 and "auc" not in facts
    assert (facts["balanced_accuracy"]["value"], facts["balanced_accuracy"]["most"]) == (0.8, 1.0)
    all_no = agreement_facts(REFUSAL, people(*truth), said(REFUSAL, *[label or "no" for label in labels]))
    assert facts["kappa"]["value"] < all_no["kappa"]["value"] == 1
    numbers = agreement_facts(HARM, people(0.25, 1.0), said(HARM, "2", None))
    assert (numbers["mae"]["least"], numbers["mae"]["most"], numbers["mae"]["value"]) == (0, 0.5, 0)


def test_numbers_against_numpy() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 50) / 4
    labels = [
        str(1 + int(4 * min(1, max(0, t + d)))) for t, d in zip(truth, rng.choice([-0.25, 0, 0.25], 50), strict=True)
    ]
    facts = agreement_facts(HARM, people(*truth), said(HARM, *labels))
    guess = np.array([HARM.labels[label] for label in labels])
    assert facts["mae"]["value"] == pytest.approx(np.abs(guess - truth).mean())
    assert facts["mae_of_a_constant"]["value"] == pytest.approx(np.abs(np.median(truth) - truth).mean())
    # Krippendorff's alpha of two who judged everything, by its definition.
    both = np.concatenate([guess, truth])
    observed = ((guess - truth) ** 2).mean()
    expected = ((both[:, None] - both) ** 2).sum() / (len(both) * (len(both) - 1))
    assert facts["alpha"]["value"] == pytest.approx(1 - observed / expected)


def test_several_people_are_compared_with_each_other_too() -> None:
    labelled = [Labelled(question=f"q{i}", people=(i % 5 / 4, i % 5 / 4, (i % 5) / 4)) for i in range(20)]
    facts = agreement_facts(HARM, labelled, said(HARM, *[str(5 - i % 5) for i in range(20)]))
    assert facts["alpha_of_people"]["value"] == 1 and facts["alpha"]["value"] < 0
    assert facts["people_minus_judge"]["low"] > 0
    split = [Labelled(question="a", people=(0.0, 1.0)), *people(1.0, 0.0)]
    assert agreement_facts(REFUSAL, split, said(REFUSAL, "yes", "yes", "no"))["people_undecided"] == 1


def test_the_area_is_the_rank_statistic() -> None:
    rng = np.random.default_rng(1)
    positive = rng.random(80) < 0.4
    scores = np.round(rng.normal(size=80) + positive, 1)
    area = area_under_curve(scores.tolist(), positive.tolist())
    u = scipy_stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert area.value == pytest.approx(u / (positive.sum() * (~positive).sum()))
    assert area.low < area.value < area.high
    assert area_under_curve((-scores).tolist(), positive.tolist()).value == pytest.approx(1 - area.value)
    with pytest.raises(ValueError, match="both classes"):
        area_under_curve([1.0], [True])


def test_the_interval_of_a_balanced_accuracy_holds_what_it_promises() -> None:
    rng, held = np.random.default_rng(2), 0
    for _ in range(400):
        shares = [wilson_interval(int(rng.binomial(n, p)), n) for n, p in ((35, 0.7), (70, 0.9))]
        one = mean_of_independent(shares)
        held += one.low <= 0.8 <= one.high
    assert 0.92 <= held / 400 <= 0.98


def test_pairs_are_a_share_with_a_coin_beside_it() -> None:
    told = [Told("a", 1, 1, 1), Told("a", 1, 1, 1), Told("b", 0, 0, 0), Told("c", 0.5, 0.5, 0.5)]
    facts = agreement_on_pairs(told)
    assert facts["agreement"]["value"] == 0.625 and "62.5 %" in facts["main"] and "coin" in facts["main"]
    with pytest.raises(ValueError, match="agreement_on_pairs"):
        agreement_facts(PAIR, people(1.0), said(PAIR, "A"))


def test_a_judge_is_not_calibrated_until_it_is(tmp_path: Path) -> None:
    assert agreement_line(tmp_path, "d1") == NOT_CALIBRATED
    facts = {"main": "kappa 0.1", "num": 7, "source": "x.jsonl"}
    file_agreement(tmp_path, "d1", {"identity": {}}, "data-1", facts)
    file_agreement(tmp_path, "d1", {"identity": {}}, "data-2", facts | {"main": "kappa 0.2", "source": "y.jsonl"})
    file_agreement(tmp_path, "d1", {"identity": {}}, "data-1", facts | {"main": "kappa 0.3"})
    line = agreement_line(tmp_path, "d1")
    assert line == "agreement with people: kappa 0.3 (7 rows of x.jsonl); kappa 0.2 (7 rows of y.jsonl)"
    assert agreement_line(tmp_path, "d2") == NOT_CALIBRATED
    (tmp_path / "d2.json").write_text('{"measured": {"a": {}}}')
    with pytest.raises(RunError, match="judge calibrate"):
        agreement_line(tmp_path, "d2")


@pytest.mark.parametrize(
    ("name", "rubric", "num", "raters"),
    [("refusal", REFUSAL, 105, 1), ("hate_speech_3_raters", HARM, 199, 3), ("info_integrity", HARM, 76, 1)],
)
def test_what_people_judged_is_read(name: str, rubric: Rubric, num: int, raters: int) -> None:
    judged = load_judged(str(shared_data(f"judge_calibration/{name}.jsonl")), rubric)
    assert len(judged.labelled) == len(judged.talks) == num
    assert {len(one.people) for one in judged.labelled} == {raters}
    assert {value for one in judged.labelled for value in one.people} == set(rubric.labels.values())


def test_pairs_that_people_judged(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}) + "\n")
    (one,) = load_judged(str(path), PAIR).contests
    assert [talk[-1].content for talk in one.talks] == ["Hello!", "What?"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "answer": "b"}, "no person's value"),
        ({"prompt": "a", "answer": "b", "human_score": 11}, "none of the rubric's"),
        ({"prompt": "a", "answer": "b", "human_score": "good"}, "none of the rubric's"),
        ({"prompt": "a", "human_score": 3}, "missing or null"),
        ({"prompt": 3, "answer": "b", "human_score": 3}, "to be texts"),
    ],
)
def test_rows_without_a_person_are_named(tmp_path: Path, row: dict[str, object], said: str) -> None:
    path = tmp_path / "g.jsonl"
    path.write_text(json.dumps({"prompt": "a", "answer": "b", "human_score": 3}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=said) as caught:
        load_judged(str(path), GRADE)
    assert ":2" in str(caught.value)


def test_a_win_rate_by_a_judge_that_writes_says_so_too(tmp_path: Path) -> None:
    def match(judge: dict[str, str]) -> Match:
        return Match(
            prompts=(), num_samples=1, sides=(), results={}, divergences={}, judge=judge, counts={}, examples=()
        )

    assert match({"judge.weight": "1.0", "judge.template": "ab12"}).judge_agreement == NOT_CALIBRATED
    assert match({"reward.weight": "1.0", "reward.reward_model": "cd34"}).judge_agreement is None


def test_answers_to_one_question_are_one_observation_in_a_recall() -> None:
    labels = ["yes"] * 8 + ["no"] * 4
    labelled = [Labelled(question=f"q{i // 4}", people=(1.0,)) for i in range(12)]
    alone = agreement_facts(REFUSAL, people(*[1.0] * 12), said(REFUSAL, *labels))["recall"]["yes"]
    together = agreement_facts(REFUSAL, labelled, said(REFUSAL, *labels))["recall"]["yes"]
    assert together["value"] == alone["value"]
    assert together["high"] - together["low"] > 1.3 * (alone["high"] - alone["low"])
