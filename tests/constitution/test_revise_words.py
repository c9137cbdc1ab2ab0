"""What is garbage and what only looks like it, critics in vain, and what a run is said to read before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from revise_worlds import RuleWriter, constitution, principle, question, run
from test_revise_loop import kindly

from tunesmith.constitution.asking import Asker, Voice
from tunesmith.constitution.critic import RandomCritic
from tunesmith.constitution.principles import Demonstration
from tunesmith.constitution.revise import Speakers
from tunesmith.constitution.wording import bare_answer
from tunesmith.errors import EndpointError
from tunesmith.recipes.constitution_config import ReviseConfig
from tunesmith.recipes.constitution_estimate import estimate
from tunesmith.records import Message
from tunesmith.rollout.results import ResultsFile


def test_critiques_in_vain_are_counted_over_all_steps(tmp_path: Path) -> None:
    """Few prompts and many principles: no single step has as many critiques as the critic is given."""
    writer = RuleWriter(lambda kind, asked: "No idea." if kind in ("critique", "verdict") else "Yes, 1 2 3.")
    two, rules = [question("One?"), question("Two?")], [principle(f"rule-{i}") for i in range(9)]
    with pytest.raises(EndpointError, match="first 5 critiques hold no verdict"):
        run(tmp_path, writer, questions=two, principles=rules, give_up_after=5)
    assert sum(kind in ("critique", "verdict") for kind, _ in writer.asked) == 5 * 2


def test_an_echo_of_all_that_was_asked_is_told_though_it_quotes(tmp_path: Path) -> None:
    """A request in which words stand for placeholders, and one behind a quotation: neither is the rule's own text."""
    rule = principle(
        critique_request="Say what in {answer} breaks the rule: {principle}",
        revision_request="Write the answer once more, and keep this: {principle}",
    )
    for echoed, outcome in (("critique", "critique echo of the request"), ("revision", "revision echo of the request")):
        writer = RuleWriter(
            lambda kind, asked, echoed=echoed: asked.messages[-1].content if kind == echoed else kindly(kind, asked)
        )
        (chain,) = run(tmp_path / echoed, writer, principles=[rule], num_rounds=1)
        assert chain.last.outcome == outcome and not chain.was_revised


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("New York has three airports: JFK, LaGuardia and Newark.", None),
        ("The new rules: be kind.", None),
        ("My new favourites: pasta and rice.", None),
        ("Revision of a contract takes two steps: read it, change it.", None),
        ("Revised answer:", None),
        ("Revised answer: I cannot.", "I cannot."),
        ("Here is the revised version of my answer:\n\nHello.", "Hello."),
        ("**Improved reply:** Hello.", "Hello."),
        ("Revision: Hello.", "Hello."),
    ],
)
def test_an_answer_is_freed_of_what_announces_it_and_of_nothing_else(text: str, kept: str | None) -> None:
    assert bare_answer(text) == (kept or text)


def test_an_estimate_counts_what_a_reviser_is_shown(tmp_path: Path) -> None:
    """A house that counts turns: the question itself, and two for each demonstration of the category."""

    class House:
        def count(self, voice: Voice, messages: Sequence[Message]) -> int:
            return len(messages)

    def bad(name: str) -> Demonstration:
        return Demonstration(prompt=f"{name}?", answer="Bad.", critique="Yes.", revision=f"Good {name}.")

    rules = [principle("own", examples=[bad("a")]), principle("kin", examples=[bad("b")])]
    voice = Voice(writer=RuleWriter(kindly))
    config = ReviseConfig(prompts="p", output_dir="o", num_rounds=1, revision="shown")
    told = estimate(
        config, [question()], constitution(*rules), [], Speakers(answers=voice, critic=RandomCritic(), revises=voice),
        config.revise_settings(small=True), House(), Asker(ResultsFile(tmp_path / "r.jsonl")),  # type: ignore[arg-type]
    )  # fmt: skip
    assert told.read_tokens == 1 + (2 + 2 + 1) and told.requests == 2
