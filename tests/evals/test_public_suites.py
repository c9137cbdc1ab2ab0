"""The public suites on their real rows: an oracle scores 1, blind guessing at chance, parts apart, faults named.

The rows are those of ../shared/data; where that is absent the tests skip.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SHARED, shared_data
from tests.evals.suite_models import Rule, oracle, replies_by, values_by
from tunesmith.errors import ConfigError, DataError
from tunesmith.evals.asking import divide, question
from tunesmith.evals.choice import gold_places
from tunesmith.evals.suite import DATA_VARIABLE, SuiteConfig
from tunesmith.evals.suites.catalogue import SUITES, find_suite
from tunesmith.evals.suites.gsm8k import gold_number
from tunesmith.evals.suites.texts import dialogue
from tunesmith.evals.task import Item, Task
from tunesmith.randomness import generator
from tunesmith.records import Where

CHOICE = sorted(name for name, suite in SUITES.items() if suite.answers == "choice")
# Of one value in 15,000 the distance to the mean is larger, were it normal.
STANDARD_ERRORS = 4.0
# Answers drawn for a metric: so many models as the suite's items need.
NUM_DRAWS = 600


@functools.cache
def built(name: str, **settings: object) -> Task:
    shared_data("gsm8k/test.jsonl")
    return SUITES[name].build(SuiteConfig(data_dir=str(SHARED), **settings))  # type: ignore[arg-type]


def lengths_in(unit: str, item: Item) -> list[int]:
    return [len(choice if unit == "characters" else choice.encode()) for choice in item.choices]


def random_model(seed: int, unit: str = "") -> Rule:
    """Log-likelihoods drawn anew for every choice; with a unit, nats a character or byte are drawn."""
    rng = np.random.default_rng(seed)

    def rule(item: Item) -> Sequence[float]:
        rates = -rng.exponential(1.0, len(item.choices))
        return rates * np.array(lengths_in(unit, item) if unit else 1.0)

    return rule


@pytest.mark.parametrize("name", CHOICE)
def test_blind_guessing_scores_at_chance_and_an_oracle_1(name: str) -> None:
    task = built(name, limit=150)
    assert list(values_by(oracle, task).values()) == pytest.approx([1.0] * len(task.metrics), abs=1e-5)
    assert task.chance.keys() == set(task.metrics)
    num_models = math.ceil(NUM_DRAWS / len(task.items))
    for unit, judged in (("", task.metrics), ("characters", ("acc_norm",)), ("bytes", ("acc_bytes",))):
        models = [values_by(random_model(seed, unit), task) for seed in range(num_models)]
        for metric in (name for name in judged if name in task.metrics and (unit or "acc_" not in name)):
            mean, chance = float(np.mean([values[metric] for values in models])), task.chance[metric]
            # Values lie in [0, 1]: chance (1 - chance) bounds the variance of one, whatever the choices are.
            allowed = STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / (num_models * len(task.items)))
            assert abs(mean - chance) < allowed < 0.1, (metric, mean, chance, allowed)


def test_the_control_notices_a_model_that_is_no_guesser() -> None:
    task = built("true_false_facts")

    def leaning(item: Item) -> Sequence[float]:
        values = generator(0, "leaning", item.id).exponential(1.0, len(item.choices))
        return -values + 0.5 * np.isin(np.arange(len(values)), gold_places(item))

    assert len(task.items) < NUM_DRAWS
    assert values_by(leaning, task)["acc"] > 0.5 + STANDARD_ERRORS * math.sqrt(0.25 / len(task.items))


@pytest.mark.parametrize("name", CHOICE)
def test_a_model_that_prefers_nothing_scores_exactly_at_chance(name: str) -> None:
    task = built(name, limit=100)
    values = values_by(lambda item: [-5.0] * len(item.choices), task)
    by_character = values_by(lambda item: [-float(n) for n in lengths_in("characters", item)], task)
    for metric in set(task.metrics) - {"acc_norm", "acc_bytes"}:
        assert values[metric] == pytest.approx(task.chance[metric], abs=1e-9), metric
    if "acc_norm" in task.metrics:
        assert by_character["acc_norm"] == pytest.approx(task.chance["acc_norm"], abs=1e-9)


def test_e2e_has_every_humans_sentence() -> None:
    assert all(item.metadata["references"][0] == item.target for item in built("e2e").items)
    assert max(len(item.metadata["references"]) for item in built("e2e").items) > 5


@pytest.mark.parametrize("name", ["gsm8k", "bbh", "support_desk", "jargon"])
def test_the_gold_passes_its_own_scorer_and_silence_does_not(name: str) -> None:
    task = built(name, limit=8)
    headline = SUITES[name].headline
    assert values_by(lambda item: [], task)[headline] == pytest.approx(1.0)
    (reply, *_) = replies_by(lambda item: [], task)
    silent = type(reply)(request=reply.request, text="")
    assert task.scorer(reply.request.item, silent).values[headline] == 0.0


@pytest.mark.parametrize("name", sorted(SUITES))
def test_parts_are_apart_and_a_suite_says_what_it_is(name: str) -> None:
    suite, test, validation = SUITES[name], built(name), built(name, split="validation")
    assert suite.name == name and min(map(len, (suite.source, suite.licence, suite.about))) > 2
    assert suite.headline in test.metrics
    said = [{(item.messages, item.target) for item in task.items} for task in (test, validation)]
    assert said[0] and said[1] and not said[0] & said[1]
    assert (test.version, test.name) == (suite.version, name)
    again = built(name, seed=3)
    assert {item.id for item in again.items} == {item.id for item in test.items}, "the seed moves no row's part"
    assert [item.id for item in again.items] != [item.id for item in test.items]


def test_shots_come_from_the_examples_of_the_same_task() -> None:
    task = built("bbh", limit=12)
    told = {item.messages[-1].content for part in ("test", "validation") for item in built("bbh", split=part).items}
    for reply in replies_by(lambda item: [], task):
        shown = [message.content for message in reply.request.messages[:-1] if message.role == "user"]
        instruction = reply.request.item.messages[0].content.splitlines()[0]
        assert len(shown) == 3 and not set(shown) & told
        assert all(text.splitlines()[0] == instruction for text in shown)
    with pytest.raises(ConfigError, match="6 are more than the 5 examples"):
        built("bbh", shots=6)


def test_a_set_is_divided_within_each_task_whatever_its_order() -> None:
    items = [question("t", f"q{i}", "a", task="abc"[i % 3]) for i in range(60)]
    parts = divide("t", items, num_examples=2, by="task")
    assert [len(part) for part in (parts.examples, parts.validation, parts.test)] == [6, 12, 42]
    again = divide("t", items[::-1], num_examples=2, by="task")
    for one, other in ((parts.examples, again.examples), (parts.validation, again.validation)):
        assert {item.id for item in one} == {item.id for item in other}


def test_items_of_one_group_stay_together() -> None:
    items = [replace(question("t", f"q{i}", "a"), group=str(i // 5)) for i in range(100)]
    parts = divide("t", items, num_examples=7)
    groups = [{item.group for item in part} for part in (parts.examples, parts.validation, parts.test)]
    assert all(groups) and not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("1+1=2\n#### 2", "2"),
        ("so\n#### 1,234,567", "1234567"),
        ("#### 9\nno\n#### -12.50 ", "-12.50"),
        ("x\n####7\n", "7"),
        ("x\n#### 7\nafter", None),
        ("x\n#### 12,34", None),
        ("x\n#### seven", None),
        ("7", None),
    ],
)
def test_gsm8ks_gold_is_the_number_on_the_last_line(answer: str, number: str | None) -> None:
    if number is not None:
        assert gold_number(answer, Where("f", 3)) == number
        return
    with pytest.raises(DataError, match=r"f:3:answer: no gold number"):
        gold_number(answer, Where("f", 3))


def test_every_gsm8k_row_has_its_gold() -> None:
    rows = [json.loads(line) for line in shared_data("gsm8k/test.jsonl").read_text().splitlines()]
    for row in rows:
        assert float(gold_number(row["answer"], Where("f"))) == float(row["answer"].split("####")[1].replace(",", ""))


def test_a_row_without_gold_is_named(tmp_path: Path) -> None:
    (tmp_path / "sms_spam").mkdir()
    rows = [{"label": "spam", "text": "win"}, {"label": None, "text": "hello"}]
    (tmp_path / "sms_spam/sms.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"sms.jsonl:2:label: the suite needs this field"):
        SUITES["sms_spam"].build(SuiteConfig(data_dir=str(tmp_path)))


def test_a_row_that_stands_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "true_false_facts").mkdir()
    rows = [{"statement": f"fact {i % 40}", "label": "1"} for i in range(80)]
    (tmp_path / "true_false_facts/facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"item true_false_facts-\w+: stands twice"):
        SUITES["true_false_facts"].build(SuiteConfig(data_dir=str(tmp_path)))


def test_missing_rows_say_where_they_are_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"boolq_train.jsonl: .*github.com/timoschick/fewglue.*data_dir"):
        SUITES["boolq"].build(SuiteConfig(data_dir=str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match=r"elsewhere/fewglue"):
        SUITES["boolq"].build(SuiteConfig())
    monkeypatch.delenv(DATA_VARIABLE)
    with pytest.raises(DataError, match="no folder with the suites' rows"):
        SUITES["boolq"].build(SuiteConfig())


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'gsm8k'"):
        find_suite("gsm8")
    with pytest.raises(ConfigError, match="rows:FILE"):
        find_suite("?")


def test_samples_are_for_written_answers() -> None:
    with pytest.raises(ConfigError, match="samples: its answers are not written"):
        built("copa", samples=2)


def test_dialogues_are_read_turn_by_turn() -> None:
    turns = dialogue("### Human: a ### Assistant: b\nc ### Human: d? ### Assistant:", Where("f", 1))
    assert [(turn.role, turn.content) for turn in turns] == [("user", "a"), ("assistant", "b\nc"), ("user", "d?")]
    for bad in ("", "### Human: a", "### Human: a ### Human: b ### Assistant:", "### Human: a ### Assistant: b"):
        with pytest.raises(DataError, match="f:1:input"):
            dialogue(bad, Where("f", 1))
