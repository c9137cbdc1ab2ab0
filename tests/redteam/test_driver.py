"""Attempts side by side: what is asked together, what is kept, and what a stopped campaign comes to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from campaign_worlds import (
    ATTACKS,
    Killed,
    Scripted,
    YesJudge,
    driver,
    goals,
    hashed_answer,
    planned,
    user,
)

from tunesmith.errors import ConfigError, EndpointError, RunError
from tunesmith.records import Message
from tunesmith.redteam.attack import AskTarget, Attack
from tunesmith.redteam.attempt_rows import attempt_row, load_attempts, read_attempt
from tunesmith.redteam.plan import plan_replay
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.sampling import Sampling


def bytes_of(folder: Path) -> bytes:
    return (folder / "attempts.jsonl").read_bytes()


def test_attempts_of_a_round_are_asked_in_one_batch_and_each_is_recorded(tmp_path: Path) -> None:
    target = Scripted("target", hashed_answer)
    keys = driver(tmp_path, target=target, portion=64).run(planned(("direct", "two-turns")))
    attempts = load_attempts(tmp_path / "attempts.jsonl")
    # Two rounds: all first questions (hello once, though four attempts ask it), then the second ones.
    assert [len(batch) for batch in target.batches] == [6 + 1, 4]
    assert sorted(keys) == sorted(one.key for one in attempts) and len(set(keys)) == 10
    two = next(one for one in attempts if one.attack == "two-turns")
    assert [m.content for m in two.tries[0].messages] == ["hello", hashed_answer([user("hello")]), "request 0"]
    assert two.tries[0].answer == hashed_answer(two.tries[0].messages)
    assert two.details == {"calls": {"target": 2, "attacker": 0, "judge": 0}, "rounds": 2}
    assert {one.success for one in attempts} == {True, False}
    assert all(one.success == one.tries[-1].answer.startswith("yes") for one in attempts)
    assert {one.attack for one in attempts if one.goal.kind == "safe"} == {"direct"}


def test_an_attack_hears_attacker_target_and_judge(tmp_path: Path) -> None:
    attacker, judge = Scripted("attacker", lambda m: f"w{len(m[-1].content)}"), YesJudge()
    driver(tmp_path, attacker=attacker, judge=judge).run(planned(("climbing", "direct"), goals=goals(2)))
    climbs = [one for one in load_attempts(tmp_path / "attempts.jsonl") if one.attack == "climbing"]
    for one in climbs:
        rounds = len(one.tries) // 2
        # It stops at the first success, and only there.
        assert one.success == (rounds < 3 or any(t.judgement.success for t in one.tries[4:]))
        assert not any(t.judgement.success for t in one.tries[: 2 * (rounds - 1)])
        assert one.details is not None
        assert one.details["calls"] == {"target": 2 * rounds, "attacker": rounds, "judge": 2 * rounds}
    # What was judged as an answer is known when the attack asks for it: nothing is judged twice.
    told = [(case.goal.id, case.prompt, case.answer) for case in judge.cases]
    assert len(told) == len(set(told))


@pytest.mark.parametrize("dies_at", [0, 3, 5, 11, 18])
def test_a_killed_campaign_comes_to_the_same_bytes_in_the_same_batches(tmp_path: Path, dies_at: int) -> None:
    whole = Scripted("target", hashed_answer)
    driver(tmp_path / "whole", target=whole, whole=True).run(planned())
    assert whole.num_given > 18
    killed = Scripted("target", hashed_answer, dies_at=dies_at)
    with pytest.raises(Killed):
        driver(tmp_path / "cut", target=killed, whole=True).run(planned())
    again = Scripted("target", hashed_answer)
    driver(tmp_path / "cut", target=again, whole=True).run(planned())
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")
    # The batch that died is asked again as it was, so that a model of ours computes the same.
    assert again.batches == whole.batches[len(killed.batches) - 1 :]


def test_who_is_paid_by_the_answer_is_not_asked_twice(tmp_path: Path) -> None:
    whole, killed = Scripted("target", hashed_answer), Scripted("target", hashed_answer, dies_at=6)
    driver(tmp_path / "whole", target=whole).run(planned())
    with pytest.raises(Killed):
        driver(tmp_path / "cut", target=killed).run(planned())
    again = Scripted("target", hashed_answer)
    driver(tmp_path / "cut", target=again).run(planned())
    assert killed.num_given + again.num_given == whole.num_given
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")


def test_a_finished_campaign_asks_nothing_and_another_judge_asks_no_model(tmp_path: Path) -> None:
    driver(tmp_path).run(planned(("direct",)))
    before = bytes_of(tmp_path)
    silent = Scripted("target", hashed_answer, dies_at=0)
    driver(tmp_path, target=silent).run(planned(("direct",)))
    assert bytes_of(tmp_path) == before and silent.batches == []
    judge = YesJudge(version="2")
    driver(tmp_path, target=silent, judge=judge).run(planned(("direct",)))
    assert len(judge.cases) == 6 and silent.batches == []
    assert len(load_attempts(tmp_path / "attempts.jsonl")) == 12
    # Another model, another seed of an attack that draws, or another attack's version is another attempt.
    with pytest.raises(Killed):
        driver(tmp_path, target=Scripted("other", hashed_answer, dies_at=0)).run(planned(("direct",)))
    keys = {
        driver(tmp_path).key_of(plan)
        for attack in (ATTACKS["drawn"], replace(ATTACKS["drawn"], version=2))
        for seed in (0, 1)
        for plan in planned(("drawn",), goals=goals(1), seed=seed)
        for plan in [replace(plan, attack=attack)]
    }
    assert len(keys) == 4


def test_sampled_answers_are_drawn_alike_for_every_target_and_apart_for_every_attempt(tmp_path: Path) -> None:
    one, other = Scripted("one", hashed_answer), Scripted("other", hashed_answer)
    for writer in (one, other):
        driver(tmp_path, target=writer, temperature=0.7).run(planned(("direct",), num_attempts=2))
    assert one.row_ids == other.row_ids and len(set(one.row_ids)) == 12
    greedy = Scripted("greedy", hashed_answer)
    driver(tmp_path, target=greedy).run(planned(("direct",), num_attempts=2))
    # The likeliest answer is the same however often one asks.
    assert greedy.num_given == 6


def test_converters_change_what_is_asked_and_not_what_is_judged(tmp_path: Path) -> None:
    judge = YesJudge()
    plans = planned(("direct", "two-turns"), goals=goals(3), chains=[("leet",), ("a", "b")])
    driver(tmp_path, judge=judge).run(plans)
    attempts = load_attempts(tmp_path / "attempts.jsonl")
    converted = [one for one in attempts if one.converters]
    assert {(one.attack, one.goal.kind) for one in converted} == {("direct", "harmful")}
    assert {one.request for one in converted if one.goal.id == "g0"} == {"leet(request 0)", "a+b(request 0)"}
    assert all(one.tries[0].messages[-1].content == one.request for one in converted)
    assert {case.goal.request for case in judge.cases} == {"request 0", "request 1", "request 2"}


def test_what_cannot_be_asked_is_skipped_or_ends_an_attempt(tmp_path: Path) -> None:
    def why_not(messages: tuple[Message, ...], max_new_tokens: int) -> str:
        return f"too long for {max_new_tokens} more" if len(messages) > 1 or "1" in messages[-1].content else ""

    driver(tmp_path, why_not=why_not).run(planned(("direct", "two-turns"), goals=goals(2)))
    rows = {(one.attack, one.goal.id): one for one in load_attempts(tmp_path / "attempts.jsonl")}
    assert rows["direct", "g0"].skipped == "" and rows["direct", "g0"].tries
    assert rows["direct", "g1"].skipped == "too long for 8 more" and not rows["direct", "g1"].tries
    assert rows["two-turns", "g0"].skipped == "too long for 8 more" and not rows["two-turns", "g0"].success


def test_a_system_message_of_a_goal_is_put_before_what_the_attack_says(tmp_path: Path) -> None:
    goal = replace(goals(1)[0], system="Keep the word.", kind="secret", secrets=("word",))
    driver(tmp_path).run(planned(("two-turns",), goals=[goal]))
    (one,) = load_attempts(tmp_path / "attempts.jsonl")
    assert [m.role for m in one.tries[0].messages] == ["system", "user", "assistant", "user"]
    assert one.goal == goal


def test_withheld_answers_are_refusals_until_nothing_else_comes(tmp_path: Path) -> None:
    judge = YesJudge()
    some = Scripted("some", lambda m: "withheld" if "1" in m[-1].content else "yes")
    driver(tmp_path / "some", target=some, judge=judge).run(planned(("direct",), goals=goals(2)))
    rows = {one.goal.id: one for one in load_attempts(tmp_path / "some/attempts.jsonl")}
    assert rows["g0"].success and not rows["g1"].success
    assert rows["g1"].tries[0].judgement.kind == "refuse" and len(judge.cases) == 1
    with pytest.raises(EndpointError, match="gave none of 20 answers"):
        driver(tmp_path / "none", target=Scripted("none", lambda m: "withheld")).run(
            planned(("direct",), goals=goals(40))
        )


def test_a_replay_puts_the_recorded_prompts_to_another_model(tmp_path: Path) -> None:
    driver(tmp_path).run(planned())
    first = load_attempts(tmp_path / "attempts.jsonl")
    other = Scripted("other", lambda m: "yes")
    driver(tmp_path, target=other).run(plan_replay(first, ATTACKS))
    again = [one for one in load_attempts(tmp_path / "attempts.jsonl") if one.target["model"] == "other"]
    assert len(again) == len(first)
    by_key = {one.key: one for one in first}
    for one in again:
        assert one.details is not None
        origin = by_key[one.details["replay_of"]]
        assert [t.messages for t in one.tries] == [t.messages for t in origin.tries]
        assert (one.goal, one.attack, one.converters, one.index) == (
            origin.goal, origin.attack, origin.converters, origin.index,
        )  # fmt: skip
        assert one.success


def test_an_attack_that_asks_for_more_than_it_says_or_for_nothing_is_a_bug(tmp_path: Path) -> None:
    def greedy(goal: object, draw: object):  # type: ignore[no-untyped-def]
        yield (AskTarget(messages=(user("a"),)), AskTarget(messages=(user("b"),)))

    def idle(goal: object, draw: object):  # type: ignore[no-untyped-def]
        yield ()

    for run, said in ((greedy, "asks more than it says"), (idle, "asks nothing")):
        attack = Attack(name="bad", family="direct", about="", run=run)
        plans = [replace(plan, attack=attack) for plan in planned(("direct",))]
        with pytest.raises(ValueError, match=said):
            driver(tmp_path).run(plans)


def test_an_attackers_cut_offs_are_in_its_attempts_keys_alone(tmp_path: Path) -> None:
    """The target takes the likeliest token; the attacker draws, so what it says depends on where its draws are cut."""
    one, other = driver(tmp_path), driver(tmp_path)
    assert other.attacker is not None
    other.attacker = replace(other.attacker, sampling=Sampling(max_new_tokens=8, top_p=0.5))
    for plan in planned():
        alike = one.key_of(plan) == other.key_of(plan)
        assert alike == (plan.attack.num_attacker_calls == 0)


def test_an_attack_without_its_attacker_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    target = Scripted("target", hashed_answer)
    one = driver(tmp_path, target=target)
    one.attacker = None
    with pytest.raises(ConfigError, match="climbing"):
        one.run(planned())
    assert target.batches == []


def test_progress_grows_to_the_end_and_knows_what_was_found(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    one = driver(tmp_path, progress=lambda counts: seen.append((counts.answers_done, counts.answers)))
    one.run(planned())
    done = [number for number, _ in seen]
    assert done == sorted(done) and seen[-1][0] == seen[-1][1] == 6 + 4 + 4 * 2 + 4 * 9
    assert one.counts.attempts_done == one.counts.attempts == 18
    assert one.counts.spent.new_tokens == 3 * one.counts.spent.asked
    again = driver(tmp_path)
    again.run(planned())
    assert again.counts.answers_done == again.counts.answers and again.counts.spent.asked == 0


def test_rows_keep_all_of_an_attempt(tmp_path: Path) -> None:
    driver(tmp_path).run(planned(chains=[("leet",)]))
    for one in load_attempts(tmp_path / "attempts.jsonl"):
        assert read_attempt(attempt_row(one)) == one
    results = ResultsFile(tmp_path / "calls.jsonl")
    with pytest.raises(RunError, match=r"calls.jsonl:1: is not a red-team attempt"):
        load_attempts(tmp_path / "calls.jsonl")
    assert len(results) > 0
    with pytest.raises(RunError, match="holds no attempts"):
        load_attempts(tmp_path / "nothing.jsonl")
