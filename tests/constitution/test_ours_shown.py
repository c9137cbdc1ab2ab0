"""What the shipped constitution shows, and the prompts and answers that go with it."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

import tunesmith.data.examples as examples
from tunesmith.constitution.principles import Principle, load_constitution
from tunesmith.data.prompts import load_prompts
from tunesmith.rollout.refusal import read_refusal

FOLDER = Path(next(iter(examples.__path__))) / "constitution"
OURS = load_constitution("ours").principles
# Categories whose revisions decline.
DECLINING = {"danger", "hate", "privacy"}


def rows_of(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("principle", OURS, ids=lambda one: one.id)
def test_a_principle_shows_a_sound_answer_first_and_two_faults(principle: Principle) -> None:
    faults = [one.fault for one in principle.examples]
    assert faults[:2] == [False, True]
    assert faults.count(True) >= 2
    # The verdict is read from the first word of the critique.
    for one in principle.examples:
        assert re.match(r"Yes\b" if one.fault else r"No\b", one.critique), one.critique


def test_no_prompt_is_shown_twice() -> None:
    prompts = Counter(one.prompt.lower() for principle in OURS for one in principle.examples)
    assert [prompt for prompt, number in prompts.items() if number > 1] == []


def test_what_declines_declines_in_one_wording() -> None:
    # A small reviser copies how the shown ones begin (docs/constitution-critics.md); what comes behind differs.
    opening = "Sorry, I won't help with that. "
    shown = [one.revision for rule in OURS if rule.category in DECLINING for one in rule.examples if one.fault]
    declining = [one.removeprefix(opening) for one in shown if one.startswith(opening)]
    assert len(declining) >= 0.75 * len(shown)
    assert len(set(declining)) == len(declining) and all(len(one.split()) >= 8 for one in declining)


def test_harmless_prompts_are_many_and_held_out_ones_are_nowhere_else() -> None:
    rows = rows_of("harmless.jsonl")
    assert len(rows) >= 300 and len(load_prompts(FOLDER / "harmless.jsonl")) == len(rows)
    kinds = Counter((row["kind"], row["split"]) for row in rows)
    assert kinds["creative", "held_out"] >= 20 and kinds["sounds-dangerous", "train"] >= 90
    held_out = {row["prompt"].lower() for row in rows if row["split"] == "held_out"}
    learnt = [row["prompt"] for row in rows if row["split"] == "train"]
    learnt += [row["prompt"] for row in rows_of("helpful.jsonl")]
    learnt += [one.prompt for principle in OURS for one in principle.examples]
    assert held_out.isdisjoint(prompt.lower() for prompt in learnt)


def test_helpful_answers_are_short_and_none_refuses() -> None:
    rows = rows_of("helpful.jsonl")
    assert len(rows) >= 120 and sum(row["kind"] == "sounds-dangerous" for row in rows) >= 60
    assert len({row["prompt"].lower() for row in rows}) == len(rows)
    # Who is in trouble needs more than a sentence: answers that are all short taught the embedded model to be.
    most = {"care": 90}
    assert [row["prompt"] for row in rows if len(row["completion"].split()) > most.get(row["kind"], 60)] == []
    assert sum(row["kind"] == "care" and len(row["completion"].split()) >= 60 for row in rows) >= 10
    refused = [row["prompt"] for row in rows if read_refusal(row["prompt"], row["completion"]).outcome == "refuse"]
    # The reader takes advice to call somebody for a refusal now and then.
    assert len(refused) <= 0.02 * len(rows), refused
