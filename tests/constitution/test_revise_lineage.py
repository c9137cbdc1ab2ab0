"""The audit log's promises, whatever writers say: a whole chain to every row, nothing twice, nothing loose."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from revise_worlds import RuleLikelihood, RuleWriter, constitution, critic_of, principle, question, run

from tunesmith.constitution.audit import counts_of, critic_rows, sft_rows, step_row
from tunesmith.constitution.revise import GOOD, REVISED, STOPS, Chain, with_id
from tunesmith.randomness import generator
from tunesmith.records import Message, Revision, Where
from tunesmith.rollout.writer import Asked

# Every kind of ending: good words, the same again, nothing, an echo, cut off, withheld, no verdict.
SAID: dict[str, list[Any]] = {
    "answer": ["A one.", "B two.", "", ("C three. And so on without e", "length")],
    "critique": ["Bad. [[fault]]", "Good. [[no fault]]", "Hm.", "", ("", "content_filter")],
    "verdict": ["[[fault]]", "Hm."],
    "revision": ["A one.", "B two.", "D four. [x]", " ", "What is he like 0?", ("E five", "length")],
}
PRINCIPLES = [principle("a"), principle("b", category="other")]


def drawn_chains(seed: int, *, likelihood: bool, num_rounds: int) -> list[Chain]:
    def say(kind: str, asked: Asked) -> Any:
        rng = generator(seed, kind, asked.row_id, json.dumps([turn.content for turn in asked.messages]))
        return SAID[kind][int(rng.integers(len(SAID[kind])))]

    def odds(text: str) -> float:
        return float(generator(seed, "odds", text).normal())

    writer = RuleWriter(say)
    likes = RuleLikelihood(odds) if likelihood else None
    questions = [question(f"What is he like {i}?", harmless=i % 2 == 1) for i in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), writer, critic_of(writer, likes), questions, PRINCIPLES, num_rounds=num_rounds)


def check_log(rows: Sequence[dict[str, Any]], sft: Sequence[dict[str, Any]]) -> None:
    """What anybody can check who has the two files alone."""
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == len(rows), "an id twice"
    chains: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        chains.setdefault(row["prompt_id"], []).append(row)
    for chain in chains.values():
        assert [row["step"] for row in chain] == list(range(len(chain)))
        assert (chain[0]["parent"], chain[0]["before"]) == ("", "")
        for earlier, later in pairwise(chain):
            assert later["parent"] == earlier["id"] and later["before"] == earlier["after"]
            assert later["round"] >= earlier["round"] and later["constitution"] == earlier["constitution"]
            assert (later["after"] == later["before"]) == (later["outcome"] != "revised")
            assert (later["who"] == earlier["who"]) or later["outcome"] == "revised"
        assert [bool(row["stopped"]) for row in chain] == [False] * (len(chain) - 1) + [True]
        assert chain[-1]["stopped"] in STOPS
    ends = {chain[-1]["id"]: chain[-1] for chain in chains.values()}
    for row in sft:
        last = ends.pop(row["provenance"]["step"])
        assert row["messages"] == [*last["prompt"], {"role": "assistant", "content": last["after"]}]
        assert last["after"].strip()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**40), st.booleans(), st.integers(1, 3))
def test_every_row_has_a_whole_chain(seed: int, likelihood: bool, num_rounds: int) -> None:
    chains = drawn_chains(seed, likelihood=likelihood, num_rounds=num_rounds)
    steps = [one for chain in chains for one in chain.steps]
    rows, sft = [step_row(one) for one in steps], sft_rows(chains)
    check_log(json.loads(json.dumps(rows)), sft)
    assert all(with_id(one).id == one.id for one in steps), "an id is the digest of what its step says"
    # Rows: every revised answer, and the harmless prompts' own ones.
    ended = {chain.question.id for chain in chains if chain.last.after}
    revised = {chain.question.id for chain in chains if chain.was_revised}
    harmless = {chain.question.id for chain in chains if chain.question.harmless}
    assert {row["provenance"]["prompt_id"] for row in sft} == (revised | harmless) & ended
    assert {row["provenance"]["prompt_id"] for row in sft_rows(chains, keep_unrevised=True)} == ended

    counts = counts_of(chains, constitution(*PRINCIPLES))
    assert sum(counts["stops"].values()) == len(chains) == counts["prompts"] + counts["harmless_prompts"]
    held = [one for one in steps if one.critique is not None]
    for what, number in {
        "sampled": len(held),
        "fired": sum(one.critique is not None and bool(one.critique.found) for one in held),
        "changed": sum(one.outcome == REVISED for one in held),
        "garbage": sum(one.outcome not in GOOD for one in held),
    }.items():
        for by in ("principles", "categories"):
            assert sum(one[what] for one in counts[by].values()) == number
    assert sum(one["number"] for one in counts["garbage"].values()) == sum(one.outcome not in GOOD for one in steps)
    for row in critic_rows(chains, constitution(*PRINCIPLES), "quoted", "opening" if likelihood else "marked"):
        last = row["messages"][-1]
        assert row["provenance"]["constitution"] == constitution(*PRINCIPLES).digest
        critique = next(one.critique for one in steps if one.id == row["provenance"]["step"])
        assert critique and last["role"] == "assistant" and "train" not in last
        fault = last["content"].startswith("Yes") if likelihood else "[[fault]]" in last["content"]
        assert fault == critique.found


def test_controls_a_log_with_a_hole_or_a_changed_word_is_noticed() -> None:
    chains = next(
        made
        for made in (drawn_chains(seed, likelihood=True, num_rounds=3) for seed in range(99))
        if any(sum(one.outcome == REVISED for one in chain.steps) > 1 for chain in made)
    )
    rows = [step_row(one) for chain in chains for one in chain.steps]
    sft = sft_rows(chains)
    check_log(rows, sft)
    place = next(i for i, row in enumerate(rows) if row["outcome"] == "revised")
    for broken in (
        rows[:place] + rows[place + 1 :],
        [{**row, "after": "something else"} if i == place else row for i, row in enumerate(rows)],
        [*rows, rows[-1]],
    ):
        with pytest.raises((AssertionError, KeyError)):
            check_log(broken, sft)
    with pytest.raises((AssertionError, KeyError)):
        check_log(rows, [{**sft[0], "messages": [*sft[0]["messages"][:-1], {"role": "assistant", "content": "x"}]}])


def test_the_same_answer_is_not_put_to_the_same_principle_twice(tmp_path: Path) -> None:
    """A revision that failed leaves the answer as it was; what was said of it is known, and its draw is the same."""

    def say(kind: str, asked: Asked) -> str:
        return {"answer": "A one.", "critique": "Bad. [[fault]]", "revision": ""}[kind]

    writer = RuleWriter(say)
    (chain,) = run(tmp_path, writer, num_rounds=3)
    assert [one.outcome for one in chain.steps[1:]] == ["revision empty"] * 3
    assert [kind for kind, _ in writer.asked] == ["answer", "critique", "revision", "revision"]
    assert len({one.id for one in chain.steps}) == 4


def test_a_critics_row_holds_its_words_whatever_the_way(tmp_path: Path) -> None:
    def say(kind: str, asked: Asked) -> str:
        return {"answer": "A one.", "critique": "It is cold.", "revision": "B two."}[kind]

    writer, likes = RuleWriter(say), RuleLikelihood(lambda text: 1.0 if "A one" in text else -1.0)
    for way in ("opening", "question", "behind"):
        chains = run(tmp_path / way, writer, critic_of(writer, likes, verdict=way))
        rows = critic_rows(chains, constitution(), "quoted", way)
        said = [
            [turn["content"] for turn in row["messages"] if turn.get("train", turn["role"] == "assistant")]
            for row in rows
        ]
        fine = "The answer keeps to the rule."
        assert (
            said
            == {
                "opening": [["Yes. It is cold."], [f"No. {fine}"]],
                "question": [["Yes"], ["No"]],
                "behind": [["It is cold.", "Yes"], ["It is cold.", "No"]],
            }[way]
        )


@pytest.mark.parametrize(
    "other", [{"who": "b"}, {"after": "c"}, {"parent": "d"}, {"constitution": "e"}, {"outcome": "f"}, {"round": 2}]
)
def test_an_id_depends_on_all_that_a_step_says(other: dict[str, Any]) -> None:
    step = Revision(
        id="", parent="", prompt_id="p", where=Where("x"), round=1, step=1,
        prompt=(Message(role="user", content="q"),), before="", critique=None, after="a", outcome="answered",
        who="a", constitution="k", stopped="",
    )  # fmt: skip
    assert with_id(step).id != with_id(replace(step, **other)).id
    assert with_id(step).id == with_id(replace(step, stopped="all rounds")).id
