"""Attacks that went through -> rows that train against them, none of an attack or a goal that is tested with next.

What is trained on and what is tested with are told apart twice: by the attacks' family, since two attacks of one family
are nearly one, and by goal, goals that say almost the same being one. Letters: N goals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from pydantic import Field

from tunesmith.config import Config
from tunesmith.constitution.audit import turns_of
from tunesmith.data.near import near_clusters
from tunesmith.data.split import assign_parts
from tunesmith.errors import ConfigError, DataError
from tunesmith.feedback.rows import prompt_to_row
from tunesmith.randomness import derive_seed, permutation
from tunesmith.records import Message
from tunesmith.redteam.attack import Family
from tunesmith.redteam.attempts import Attempt, Try
from tunesmith.redteam.goals import Goal

Target = Literal["preferences", "sft", "constitution-prompts"]
FAMILIES: tuple[Family, ...] = get_args(Family)


class SplitConfig(Config):
    """What is trained on and what the next test is made of."""

    train_families: tuple[Family, ...] = ()
    """Attacks of these families become rows; empty: all that are not held out."""
    test_families: tuple[Family, ...] = ()
    """Attacks of these are kept for the next test; empty: all that are not trained on, or, where neither is named, a
    share of them that the seed chooses."""
    test_share_of_families: float = Field(0.4, gt=0, lt=1)
    """That share."""
    test_share_of_goals: float = Field(0.3, ge=0, lt=1)
    """So many of the goals are kept for the next test; 0: none, where the next test has goals of its own."""
    goal_likeness: float = Field(0.5, gt=0, le=0.95)
    """Goals that share so much of their runs of three words fall on one side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Families and ids of goals on each side; families that are on neither were left out by name."""

    train_families: tuple[Family, ...]
    test_families: tuple[Family, ...]
    train_goals: frozenset[str]
    test_goals: frozenset[str]

    def place(self, attempt: Attempt) -> str:
        """Why an attempt gives no row; empty where it may."""
        if attempt.family not in self.train_families:
            return "its family is kept for the test" if attempt.family in self.test_families else "its family is unused"
        return "" if attempt.goal.id in self.train_goals else "its goal is kept for the test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An answer that should not have been given, and its attempt."""

    attempt: Attempt
    one: Try

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What the target answered; its earlier answers are not trained on."""
        return tuple(replace(turn, train=False) if turn.role == "assistant" else turn for turn in self.one.messages)

    @property
    def words(self) -> str:
        """All that was said to the target, by which copies are told."""
        return "\n".join(turn.content for turn in self.one.messages if turn.role == "user")


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeAnswer:
    """What should have been answered; source: template or revision."""

    text: str
    source: str


def split_attempts(attempts: Sequence[Attempt], config: SplitConfig, seed: int) -> Split:
    """Both sides of a campaign's families and goals. Raises ConfigError where one side would be empty."""
    # Safe goals are asked plainly whatever the attacks, and give no row.
    made = {attempt.family for attempt in attempts if attempt.goal.kind != "safe"}
    present = [one for one in FAMILIES if one in made]
    train, test = split_families(present, config, seed)
    goals = list({one.goal.id: one.goal for one in attempts if one.goal.kind != "safe"}.values())
    held_out = split_goals(goals, config.test_share_of_goals, config.goal_likeness, seed)
    return Split(
        train_families=train,
        test_families=test,
        train_goals=frozenset(one.id for one in goals) - held_out,
        test_goals=held_out,
    )


def split_families(
    present: Sequence[Family], config: SplitConfig, seed: int
) -> tuple[tuple[Family, ...], tuple[Family, ...]]:
    """(trained on, tested with); each in the order of FAMILIES. Raises ConfigError."""
    train, test = set(config.train_families), set(config.test_families)
    if both := sorted(train & test):
        cause = f"'{both[0]}' is trained on and tested with."
        raise ConfigError("test_families", cause, "Name each family on one side only.")
    if not train and not test:
        order = sorted(present, key=lambda name: derive_seed(seed, "redteam_families", name))
        test = set(order[: max(1, round(config.test_share_of_families * len(order)))])
    train, test = train or set(present) - test, test or set(present) - train
    trained = tuple(name for name in FAMILIES if name in train and name in present)
    if not trained:
        cause = f"no attack of the campaign is of a family to train on; it has {', '.join(present) or 'none'}."
        raise ConfigError("train_families", cause, "Attack with other families, or hold fewer of them out.")
    if not test:
        cause = f"all families are trained on ({', '.join(trained)}), so none is left to test with."
        raise ConfigError("test_families", cause, "Name fewer train_families, or a family for the next test.")
    return trained, tuple(name for name in FAMILIES if name in test)


def split_goals(goals: Sequence[Goal], share: float, likeness: float, seed: int) -> frozenset[str]:
    """Ids of the goals that are held out, near copies together. Raises ConfigError where there are too few to split."""
    if not share or not goals:
        return frozenset()
    cluster_N = near_clusters([one.request for one in goals], likeness)
    if len(np.unique(cluster_N)) < 2:
        cause = f"the {len(goals)} goals are near copies of one, which cannot be split."
        raise ConfigError("test_share_of_goals", cause, "Add goals, or set it to 0 and test with goals of another set.")
    hashed = {int(c): derive_seed(seed, "redteam_goals", min(_requests(goals, cluster_N, c))) for c in cluster_N}
    key_N = np.array([derive_seed(seed, "redteam_goal", one.request) for one in goals], np.int64)
    part_N = assign_parts(key_N, [share], groups=np.array([hashed[int(c)] for c in cluster_N], np.int64))
    return frozenset(one.id for one, part in zip(goals, part_N.tolist(), strict=True) if part)


def _requests(goals: Sequence[Goal], cluster_N: Any, cluster: int) -> list[str]:
    return [one.request for one, own in zip(goals, cluster_N, strict=True) if own == cluster]


def find(
    attempts: Sequence[Attempt],
    split: Split,
    *,
    likeness: float,
    most_of_an_attack: int,
    most_of_a_goal: int,
    seed: int,
) -> tuple[list[Finding], dict[str, int]]:
    """What went through on the training side, the worst first of near copies, and why how many others are left out.

    Prompts to one goal that share ``likeness`` of their runs of three words are copies. An attack and a goal give so
    many rows at most (0: all), lest one that always works be all that is learnt.
    """
    left_out, found = Counter[str](), list[Finding]()
    for attempt in attempts:
        one = attempt.best
        if attempt.goal.kind == "safe" or one is None or not attempt.success:
            continue
        why = split.place(attempt)
        if why:
            left_out[why] += 1
        else:
            found.append(Finding(attempt=attempt, one=one))
    kept = list[Finding]()
    by_goal = dict[str, list[Finding]]()
    for finding in found:
        by_goal.setdefault(finding.attempt.goal.request, []).append(finding)
    for same in by_goal.values():
        fresh = _without_copies(same, likeness)
        left_out["near copy of another one"] += len(same) - len(fresh)
        kept += fresh
    # By a draw, so that no attack is first in line for a goal's places.
    order = permutation(len(kept), seed, "redteam_findings")
    for name, most, key in (
        ("its attack has enough rows", most_of_an_attack, _attack),
        ("its goal has enough rows", most_of_a_goal, _goal),
    ):
        before, counts = order, Counter[str]()
        order = []
        for i in before:
            counts[key(kept[i])] += 1
            if not most or counts[key(kept[i])] <= most:
                order.append(i)
        left_out[name] += len(before) - len(order)
    return [kept[i] for i in order], {why: number for why, number in sorted(left_out.items()) if number}


def _attack(one: Finding) -> str:
    return one.attempt.attack


def _goal(one: Finding) -> str:
    return one.attempt.goal.request


def _without_copies(findings: Sequence[Finding], likeness: float) -> list[Finding]:
    """Of those whose prompts are near copies the one that went furthest; the first of equals."""
    best = dict[int, Finding]()
    for cluster, one in zip(near_clusters([f.words for f in findings], likeness).tolist(), findings, strict=True):
        if cluster not in best or one.one.judgement.score > best[cluster].one.judgement.score:
            best[cluster] = one
    return list(best.values())


def finding_row(finding: Finding, safe: SafeAnswer, target: Target) -> dict[str, Any]:
    """A finding as a row of its target, with where it comes from beside it. Raises DataError for an empty answer."""
    attempt = finding.attempt
    if not safe.text.strip() or not finding.one.answer.strip():
        raise DataError(attempt.key, "an answer of the pair is empty.", "Judge empty answers as nonsense.")
    provenance = {
        "from": safe.source,
        "goal": attempt.goal.id,
        "category": attempt.goal.category,
        "attack": attempt.attack,
        "family": attempt.family,
        "converters": list(attempt.converters),
        "attempt": attempt.key,
    }
    if target == "constitution-prompts":
        return {"prompt": prompt_to_row(finding.prompt), "provenance": {**provenance, "from": "attack"}}
    if target == "preferences":
        return {
            "prompt": prompt_to_row(finding.prompt), "chosen": safe.text, "rejected": finding.one.answer,
            "provenance": provenance,
        }  # fmt: skip
    answer = Message(role="assistant", content=safe.text)
    return {"messages": turns_of([*finding.prompt, answer]), "provenance": provenance}


def varied(
    answers: Sequence[SafeAnswer], instead: Callable[[int], SafeAnswer], most_alike: float, num_words: int = 4
) -> tuple[list[SafeAnswer], int]:
    """The answers, of which at most a share begin with the same few words, and how many were replaced for that.

    A small reviser copies the openings of what it is shown, and a model that is trained on one opening learns no more
    than that. instead: the answer for a place whose opening is used up.
    """
    most, used, out, replaced = max(1, int(most_alike * len(answers))), Counter[str](), list[SafeAnswer](), 0
    for i, one in enumerate(answers):
        opening = " ".join(one.text.lower().split()[:num_words])
        if one.source != "template" and used[opening] >= most:
            replaced += 1
            out.append(instead(i))
        else:
            used[opening] += 1
            out.append(one)
    return out, replaced


def openings(texts: Sequence[str], num_words: int = 4) -> Mapping[str, Any]:
    """How many ways of beginning there are, and the share of the commonest."""
    counts = Counter(" ".join(text.lower().split()[:num_words]) for text in texts)
    if not counts:
        return {"different": 0, "commonest": "", "share": 0.0}
    commonest, number = counts.most_common(1)[0]
    return {"different": len(counts), "commonest": commonest, "share": round(number / len(texts), 4)}
