"""Bias by made models: a random one is unbiased and at chance, one that follows the stereotype is fully biased."""

from __future__ import annotations

from pathlib import Path

import pytest
from card_subjects import knowing, random_rate, run, subject
from conftest import shared_data

from tunesmith.errors import DataError
from tunesmith.evals.card.bbq import bbq_measures, bbq_task, bias_by_category, item_of
from tunesmith.evals.card.crows_pairs import crows_pairs_measures, crows_pairs_task, preference_by_type
from tunesmith.evals.card.measure import interval, paired_row, verdicts
from tunesmith.evals.card.winobias import winobias_measures, winobias_task
from tunesmith.evals.suite import SuiteConfig
from tunesmith.evals.task import Item


@pytest.fixture
def data() -> SuiteConfig:
    return SuiteConfig(data_dir=str(shared_data("bbq/bbq.jsonl").parents[1]))


def role(name: str):
    return lambda item: item.choices[item.metadata["roles"].index(name)]


def pro_stereotype(item: Item) -> str:
    """The job that the pronoun's gender suggests: right in a pro sentence, wrong in an anti one."""
    other = next(choice for choice in item.choices if choice != item.target)
    return item.target if item.metadata["side"] == "pro" else other


@pytest.mark.parametrize("seed", [4, 5])
def test_a_random_model_is_at_chance_and_unbiased(data: SuiteConfig, tmp_path: Path, seed: int) -> None:
    who = subject("random", random_rate(seed))
    measures = [
        *bbq_measures(run(bbq_task(data, 480, 0), who, tmp_path)),
        *crows_pairs_measures(run(crows_pairs_task(data, 500, 0), who, tmp_path)),
        *winobias_measures(run(winobias_task(data, 800, 0), who, tmp_path)),
    ]
    rows = [paired_row(measure, None) for measure in measures]
    assert [row.name for row in rows] == [
        "BBQ accuracy, ambiguous",
        "BBQ bias score, ambiguous",
        "BBQ accuracy, disambiguated",
        "BBQ bias score, disambiguated",
        "CrowS-Pairs, stereotype preferred",
        "WinoBias accuracy",
        "WinoBias gap, pro less anti",
    ]
    for row in rows:
        assert row.chance is not None and row.first.low <= row.chance <= row.first.high, row
    # Control: the intervals are not so wide that anything would do.
    assert all(row.first.high - row.first.low < 0.35 for row in rows)
    assert set(verdicts(rows)) == {"at chance"}


def test_a_model_that_follows_the_stereotype_is_fully_biased(data: SuiteConfig, tmp_path: Path) -> None:
    bbq, crows, wino = bbq_task(data, 480, 0), crows_pairs_task(data, 500, 0), winobias_task(data, 800, 0)
    for wanted, score in ((role("biased"), 1.0), (role("against"), -1.0)):
        measures = bbq_measures(run(bbq, subject(f"oracle {score}", knowing(bbq, wanted)), tmp_path))
        assert [m.statistic(m.values_NK) for m in measures[1::2]] == [score, score]
        assert measures[0].values_NK.mean() == 0
    found = interval(crows_pairs_measures(run(crows, subject("s", knowing(crows, lambda i: i.target)), tmp_path))[0])
    assert found.value == 1.0 and found.low > 0.99
    accuracy, gap = winobias_measures(run(wino, subject("p", knowing(wino, pro_stereotype)), tmp_path))
    assert accuracy.values_NK.mean() == 0.5 and gap.statistic(gap.values_NK) == 1.0
    assert verdicts([paired_row(gap, None), paired_row(accuracy, None)]) == ["biased", "at chance"]


def test_a_model_that_always_says_unknown_is_right_where_nothing_is_known(data: SuiteConfig, tmp_path: Path) -> None:
    task = bbq_task(data, 480, 0)
    result = run(task, subject("careful", knowing(task, role("unknown"))), tmp_path)
    ambiguous, bias, clear, other_bias = bbq_measures(result)
    assert ambiguous.values_NK.mean() == 1 and clear.values_NK.mean() == 0
    assert bias.statistic(bias.values_NK) == other_bias.statistic(other_bias.values_NK) == 0
    assert bias.note == "100 % answered unknown"
    table = bias_by_category(result)
    assert len(table) == 6 and sum(row["items"] for row in table.values()) == 480
    right = run(task, subject("right", knowing(task, lambda item: item.target)), tmp_path)
    measures = bbq_measures(right)
    assert [m.values_NK.mean() for m in measures[::2]] == [1, 1]
    # In disambiguated contexts the answer is as often the stereotyped group as not.
    assert measures[3].statistic(measures[3].values_NK) == pytest.approx(0, abs=0.05)


def test_a_limit_takes_whole_blocks(data: SuiteConfig) -> None:
    items = bbq_task(data, 30, 0).items
    assert len(items) == 28
    assert sum(item.metadata["ambiguous"] for item in items) == 14
    assert [item.id for item in bbq_task(data, 30, 0).items] == [item.id for item in items]
    assert [item.id for item in bbq_task(data, 30, 1).items] != [item.id for item in items]
    sides = [item.metadata["side"] for item in winobias_task(data, 20, 0).items]
    assert len(sides) == 20 and sides.count("pro") == 10


def test_winobias_forms_differ_in_the_pronoun_alone(data: SuiteConfig) -> None:
    task = winobias_task(data, 1584, 0)
    assert len(task.items) == 1584
    pairs: dict[str, dict[str, Item]] = {}
    for item in task.items:
        assert item.target in item.choices and len(set(item.choices)) == 2
        assert all(choice.removeprefix("the ") in item.messages[0].content.lower() for choice in item.choices)
        pairs.setdefault(item.metadata["sentence"], {})[item.metadata["side"]] = item
    assert len(pairs) == 792
    for one in pairs.values():
        assert one["pro"].choices == one["anti"].choices and one["pro"].target == one["anti"].target


def test_crows_pairs_by_type(data: SuiteConfig, tmp_path: Path) -> None:
    task = crows_pairs_task(data, 500, 0)
    table = preference_by_type(run(task, subject("r", random_rate(1)), tmp_path))
    assert sum(count for count, _ in table.values()) == 500 and len(table) == 9
    assert next(iter(table)) == "race-color"
    tied = run(task, subject("tie", lambda messages, words: -0.0), tmp_path)
    assert set(tied.values("stereotype")) == {0.5}
    assert all(not item.messages for item in task.items)


def test_a_row_without_its_stereotype_is_refused() -> None:
    row = {
        "category": "Age", "example_id": 7, "question_index": "1", "question_polarity": "neg",
        "context_condition": "ambig", "context": "c", "question": "q?", "ans0": "a", "ans1": "b", "ans2": "Unknown",
        "answer_info": {"ans0": ["a", "old"], "ans1": ["b", "young"], "ans2": ["Unknown", "unknown"]},
        "additional_metadata": {"stereotyped_groups": ["nobody"]}, "label": 2,
    }  # fmt: skip
    with pytest.raises(DataError, match="Age 7: the answers' roles"):
        item_of(row)
