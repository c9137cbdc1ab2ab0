"""``advise`` as a whole on scripted models whose right advice is known, on a tiny real one, and on bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from advise_worlds import ASKED, World, open_world, write_rows

import tunesmith.recipes.advise_tune as tuning
from tunesmith.config import build_config
from tunesmith.data.near import near_clusters
from tunesmith.errors import ConfigError, DataError
from tunesmith.evals.advise.conditions import question_of, requests_of
from tunesmith.models.adapters import add_adapter
from tunesmith.recipes.advise import describe, markdown, measure_all, run_advise, write_all
from tunesmith.recipes.advise_config import AdviseConfig
from tunesmith.recipes.advise_plan import Budget, Part
from tunesmith.recipes.advise_result import facts_of_advice
from tunesmith.recipes.advise_rows import load_rows, read_passages
from tunesmith.recipes.prepare import ADAPTER_NAME

BASE = {"name": "scripted", "digest": "0" * 64, "dtype": "none"}


def advise(world: World, folder: Path, **settings: Any) -> dict[str, Any]:
    config, rows, bench = open_world(world, folder, **settings)
    advised = measure_all(config, rows, bench, world.tune, None, say=lambda _: None)
    return facts_of_advice(config, advised, BASE)


def quality(facts: dict[str, Any]) -> dict[str, float]:
    return {row["name"]: row["quality"]["value"] for row in facts["conditions"]}


def test_a_model_that_only_reads_is_to_retrieve_and_follows_what_changes(tmp_path: Path) -> None:
    facts = advise(World(reads=True), tmp_path)
    assert facts["decision"]["choice"] == "retrieval, BM25 rows" and facts["decision"]["family"] == "retrieve"
    found = quality(facts)
    assert found["retrieval, BM25 rows"] > 0.6 > found["zero-shot"] == found["tuned"] == 0
    row = next(r for r in facts["conditions"] if r["name"] == "tuned")
    assert row["against_best"]["holm_p"] < 0.05 and row["setup_minutes"] > 30
    fresh = {r["name"]: r for r in facts["freshness"]["rows"]}
    assert fresh["retrieval, index of now"]["new"]["value"] == 1 and fresh["retrieval, index of now"]["follows"]
    # The controls: it said the old answers while the index did, and knows nothing by itself.
    assert fresh["retrieval, index of before"]["old"]["value"] == 1 and fresh["base alone"]["new"]["value"] == 0
    assert not facts["freshness"]["learnt"]


def test_a_model_that_only_learns_is_to_be_tuned_and_does_not_follow(tmp_path: Path) -> None:
    facts = advise(World(learns=True), tmp_path)
    assert facts["decision"]["choice"] == "tuned"
    assert quality(facts)["tuned"] > 0.6 > quality(facts)["retrieval, BM25 rows"] == 0
    fresh = {r["family"]: r for r in facts["freshness"]["rows"] if r["family"]}
    assert fresh["tune"]["old"]["value"] == 1 and fresh["tune"]["new"]["value"] == 0 and facts["freshness"]["learnt"]
    assert not any(row["follows"] for row in fresh.values())
    assert facts["sensitivity"]["facts change"][100][0.05] == ""
    # More rows know more animals: nested shares of them, never above all of them.
    curve = [point["tuned"]["value"] for point in facts["curve"]]
    assert [point["num_rows"] for point in facts["curve"]] == [9, 18, 36] and curve == sorted(curve) and curve[0] < 0.6
    assert facts["break_even"][0]["requests"] is None or facts["break_even"][0]["requests"] > 0


def test_a_model_that_only_needs_to_be_told_is_to_be_prompted(tmp_path: Path) -> None:
    facts = advise(World(obeys="Obey the table.", learns=True), tmp_path, prompts=["Obey the table."], curve=[])
    assert facts["decision"]["choice"] == "best prompt"
    chosen = next(row for row in facts["conditions"] if row["name"] == "best prompt")
    assert chosen["quality"]["value"] == 1 and "'your prompt 1'" in chosen["chosen"]
    assert facts["validation"]["your prompt 1"] == 1.0 and quality(facts)["zero-shot"] == 0


def test_where_both_work_the_number_of_requests_and_changing_facts_decide(tmp_path: Path) -> None:
    both = World(reads=True, learns=True)
    facts = advise(both, tmp_path, curve=[], margin=0.3)
    assert facts["decision"]["family"] == "retrieve", "tuning takes an hour here, retrieving none"
    for row in facts["sensitivity"]["facts change"].values():
        assert all(name.startswith(("retrieval", "tuned + retrieval")) for name in row.values())


def test_all_conditions_answer_the_same_items_which_were_neither_shown_nor_learnt(tmp_path: Path) -> None:
    world = World(reads=True, learns=True)
    config, rows, bench = open_world(world, tmp_path)
    advised = measure_all(config, rows, bench, world.tune, None, say=lambda _: None)
    held_out = {question_of(item) for item in rows.test}
    assert len(held_out) == len(rows.test) >= 8
    for measured in advised.measured:
        assert [answer.item for answer in measured.result.answers] == list(rows.test)
        for request in requests_of(measured.condition.solver, rows.test):
            shown = [message.content for message in request.messages[:-1]]
            assert not any(question in text for question in held_out for text in shown)
    learnt = {question_of(item) for taught in world.memory.values() for item in taught}
    chosen_on = {question_of(item) for item in rows.validation}
    assert not learnt & held_out and not chosen_on & held_out and not learnt & chosen_on


def test_a_second_call_asks_nothing_again_and_says_the_same(tmp_path: Path) -> None:
    first = World(reads=True)
    before = advise(first, tmp_path)
    again = World(reads=True)
    after = advise(again, tmp_path)
    # Only the probe of the machine is measured anew: three times eight rows.
    assert len(first.asked) > 150 and len(again.asked) == 24
    assert quality(after) == quality(before)
    assert [row["ms"] for row in after["conditions"]] == [row["ms"] for row in before["conditions"]]


def test_the_page_the_markdown_and_json_tell_the_same(tmp_path: Path) -> None:
    facts = advise(World(reads=True), tmp_path)
    out = tmp_path / "out"
    write_all(out, facts)
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    # Keys of the rows' answers are names of metrics and stand in the note.
    facts["answers"]["note"] += " <img src=x>"
    pictures = {name: out / f"{name}.png" for name in ("quality", "cost", "curve", "freshness")}
    assert r"\<img" in markdown(facts, pictures) and not re.search(r"(?<!\\)<img", markdown(facts, pictures))
    told = json.loads((out / "advise.json").read_text())
    assert told["decision"] == facts["decision"] and told["conditions"] == facts["conditions"]
    for said in (facts["decision"]["verdict"], facts["answers"]["note"][1:40], "index of now", "Holm"):
        assert said in page and said in text
    assert page.count("<img") == 4 and all((out / f"{name}.png").stat().st_size > 5000 for name in ("quality", "curve"))
    lines = describe(build_config(AdviseConfig, {"task": "x", "output_dir": str(out)}, place="t"), facts)
    assert any(line.startswith("ADVICE  Retrieve") for line in lines)


def test_minutes_that_are_short_leave_parts_out_and_say_so() -> None:
    now = [0.0]
    parts = [
        Part(name="prompts", seconds=60, tokens=1, core=True),
        Part(name="extra", seconds=120, tokens=1, core=False),
        Part(name="tuning", seconds=60, tokens=1, core=True),
    ]
    budget = Budget(parts={part.name: part for part in parts}, max_minutes=5, clock=lambda: now[0])
    assert budget.allows("prompts")
    now[0] = 60
    assert budget.allows("extra") and budget.left_out == []
    slow = Budget(parts=budget.parts, max_minutes=5, clock=lambda: now[0])
    assert slow.allows("prompts")
    # Twice as slow as estimated: 120 s gone, extra would take 240 and tuning 120 more.
    now[0] = 180
    assert not slow.allows("extra") and "extra: needs about 4.0 minutes, 3.0 were left" in slow.left_out[0]
    assert slow.allows("tuning"), "the core is never left out"


def test_a_core_that_cannot_fit_is_refused_before_anything_is_asked_in_earnest(tmp_path: Path) -> None:
    world = World(reads=True)
    config, rows, bench = open_world(world, tmp_path, max_minutes=1e-9)
    with pytest.raises(ConfigError, match=r"max_minutes.*Lower --limit"):
        measure_all(config, rows, bench, world.tune, None, say=lambda _: None)
    assert not world.tuned_on and not bench.results.exists()


def test_near_copies_never_stand_on_two_sides(tmp_path: Path) -> None:
    texts = ["the red fox ran over the hill at noon today", "the red fox ran over the hill at noon", "another one"]
    assert near_clusters([*texts, texts[0]], 0.8).tolist() == [1, 1, 0, 1]
    assert len(set(near_clusters(texts, 0.95).tolist())) == 3
    base = write_rows(tmp_path / "rows.jsonl").read_text().splitlines()
    said = "please tell me without any further delay and in one word:"
    rows = [json.dumps({"input": f"{said} {json.loads(row)['input']}", "output": "x"}) for row in base[:1] * 9]
    copies = [json.dumps({"input": json.loads(r)["input"] + f" {i}", "output": "x"}) for i, r in enumerate(rows)]
    for seed in range(4):
        (tmp_path / "all.jsonl").write_text("\n".join(base + copies) + "\n")
        split = load_rows(AdviseConfig(task=str(tmp_path / "all.jsonl"), seed=seed))
        sides = [
            side for side in (split.train, split.validation, split.test) if any(said in question_of(i) for i in side)
        ]
        assert len(sides) == 1 and split.num_leaks == 0
    # Files of the user's: training rows that the test file repeats are left out, and counted.
    (tmp_path / "test.jsonl").write_text("\n".join(base[:12]) + "\n")
    (tmp_path / "valid.jsonl").write_text("\n".join(base[12:18]) + "\n")
    files = {"validation": str(tmp_path / "valid.jsonl"), "test": str(tmp_path / "test.jsonl")}
    split = load_rows(AdviseConfig(task=str(tmp_path / "rows.jsonl"), **files))
    assert split.num_leaks == 18 and len(split.train) == len(base) - 18 and "18 training rows" in split.notes()[1]
    # Nothing is chosen on near copies of test questions either, and every test row stays.
    near = [json.dumps({"input": f"{said} one {i}", "output": "x"}) for i in range(2)]
    (tmp_path / "test.jsonl").write_text("\n".join([*base[:12], near[0]]) + "\n")
    (tmp_path / "valid.jsonl").write_text("\n".join([*base[12:18], base[0], near[1]]) + "\n")
    split = load_rows(AdviseConfig(task=str(tmp_path / "rows.jsonl"), **files))
    assert len(split.test) == 13 and len(split.validation) == 6 and split.num_not_chosen_on == 2
    assert "2 validation rows were left out" in split.notes()[-1]


def test_limits_are_samples_not_beginnings(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl")
    all_rows, some = (load_rows(AdviseConfig(task=str(path), limit=limit)) for limit in (None, 10))
    assert some.train == all_rows.train[:10] and some.test == all_rows.test
    assert [i.id for i in some.train] != sorted((i.id for i in some.train), key=lambda name: int(name[6:]))
    assert load_rows(AdviseConfig(task=str(path), seed=1)).test != all_rows.test


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": "no question"}] * 30, "raw text has no question"),
        ([{"input": "a", "output": "b"}] * 30, "different rows|too few to split"),
        ([{"input": f"q{i}", "output": "b"} for i in range(9)], "rows are left"),
        ([{"input": "q"}] * 30, "fit no known shape"),
    ],
)
def test_rows_that_cannot_be_advised_on_are_refused(tmp_path: Path, rows: list[dict[str, str]], says: str) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises((DataError, ConfigError), match=says):
        load_rows(AdviseConfig(task=str(tmp_path / "rows.jsonl")))


def test_documents_become_passages(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("one two three\n\nfour five\n\n" + " ".join(f"w{i}" for i in range(25)))
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "one two three four five"}) + "\n")
    assert read_passages([str(tmp_path / "a.md")], 10) == [
        "one two three four five",
        *(" ".join(f"w{i}" for i in range(first, min(first + 10, 25))) for first in (0, 10, 20)),
    ]
    with pytest.raises(DataError, match="no passage that is not there already"):
        read_passages([str(tmp_path / "a.md"), str(tmp_path / "b.jsonl")], 10)
    with pytest.raises(DataError, match="no such file"):
        read_passages([str(tmp_path / "c.txt")], 10)


@pytest.mark.slow
def test_on_a_tiny_model_adapters_are_trained_once_and_the_base_is_left_alone(
    tmp_path: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"input": f"{'ab'[i % 2]} {i * 37 % 100}", "output": ("yes", "no")[i % 2]} for i in range(80)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "task": str(tmp_path / "rows.jsonl"), "model_name_or_path": str(model_folder("llama")), "dtype": "float32",
        "output_dir": str(tmp_path / "out"), "dense": False, "freshness": False, "curve": [0.5], "shots": [1],
        "retrieved": [1], "limit": 16, "test_limit": 8, "validation_limit": 4, "timed_requests": 1,
        "adapter": {"r": 4}, "learning_rate": 2e-2, "num_train_epochs": 6,
    }  # fmt: skip
    config = build_config(AdviseConfig, settings, place="test")
    said: list[str] = []
    facts = run_advise(config, said.append)
    assert len(facts["conditions"]) >= 5 and facts["answers"]["kind"] == "label"
    assert len(list((tmp_path / "out" / "adapters").iterdir())) == 2

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(tuning, "train", refuse)
    again = run_advise(config, said.append)
    assert quality(again) == quality(facts) and again["curve"] == facts["curve"]
    assert [row["setup_tokens"] for row in again["conditions"]] == [row["setup_tokens"] for row in facts["conditions"]]
    # Other settings are another adapter.
    other = config.model_copy(update={"learning_rate": 1e-2})
    with pytest.raises(AssertionError, match="trained again"):
        run_advise(other, said.append)

    def stopped(recipe: Any, base: Any) -> Any:
        add_adapter(base, ADAPTER_NAME, recipe.adapter, seed=0)
        return SimpleNamespace(interrupted=True)

    monkeypatch.setattr(tuning, "train", stopped)
    halted = run_advise(other, said.append)
    assert halted == {"interrupted": True, "output_dir": other.output_dir}
    assert "goes on where it was" in describe(other, halted)[0]


def test_the_minutes_of_tuning_are_those_of_training_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes: list[Any] = []

    def remember(recipe: Any, base: Any) -> Any:
        recipes.append(recipe)
        return SimpleNamespace(interrupted=False, num_tokens=1, initial_eval_loss=2.0, final_eval_loss=1.0, best_step=1)

    monkeypatch.setattr(tuning, "train", remember)
    for name in ("drop_adapter", "load_adapter"):
        monkeypatch.setattr(tuning, name, lambda *_: None)
    config = AdviseConfig(task=str(write_rows(tmp_path / "rows.jsonl")), output_dir=str(tmp_path / "out"))
    rows = load_rows(config)
    resolved = SimpleNamespace(name="scripted", base_digest="0", template_digest="0")
    base: Any = SimpleNamespace(resolved=resolved, digest="0", dtype="none")
    tuning.tune(base, "tuned", rows.train, rows.validation, config, epochs=1)
    # The look at what tuning broke would be booked as training, and asked anew of every adapter.
    assert [recipe.after_training for recipe in recipes] == ["off"]


def test_the_wordings_of_the_scripted_rows_are_no_near_copies() -> None:
    texts = [wording.format("heron") for wording in ASKED]
    assert len(set(near_clusters(texts, 0.8).tolist())) == len(texts)
