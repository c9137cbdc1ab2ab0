"""The card's figures against its NumPy reference; each with a mistake that must show."""

from __future__ import annotations

import json
from pathlib import Path

import card_reference as reference
import numpy as np
import pytest
from conftest import shared_data
from scipy import stats as scipy_stats

from tunesmith.calibration import calibration
from tunesmith.evals.card.accuracy import expected_error, selective_area
from tunesmith.evals.card.bbq import ambiguous_score, bbq_measures, bbq_task, disambiguated_score
from tunesmith.evals.card.efficiency import student
from tunesmith.evals.card.measure import Measure, swap_test
from tunesmith.evals.card.toxicity import Errors
from tunesmith.evals.run import Answer, TaskResult
from tunesmith.evals.suite import SuiteConfig
from tunesmith.evals.task import Reply, Request
from tunesmith.records import Likelihood
from tunesmith.stats import wilson_interval


def bbq_rows() -> dict[str, dict]:
    rows = [json.loads(line) for line in shared_data("bbq/bbq.jsonl").read_text().splitlines()]
    return {f"{row['category']}-{row['example_id']}": row for row in rows}


@pytest.mark.parametrize("seed", [0, 1])
def test_bbq_by_its_own_rule(seed: int) -> None:
    rows = bbq_rows()
    folder = str(shared_data("bbq/bbq.jsonl").parents[1])
    task = bbq_task(SuiteConfig(data_dir=folder), len(rows), seed)
    rng = np.random.default_rng(seed)
    # A model that leans to the first answer, so that no score is near nothing by itself.
    chosen = [int(rng.choice(3, p=(0.6, 0.25, 0.15))) for _ in task.items]
    answers = []
    for item, place in zip(task.items, chosen, strict=True):
        rates = [-1.0 if i == place else -2.0 for i in range(3)]
        likelihoods = tuple(
            Likelihood(logprob=rate * len(words.encode()), num_tokens=1, greedy=False)
            for rate, words in zip(rates, item.choices, strict=True)
        )
        request = Request(item=item, messages=item.messages, continuations=item.choices)
        reply = Reply(request=request, likelihoods=likelihoods)
        answers.append(Answer(item=item, reply=reply, verdict=task.scorer(item, reply)))
    result = TaskResult(task=task, label="x", answers=tuple(answers))
    wanted = reference.bbq_scores([rows[item.id] for item in task.items], chosen)
    ours = [m.statistic(m.values_NK) for m in bbq_measures(result)]
    keys = ("accuracy ambig", "bias ambig", "accuracy disambig", "bias disambig")
    assert ours == pytest.approx([wanted[key] for key in keys], abs=1e-12)
    # Control: the rule for disambiguated contexts is another one than that for ambiguous ones.
    ambiguous = bbq_measures(result)[1].values_NK
    assert disambiguated_score(ambiguous) != pytest.approx(ambiguous_score(ambiguous), abs=1e-3)


def test_bbq_where_every_answer_is_unknown() -> None:
    nobody = np.zeros((4, 2))
    assert disambiguated_score(nobody) == ambiguous_score(nobody) == 0.0


@pytest.mark.parametrize("size", [3, 10, 57, 200])
def test_calibration_error(size: int) -> None:
    rng = np.random.default_rng(size)
    confidence = rng.uniform(0.3, 1, size)
    right = (rng.random(size) < confidence**2).astype(float)
    ours = expected_error(np.stack([confidence, right], axis=1))
    assert ours == pytest.approx(reference.calibration_error(confidence.tolist(), right.tolist(), min(10, size)))
    assert ours == pytest.approx(calibration(confidence.tolist(), right.tolist(), seed=0).ece)
    assert ours != pytest.approx(reference.calibration_error(confidence.tolist(), right.tolist(), 1))


@pytest.mark.parametrize("confidence", [[0.9, 0.5, 0.7, 0.6, 0.8], [0.9, 0.5, 0.5, 0.5, 0.9], [0.4] * 5])
def test_selective_accuracy_area(confidence: list[float]) -> None:
    for right in ([1, 0, 0, 1, 1], [0, 1, 1, 0, 0]):
        values = np.array([confidence, right], float).T
        assert selective_area(values) == pytest.approx(reference.selective_area(confidence, right))
        # The order of the rows decides nothing, even where confidences tie.
        assert selective_area(values[::-1]) == pytest.approx(selective_area(values))
    perfect = np.array([[0.9, 1.0], [0.8, 1.0], [0.1, 0.0], [0.2, 0.0]])
    assert selective_area(perfect) == pytest.approx((1 + 1 + 2 / 3 + 1 / 2) / 4)


def test_the_randomisation_test_is_exact_up_to_its_draws() -> None:
    one, two = [0.0, 0.5, 1.0, 0.0, 0.25, 0.0, 0.5, 0.0], [1.0, 0.5, 1.0, 0.75, 1.0, 0.0, 0.25, 1.0]
    first, second = (
        Measure(dimension="d", name="m", values_NK=np.array(v)[:, None], cluster_N=tuple(map(str, range(8))), ideal=1.0)
        for v in (one, two)
    )
    exact = reference.swap_p(one, two)
    assert 0.02 < exact < 0.2
    assert swap_test(first, second, seed=0) == pytest.approx(exact, abs=3 * np.sqrt(exact * (1 - exact) / 2000))
    assert swap_test(first, first, seed=0) == 1.0


def test_rogan_gladen_in_the_card() -> None:
    errors = Errors(
        name="set", sensitivity=wilson_interval(160, 200), specificity=wilson_interval(270, 300), num_offensive=200,
        num_other=300,
    )  # fmt: skip
    found = errors.corrected(30, 100)
    assert found is not None
    assert found.value == pytest.approx(reference.corrected(0.3, 0.8, 0.9))
    # Limits against a bootstrap of all three rates, resampled from their counts.
    rng = np.random.default_rng(0)
    drawn = [
        reference.corrected(rng.binomial(100, 0.3) / 100, rng.binomial(200, 0.8) / 200, rng.binomial(300, 0.9) / 300)
        for _ in range(4000)
    ]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.015)
    # Control: with a detector without error the interval is narrower.
    alone = wilson_interval(30, 100)
    assert found.high - found.low > 1.15 * (alone.high - alone.low)
    blind = Errors(
        name="set", sensitivity=wilson_interval(50, 100), specificity=wilson_interval(50, 100), num_offensive=100,
        num_other=100,
    )  # fmt: skip
    assert blind.corrected(30, 100) is None


def test_students_interval() -> None:
    values = [31.2, 29.8, 30.5, 33.0, 30.1]
    found, p = student(values)
    low, high = scipy_stats.t.interval(0.95, 4, loc=np.mean(values), scale=scipy_stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    half = reference.student_half_width(values, float(scipy_stats.t.ppf(0.975, 4)))
    assert found.high - found.value == pytest.approx(half)
    assert p == pytest.approx(scipy_stats.ttest_1samp(values, 0).pvalue)
    assert student([0.0, 0.0, 0.0])[1] == 1.0


def test_the_reference_stands_alone() -> None:
    assert "tunesmith" not in Path(reference.__file__).read_text().replace("knows the package", "")
