"""A critic's thresholds from the demonstrations, and words that deny their verdict."""

from __future__ import annotations

from pathlib import Path

import pytest
from revise_worlds import RuleLikelihood, RuleWriter, constitution, critic_of, principle, question, run

from tunesmith.constitution.asking import Asker
from tunesmith.constitution.audit import critic_rows
from tunesmith.constitution.principles import Demonstration
from tunesmith.constitution.threshold import demonstrated_thresholds, num_judged
from tunesmith.recipes.constitution_config import ReviseConfig
from tunesmith.recipes.constitution_revise import to_weigh
from tunesmith.rollout.results import ResultsFile


def shown(answer: str, *, fault: bool = True) -> Demonstration:
    return Demonstration(prompt="Who?", answer=answer, critique="Said.", revision="Good." if fault else "", fault=fault)


def last_answer(text: str) -> str:
    return text.rpartition("Answer: ")[2].partition("\n")[0]


def test_a_threshold_lies_halfway_between_the_demonstrations_each_judged_without_itself(tmp_path: Path) -> None:
    odds = {"bad": -1.0, "worse": -2.0, "fine": -4.5}
    seen = list[str]()

    def likes(text: str) -> float:
        seen.append(text)
        return odds[last_answer(text)]

    both = principle("both", examples=[shown("bad"), shown("fine", fault=False), shown("worse")])
    one_sided = principle("one-sided", examples=[shown("bad")])
    critic = critic_of(RuleWriter(lambda kind, asked: "x"), RuleLikelihood(likes), threshold=7.0)
    asker = Asker(ResultsFile(tmp_path / "requests.jsonl"))
    assert demonstrated_thresholds(critic, [both, one_sided], asker) == {"both": pytest.approx((-1.5 - 4.5) / 2)}
    assert num_judged([both, one_sided]) == 3 == len(seen)
    for text in seen:
        assert text.count(f"Answer: {last_answer(text)}\n") == 1, "not shown what is asked of it"
        assert text.count("Answer: ") == 3


def test_only_principles_that_an_answer_is_held_against_are_weighed() -> None:
    bad, good = principle("bad"), principle("good")
    critic = critic_of(RuleWriter(lambda kind, asked: "x"), RuleLikelihood(lambda text: 0.0))
    questions, drawn = [question("Bad?"), question("Good?", harmless=True)], [(bad,), (good,)]
    for criticised, weighed in ((True, [bad, good]), (False, [bad])):
        config = ReviseConfig(prompts="p", output_dir="o", criticise_harmless=criticised)
        assert to_weigh(config, critic, constitution(bad, good), questions, lambda i, *_: drawn[i]) == weighed


def test_words_that_deny_their_verdict_neither_teach_nor_lead_the_reviser(tmp_path: Path) -> None:
    told = {"answer": "A one.", "critique": "No, all is well.", "revision": "B two."}
    writer, likes = (
        RuleWriter(lambda kind, asked: told[kind]),
        RuleLikelihood(lambda text: 1.0 if "A one" in text else -1),
    )
    chains = run(tmp_path, writer, critic_of(writer, likes))
    assert chains[0].was_revised and chains[0].steps[1].critique.text == "No, all is well."
    revision = next(asked for kind, asked in writer.asked if kind == "revision")
    assert revision.messages[-2].content == "Be kind."
    rows = critic_rows(chains, constitution(), "quoted", "opening")
    assert [row["messages"][-1]["content"] for row in rows] == ["No. The answer keeps to the rule."]
