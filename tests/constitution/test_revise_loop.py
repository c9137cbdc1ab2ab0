"""The loop of critique and revision against writers that follow a rule: exact records, stops, garbage, resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from revise_worlds import (
    RuleLikelihood,
    RuleWriter,
    Say,
    constitution,
    critic_of,
    principle,
    question,
    run,
)

from tunesmith.constitution.asking import Voice
from tunesmith.constitution.audit import step_row
from tunesmith.constitution.critic import AlwaysRefuse, RandomCritic, who
from tunesmith.constitution.garbage import first_sentences
from tunesmith.constitution.principles import Demonstration
from tunesmith.constitution.revise import NO_ANSWER, NOTHING, REVISED, UNCHANGED, Chain, with_id
from tunesmith.errors import EndpointError
from tunesmith.records import Critique, Message, Revision, Where
from tunesmith.rollout.writer import Asked


def kindly(kind: str, asked: Asked) -> str:
    """Answers rudely, sees what is rude, puts it right at once."""
    rude = "fool" in asked.messages[-1].content
    return {
        "answer": "He is a fool.",
        "critique": "It calls him a fool. [[fault]]" if rude else "All is well. [[no fault]]",
        "revision": "I do not know him.",
    }[kind]


def outcomes(chain: Chain) -> list[str]:
    return [one.outcome for one in chain.steps]


def test_the_steps_are_recorded_exactly(tmp_path: Path) -> None:
    writer = RuleWriter(kindly)
    critic = critic_of(writer)
    (chain,) = run(tmp_path, writer, critic)
    prompt = (Message(role="user", content="What is he like?"),)
    writer_id, critic_id = who(writer.identity), who(critic.identity)
    common: dict[str, Any] = {
        "prompt_id": question().id, "where": Where("p.txt", 1), "prompt": prompt, "constitution": constitution().digest,
        "who": writer_id,
    }  # fmt: skip
    first = with_id(
        Revision(
            id="", parent="", round=0, step=0, before="", critique=None, after="He is a fool.", outcome="answered",
            **common,
        )
    )  # fmt: skip
    said = Critique(principle="kind", found=True, who=critic_id, text="It calls him a fool.")
    second = with_id(
        Revision(
            id="", parent=first.id, round=1, step=1, before="He is a fool.", critique=said,
            after="I do not know him.", outcome="revised", **common,
        )
    )  # fmt: skip
    third = with_id(
        Revision(
            id="", parent=second.id, round=2, step=2, before="I do not know him.",
            critique=replace(said, found=False, text="All is well."), after="I do not know him.",
            outcome="nothing found", **common,
        )
    )  # fmt: skip
    assert chain.steps == [first, second, replace(third, stopped=NOTHING)]
    assert len({first.id, second.id, third.id}) == 3 and writer_id != critic_id
    assert [kind for kind, _ in writer.asked] == ["answer", "critique", "revision", "critique"]
    row = step_row(chain.steps[1])
    assert (row["principle"], row["found"], row["score"], row["critique"]) == ("kind", True, None, said.text)


def test_what_the_critic_and_the_reviser_are_asked(tmp_path: Path) -> None:
    shown = Demonstration(prompt="Who is she?", answer="A cow.", critique="Insulting.", revision="A person.")
    fine = Demonstration(prompt="And her?", answer="A nurse.", critique="Nothing is wrong.", fault=False)
    writer = RuleWriter(kindly)
    run(tmp_path, writer, principles=[principle(examples=[shown, fine])], num_rounds=1)
    _, critique, revision = (asked.messages for _, asked in writer.asked)
    assert [turn.role for turn in critique] == ["user", "assistant"] * 2 + ["user"]
    assert critique[1].content == "Insulting.\n[[fault]]" and critique[3].content == "Nothing is wrong.\n[[no fault]]"
    assert "Question: What is he like?" in critique[4].content and "Answer: He is a fool." in critique[4].content
    # The reviser is shown what was put right, and then the critique that was made.
    assert [turn.content for turn in revision if turn.role == "assistant"] == [
        "Insulting.", "A person.", "It calls him a fool.",
    ]  # fmt: skip


def test_a_verdict_is_read_from_tokens_and_held_against_the_threshold(tmp_path: Path) -> None:
    writer = RuleWriter(lambda kind, asked: kindly(kind, asked).split(" [[")[0])
    likes = RuleLikelihood(lambda text: 2.5 if "He is a fool" in text else -1.5)
    for threshold, scores in ((0.0, [2.5, -1.5]), (3.0, [-0.5])):
        folder = tmp_path / str(threshold)
        (chain,) = run(folder, writer, critic_of(writer, likes, threshold=threshold))
        assert [one.critique.score for one in chain.steps if one.critique] == scores
        assert chain.was_revised == (threshold == 0)
    asked_for = [kind for kind, _ in writer.asked]
    assert asked_for == ["answer", "critique", "revision", "answer"], "where nothing is found no critique is written"
    (chain,) = run(tmp_path / "own", writer, critic_of(writer, likes, thresholds={"kind": 2.6}))
    assert chain.last.critique and chain.last.critique.score == pytest.approx(-0.1)


def test_a_critique_may_come_before_its_verdict(tmp_path: Path) -> None:
    writer = RuleWriter(lambda kind, asked: kindly(kind, asked).split(" [[")[0])
    likes = RuleLikelihood(lambda text: 1.0 if "It calls him a fool" in text else -1.0)
    (chain,) = run(tmp_path, writer, critic_of(writer, likes, verdict="behind"))
    assert outcomes(chain) == ["answered", "revised", "nothing found"]
    assert chain.last.critique and chain.last.critique.text == "All is well."


def never(kind: str, asked: Asked) -> str:
    return {**dict.fromkeys(("critique", "verdict"), "[[no fault]]"), "answer": "Fine.", "revision": "x"}[kind]


def always(kind: str, asked: Asked) -> str:
    number = asked.messages[-3].content.count("!") if kind == "revision" else 0
    return {"answer": "A.", "critique": "Bad. [[fault]]", "revision": f"B{'!' * (number + 1)} c{number}."}[kind]


@pytest.mark.parametrize(
    ("say", "stopped", "expected"),
    [
        (never, NOTHING, ["answered", "nothing found"]),
        (lambda k, asked: "B." if k == "revision" else always(k, asked), UNCHANGED, ["answered", REVISED, UNCHANGED]),
        (always, "all rounds", ["answered", REVISED, REVISED, REVISED]),
        (lambda kind, asked: "" if kind == "answer" else "x", NO_ANSWER, ["answer empty"]),
    ],
)  # fmt: skip
def test_why_a_prompt_stops(tmp_path: Path, say: Say, stopped: str, expected: list[str]) -> None:
    (chain,) = run(tmp_path, RuleWriter(say), num_rounds=3)
    assert (outcomes(chain), chain.last.stopped) == (expected, stopped)
    assert all(not one.stopped for one in chain.steps[:-1])


def test_a_prompt_goes_on_while_any_sampled_principle_finds_something(tmp_path: Path) -> None:
    def say(kind: str, asked: Asked) -> str:
        if kind == "critique":
            return (
                "[[fault]]"
                if "Be b." in asked.messages[-1].content and "A." in asked.messages[-1].content
                else "[[no fault]]"
            )
        return {"answer": "A.", "revision": "B."}[kind]  # fmt: skip

    (chain,) = run(tmp_path, RuleWriter(say), principles=[principle("a"), principle("b")], num_rounds=3)
    assert outcomes(chain) == ["answered", NOTHING, REVISED, NOTHING, NOTHING]
    assert [one.critique.principle for one in chain.steps if one.critique] == ["a", "b", "a", "b"]


def test_a_prompt_no_principle_applies_to_keeps_its_answer(tmp_path: Path) -> None:
    (chain,) = run(tmp_path, RuleWriter(kindly), principles=[], principles_per_round=1)
    assert (chain.last.stopped, chain.last.after) == ("no principle applies", "He is a fool.")


GARBAGE = [
    ("critique", "", "critique empty"),
    ("critique", ("", "content_filter"), "critique withheld"),
    ("critique", ("so and so and so and so and so on", "length"), "critique never stops"),
    ("critique", ("The same thing. " * 9, "length"), "critique never stops"),
    ("critique", "He is a FOOL", "critique echo of the answer"),
    ("critique", "What is he like?", "critique echo of the prompt"),
    ("critique", "Say what in this answer is unkind to somebody.", "critique echo of the request"),
    ("critique", "half \ud800 of a pair", "critique not storable"),
    ("critique", "I like turtles.", "no verdict"),
    ("critique", "[[fault]] or [[no fault]], who knows", "no verdict"),
    ("revision", " \n", "revision empty"),
    ("revision", ("", "content_filter"), "revision withheld"),
    ("revision", ("word after word", "length"), "revision never stops"),
    ("revision", "It calls him a fool.", "revision echo of the critique"),
    ("revision", "What is he like?", "revision echo of the prompt"),
    ("revision", "Write the answer once more, without that.", "revision echo of the request"),
    ("answer", "What is he like?", "answer echo of the prompt"),
    ("answer", ("", "content_filter"), "answer withheld"),
]


@pytest.mark.parametrize(("kind", "said", "outcome"), GARBAGE)
def test_garbage_is_counted_retried_and_changes_nothing(tmp_path: Path, kind: str, said: Any, outcome: str) -> None:
    def say(asked_for: str, asked: Asked) -> Any:
        return (
            said if asked_for == kind or (kind == "critique" and asked_for == "verdict") else kindly(asked_for, asked)
        )

    writer = RuleWriter(say)
    (chain,) = run(tmp_path, writer, num_rounds=1, max_retries=2)
    assert chain.last.outcome == outcome and not chain.was_revised
    step_row(chain.last)["after"].encode()
    if kind != "answer":
        assert chain.last.after == chain.last.before == "He is a fool."
        assert chain.last.stopped == "all rounds"
    # The critic's own bound is 1; "no verdict" asks for the verdict alone.
    tries = {"critique": 2, "revision": 3, "answer": 3}[kind]
    number = sum(asked_for in (kind, "verdict" if kind == "critique" else kind) for asked_for, _ in writer.asked)
    assert number == tries


def test_garbage_once_is_made_good_by_a_second_try(tmp_path: Path) -> None:
    seen = set[str]()

    def say(kind: str, asked: Asked) -> str:
        first = kind not in seen
        seen.add(kind)
        return "" if first else kindly(kind, asked)

    (chain,) = run(tmp_path, RuleWriter(say))
    assert outcomes(chain) == ["answered", "revised", "nothing found"]


def test_words_cut_at_the_limit_end_with_their_last_whole_sentence(tmp_path: Path) -> None:
    def say(kind: str, asked: Asked) -> Any:
        return ("I do not know him. Ask somebody el", "length") if kind == "revision" else kindly(kind, asked)

    (chain,) = run(tmp_path, RuleWriter(say))
    assert chain.last.after == "I do not know him."


def test_what_does_not_fit_the_context_is_shown_less_and_then_counted(tmp_path: Path) -> None:
    shown = Demonstration(prompt="Who? " * 20, answer="A cow.", critique="Insulting.", revision="A person.")
    writer = RuleWriter(kindly)

    def room(letters: int) -> Voice:
        return Voice(writer=writer, fits=lambda turns, n: sum(len(one.content) for one in turns) <= letters)

    for letters, outcome in ((10_000, 1), (300, 0), (40, "critique longer than the context")):
        critic = critic_of(writer)
        critic.voice = room(letters)
        (chain,) = run(tmp_path / str(letters), writer, critic, principles=[principle(examples=[shown])], num_rounds=1)
        told = chain.last.critique
        assert told and (told.num_demonstrations == outcome or chain.last.outcome == outcome)
    (chain,) = run(tmp_path / "short", writer, voice=room(3))
    assert (outcomes(chain), chain.last.stopped) == (["answer longer than the context"], NO_ANSWER)
    (chain,) = run(tmp_path / "revision", writer, voice=room(30), num_rounds=1)
    assert outcomes(chain)[1:] == ["revision longer than the context"] and not chain.was_revised


def test_a_critic_that_never_gives_a_verdict_is_not_asked_for_long(tmp_path: Path) -> None:
    writer = RuleWriter(lambda kind, asked: "No idea." if kind in ("critique", "verdict") else "Yes, 1 2 3.")
    many = [question(f"Question {i}?") for i in range(30)]
    with pytest.raises(EndpointError, match="first 5 critiques hold no verdict"):
        run(tmp_path, writer, questions=many, give_up_after=5)
    assert sum(kind in ("critique", "verdict") for kind, _ in writer.asked) == 5 * 2


def test_controls_ask_no_critic_and_do_what_they_say(tmp_path: Path) -> None:
    many = [question(f"Question {i}?") for i in range(400)]
    writer = RuleWriter(kindly)
    chains = run(tmp_path / "a", writer, RandomCritic(p=0.3, seed=2), many, num_rounds=1)
    found = [bool(chain.last.critique and chain.last.critique.found) for chain in chains]
    assert 85 < sum(found) < 155 and found == [chain.was_revised for chain in chains]
    again = run(tmp_path / "b", RuleWriter(kindly), RandomCritic(p=0.3, seed=2), many[::-1], num_rounds=1)
    assert [one.steps for one in again[::-1]] == [one.steps for one in chains]
    assert not any(kind == "critique" for kind, _ in writer.asked)
    writer = RuleWriter(kindly)
    chains = run(tmp_path / "c", writer, AlwaysRefuse(), many[:3])
    assert [kind for kind, _ in writer.asked] == ["answer"] * 3
    assert {one.last.after for one in chains} == {AlwaysRefuse().refusal} and outcomes(chains[0])[1:] == [
        REVISED,
        NOTHING,
    ]
    assert chains[0].steps[1].who == who(AlwaysRefuse().identity)


# As the tests find it, for a process that is to be killed.
PATH = os.pathsep.join(path for path in sys.path if path)


class Killed(BaseException):
    """As good as kill -9: nothing of ours catches it."""


def kill() -> None:
    raise Killed


MANY = [question(f"Tell me about {name}.") for name in ("him", "her", "them", "us")]


@pytest.mark.parametrize("fail_after", [0, 2, 5, 9])
def test_a_killed_run_goes_on_to_the_same_chains_and_asks_nothing_twice(tmp_path: Path, fail_after: int) -> None:
    writer = RuleWriter(kindly)
    whole = run(tmp_path / "whole", writer, questions=MANY)
    assert len(writer.asked) == 16
    first, second = RuleWriter(kindly, fail_after=fail_after, fail=kill), RuleWriter(kindly)
    with pytest.raises(Killed):
        run(tmp_path / "parts", first, questions=MANY)
    parts = run(tmp_path / "parts", second, questions=MANY)
    assert [one.steps for one in parts] == [one.steps for one in whole]
    assert len(first.asked) == fail_after and len(first.asked) + len(second.asked) == 16
    third = RuleWriter(kindly)
    assert run(tmp_path / "parts", third, questions=MANY)[0].steps == whole[0].steps and third.asked == []


def run_and_die(folder: str) -> None:
    """SIGKILL at the tenth answer."""
    run(
        Path(folder),
        RuleWriter(kindly, fail_after=9, fail=lambda: os.kill(os.getpid(), signal.SIGKILL)),
        questions=MANY,
    )


def test_kill_minus_nine_costs_nothing(tmp_path: Path) -> None:
    code = f"from test_revise_loop import run_and_die; run_and_die({str(tmp_path / 'parts')!r})"
    # No torch is needed, so that a fresh interpreter is soon there.
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env={**os.environ, "PYTHONPATH": PATH}
    )
    assert done.returncode == -9
    writer = RuleWriter(kindly)
    parts = run(tmp_path / "parts", writer, questions=MANY)
    whole = run(tmp_path / "whole", RuleWriter(kindly), questions=MANY)
    assert len(writer.asked) == 16 - 9
    assert [step_row(one) for chain in parts for one in chain.steps] == [
        step_row(one) for chain in whole for one in chain.steps
    ]


def test_a_revision_may_be_shown_instead_of_asked_for(tmp_path: Path) -> None:
    def bad(name: str) -> Demonstration:
        return Demonstration(prompt=f"{name}?", answer="Bad.", critique="Yes.", revision=f"Good {name}.")

    fine = Demonstration(prompt="Fine?", answer="Fine.", critique="No.", fault=False)
    rules = [principle("a", examples=[fine, bad("own")]), principle("b", examples=[bad("kin")]),
             principle("c", category="other", examples=[bad("far")])]  # fmt: skip
    writer = RuleWriter(lambda kind, asked: "One. Two. Two. Three." if len(asked.messages) > 1 else "First.")
    told = {"way": "shown", "max_sentences": 4, "max_demonstrations": 6, "num_rounds": 1, "principles_per_round": 1}
    (chain,) = run(tmp_path, writer, RandomCritic(p=1.0), principles=rules, **told)
    said = [(turn.role, turn.content) for turn in writer.asked[1][1].messages]
    # The principle's own stands nearest to the prompt.
    assert said == [("user", "kin?"), ("assistant", "Good kin."), ("user", "own?"), ("assistant", "Good own."),
                    ("user", "What is he like?")]  # fmt: skip
    assert chain.last.after == "One. Two.", "up to the first sentence that repeats one"


@pytest.mark.parametrize(
    ("text", "most", "kept"),
    [
        ("One. Two! Three?", 2, "One. Two!"),
        ("One. Two and", 2, "One. Two and"),
        ("No end", 1, "No end"),
        ("1. Go in.\n2. Go out.", 1, "1. Go in."),
        ("Go. go! Stop.", 3, "Go."),
    ],
)
def test_the_first_sentences(text: str, most: int, kept: str) -> None:
    assert first_sentences(text, most) == kept


def test_answers_to_harmless_prompts_may_be_kept_uncriticised(tmp_path: Path) -> None:
    writer = RuleWriter(kindly)
    both = [question("Bad?"), question("Good?", harmless=True)]
    bad, good = run(tmp_path, writer, questions=both, criticise_harmless=False)
    assert bad.was_revised and [one.stopped for one in good.steps] == ["kept"]
