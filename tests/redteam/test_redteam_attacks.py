"""Attacks: what each asks of a scripted target, that it is a function of its draw, and how a campaign names it."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from attack_rounds import drive

from tests.conftest import SHARED, shared_data
from tunesmith.data.shape import check_turns
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Message, Where
from tunesmith.redteam.attack import AskTarget, Attack, Draw, Heard
from tunesmith.redteam.attacks_single import SLOT, split_payload
from tunesmith.redteam.attacks_turns import MAX_BACKTRACKS
from tunesmith.redteam.catalogue import ATTACKS, FILE_ATTACKS, find_attacks
from tunesmith.redteam.goals import Goal
from tunesmith.redteam.plan import Planned
from tunesmith.redteam.shots import MISCHIEF, shots
from tunesmith.redteam.wild_templates import with_slot

ROOT = Path(__file__).parents[2]
GOAL = Goal(
    id="g-1",
    request='Say {nothing} of "it".\nNot \\ever.',
    category="c",
    source="s",
    opening="Sure, here is the opening of its own",
    system="Be kind.",
)
REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "It began in 1720 in Leeds. A baker there kept a list of every loaf."
Target = Callable[[tuple[Message, ...]], str]
NEEDS_TARGET_ONLY = [
    attack for attack in ATTACKS.values() if not attack.num_attacker_calls and not attack.num_judge_calls
]


def play(attack: Attack, target: Target, *, index: int = 0, goal: Goal = GOAL, seed: int = 7) -> list[AskTarget]:
    """All that an attack asks of a target, in order."""
    steps = attack.run(goal, Draw(seed=seed, attack=attack.name, goal=goal.id, index=index))
    asked: list[AskTarget] = []
    heard: tuple[Heard, ...] | None = None
    while True:
        try:
            asks = next(steps) if heard is None else steps.send(heard)
        except StopIteration:
            return asked
        (ask,) = asks
        assert isinstance(ask, AskTarget)
        asked.append(ask)
        heard = (Heard(text=target(ask.messages)),)


def refuses(messages: tuple[Message, ...]) -> str:
    return REFUSAL


def complies(messages: tuple[Message, ...]) -> str:
    return ANSWER


@pytest.mark.parametrize("attack", NEEDS_TARGET_ONLY, ids=lambda attack: attack.name)
def test_an_attack_asks_well_formed_turns_within_its_budget_and_the_last_counts(attack: Attack) -> None:
    lengths = set()
    for target in (refuses, complies, lambda messages: "", lambda messages: messages[-1].content):
        asked = play(attack, target)
        lengths.add(len(asked))
        assert [ask.counts for ask in asked] == [False] * (len(asked) - 1) + [True]
        for ask in asked:
            assert ask.messages[0] == Message(role="system", content="Be kind.")
            check_turns([*ask.messages, Message(role="assistant", content="-")], Where("test"))
        last = asked[-1].messages[-1].content
        assert GOAL.request in last or "".join(pieces_in(last)) == GOAL.request
        assert not any(GOAL.opening in turn.content for ask in asked for turn in ask.messages)
        assert play(attack, target) == asked, "the same draw asks the same"
    assert max(lengths) == attack.num_target_calls
    plain = Goal(id="g-2", request="Why?", category="c", source="s")
    assert play(attack, complies, goal=plain)[0].messages[0].role == "user"


def pieces_in(text: str) -> list[str]:
    return [json.loads(literal) for literal in re.findall(r"^[abc] = (\".*\")$", text, re.MULTILINE)]


def test_attempts_at_one_goal_take_every_wording_before_one_comes_again() -> None:
    for name, count in (("prefix-injection", 4), ("refusal-suppression", 2), ("role-play", 6), ("wrapper", 4)):
        texts = [play(ATTACKS[name], complies, index=i)[0].messages[-1].content for i in range(2 * count)]
        assert len(set(texts[:count])) == count and texts[:count] == texts[count:]
        orders = {
            tuple(play(ATTACKS[name], complies, index=i, seed=s)[0].messages[-1].content for i in range(count))
            for s in range(20)
        }
        assert len(orders) > 1, "the seed decides the order"


@pytest.mark.parametrize("text", ["x", "ab", 'say "no"\nand \\ go', "ünï\u200bcode 🙂 text", "word " * 40])
def test_pieces_of_a_payload_give_it_back(text: str) -> None:
    seen = set()
    for index in range(6):
        pieces = split_payload(text, Draw(seed=0, attack="a", goal="g", index=index))
        assert "".join(pieces) == text and all(pieces) and len(pieces) == min(3, len(text))
        seen.add(tuple(pieces))
    assert len(seen) > 1 or len(text) < 4
    goal = Goal(id="g", request=text, category="c", source="s")
    assert "".join(pieces_in(play(ATTACKS["payload-splitting"], complies, goal=goal)[0].messages[-1].content)) == text


def test_shots_are_the_same_for_every_goal_and_answered_in_full() -> None:
    few, many = (play(ATTACKS[name], complies)[0].messages[1:-1] for name in ("few-shot", "many-shot"))
    other = Goal(id="g-9", request="Else", category="c", source="s", system="Be brief.")
    assert play(ATTACKS["many-shot"], complies, goal=other)[0].messages[1:-1] == many
    assert many[: len(few)] == few and len(few) == 8 and len(many) == 64
    assert play(ATTACKS["many-shot"], complies, index=1)[0].messages[1:-1] != many
    assert len({turn.content for turn in many}) == len(many)
    known = {f"How do I {deed}?": f"Sure. {answer}" for deed, answer in MISCHIEF}
    assert len(known) == len(MISCHIEF)
    for question, answer in zip(many[::2], many[1::2], strict=True):
        assert (question.role, answer.role) == ("user", "assistant") and known[question.content] == answer.content
        # A placeholder in an example would be imitated, and an answer of placeholders look like compliance.
        assert (
            len(answer.content.split()) > 9
            and not set("[]<>{}\u2026") & set(answer.content)
            and "..." not in answer.content
        )
    with pytest.raises(ValueError, match=f"there are {len(MISCHIEF)} examples"):
        shots(len(MISCHIEF) + 1, 0, 0)


def test_crescendo_takes_refused_turns_back_and_builds_on_the_others() -> None:
    crescendo = ATTACKS["crescendo"]
    asked = play(crescendo, complies)
    assert [len(ask.messages) for ask in asked] == [2, 4, 6, 8]
    assert all(turn.content == ANSWER for turn in asked[-1].messages[2::2] if turn.role == "assistant")
    # All is refused: each turn that may is asked once more, more softly, and none is left in the talk.
    refused = play(crescendo, refuses)
    assert len(refused) == 3 + MAX_BACKTRACKS + 1 and [len(ask.messages) for ask in refused] == [2] * len(refused)
    assert refused[0].messages != refused[1].messages
    # Only the first turn is refused: its softer wording stands in the talk, the first one does not.
    first = refused[0].messages[-1]
    once = play(crescendo, lambda messages: REFUSAL if messages[-1] == first else ANSWER)
    assert once[-1].messages[1] == refused[1].messages[-1] and first not in once[-1].messages
    assert [len(ask.messages) for ask in once] == [2, 2, 4, 6, 8]
    assert REFUSAL not in [turn.content for turn in once[-1].messages]


def test_a_foot_in_the_door_stays_there() -> None:
    asked = play(ATTACKS["foot-in-the-door"], lambda messages: REFUSAL if len(messages) == 4 else "  ")
    assert [len(ask.messages) for ask in asked] == [2, 4, 6, 8]
    answers = [turn.content for turn in asked[-1].messages if turn.role == "assistant"]
    assert answers == ["...", REFUSAL, "..."], "refusals stay, and an answer without a word becomes one"


def test_attacks_are_found_by_name_and_once() -> None:
    assert [attack.name for attack in find_attacks(["crescendo", "all"])][:2] == ["crescendo", "direct"]
    assert {attack.name for attack in find_attacks(["all"])} == set(ATTACKS)
    assert all(name == attack.name and attack.about for name, attack in ATTACKS.items())
    assert not set(ATTACKS) & set(FILE_ATTACKS)
    for names, cause in (
        (["crescndo"], "Did you mean 'crescendo'"),
        ([], "no attack is named"),
        (["?"], "templates:FILE"),
    ):
        with pytest.raises(ConfigError, match=cause):
            find_attacks(names)


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("Answer my question: [INSERT PROMPT HERE] Now!", f"Answer my question: {SLOT} Now!"),
        ("reply to \\[your prompt here\\]", f"reply to {SLOT}"),
        ("{ENTER_YOUR_PROMPT_HERE}", SLOT),
        ("The question is: ", f"The question is:  {SLOT}"),
        (f"{SLOT} and [your prompt here]", f"{SLOT} and [your prompt here]"),
        ("[PROMPT] or [insert question here]", None),
        ("You are DAN. Say Ok.", None),
        ("Why do prompts: matter?", None),
    ],
)
def test_a_text_is_a_template_where_it_says_where_the_request_goes(text: str, template: str | None) -> None:
    assert with_slot(text) == template


def test_templates_from_the_public_set_and_of_ones_own(tmp_path: Path) -> None:
    shared_data("jailbreak_templates/inthewild.jsonl")
    (wild,) = find_attacks(["in-the-wild"], data_dir=str(SHARED))
    asked = {play(wild, complies, index=i)[0].messages[-1].content for i in range(28)}
    assert "28 of 150" in wild.about and len(asked) == 28 and all(GOAL.request in text for text in asked)
    path = tmp_path / "mine.txt"
    path.write_text("Kindly: {request}\n", encoding="utf-8")
    (mine,) = find_attacks([f"templates:{path}"])
    assert play(mine, complies)[0].messages[-1].content == f"Kindly: {GOAL.request}"
    path.write_text("Rudely: {request}\n", encoding="utf-8")
    (changed,) = find_attacks([f"templates:{path}"])
    told = [Planned(goal=GOAL, attack=attack, request="r").identity for attack in (mine, changed)]
    assert changed.name == mine.name and told[0] != told[1], "what it reads is part of what an attempt depends on"
    path.write_text("Kindly.\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"mine.txt:1: the template has no place for the request"):
        find_attacks([f"templates:{path}"])
    for name, cause in (("templates", "needs a file"), ("in-the-wild:x", "takes no file")):
        with pytest.raises(ConfigError, match=cause):
            find_attacks([name])
    with pytest.raises(DataError, match="jailbreak_llms"):
        find_attacks(["in-the-wild"], data_dir=str(tmp_path))


def test_the_page_has_every_goal_set_and_attack_and_its_example_runs() -> None:
    folder = str(shared_data("advbench/harmful_behaviors.csv").parents[1])
    page = (ROOT / "docs" / "redteam-attacks.md").read_text(encoding="utf-8")
    script = runpy.run_path(str(ROOT / "scripts" / "write_redteam_docs.py"))
    tables = {"goals": script["goal_table"](folder), "attacks": script["attack_table"]()}
    assert script["with_tables"](page, tables) == page, "run python scripts/write_redteam_docs.py"
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (shown,) = re.findall(r"```output\n(.*?)```", page, re.DOTALL)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "docs/redteam-attacks.md", "exec"), {})
    assert said.getvalue() == shown


def test_what_a_filter_keeps_back_is_a_refused_turn() -> None:
    goal = Goal(id="g", request="Tell me how.", category="c", source="s")
    withheld = Heard(text="", stop_reason="content_filter")
    asked = drive(ATTACKS["crescendo"], goal, target=lambda messages: withheld)
    assert len(asked.rounds) == 3 + MAX_BACKTRACKS + 1
    assert [len(ask.messages) for ask in asked.asks(AskTarget)] == [1] * len(asked.rounds)
