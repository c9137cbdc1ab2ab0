"""Soft labels by written principles: which answers are compared, what two orders of showing say, what is stored.

Source: Bai et al. 2022, arXiv:2212.08073, section 4.1: a judge is given a principle and two answers, and its normalised
probabilities of "A" and "B" are the label. Both orders are ours: with d what the judge finds of the answers and c what
it adds for the first place, both in nats,

    o1 = ln P(A) - ln P(B) = c + d    (the first candidate shown as A)
    o2 = ln P(A) - ln P(B) = c - d    (the second candidate shown as A)
    p  = sigmoid((o1 - o2) / 2) = sigmoid(d),    c = (o1 + o2) / 2

so that p does not depend on c. That assumes one c for both orders of a pair; it may differ from pair to pair. Of what a
place adds for one of the two answers only (say, for a long one that stands first) half the difference stays in d.
Without log-probabilities an order tells 1, 0 or (a tie) 1/2 for the first candidate, and p is the mean of the two.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from tunesmith.config import Config
from tunesmith.constitution.principles import Constitution, Principle
from tunesmith.data.bootstrap.rouge import rouge_l
from tunesmith.feedback.judgements import Compared, digest_of
from tunesmith.feedback.store import FeedbackStore
from tunesmith.rollout.refusal import read_refusal
from tunesmith.stats import clustered_bootstrap_mean, clustered_proportion

# The name of the rule in a label, and the log-odds of what it says: ln(0.93 / 0.07), 0.93 being the detector's balanced
# accuracy on people's labels (docs/refusal.md).
HARMLESS_RULE = "harmless-is-answered"
_RULE_ODDS = 2.59
PairRule = Literal["different", "first", "all"]
METHOD = "constitution label"
# Hexadecimal digits of the settings' digest in an annotator's name.
_NAME_DIGITS = 12


class LabelRules(Config):
    """How answers are paired and a judge's words become a label."""

    pairs: PairRule = "different"
    """Pairs of a prompt's answers: the two that are least alike (ROUGE-L), the first two, or all. Near copies are never
    paired."""
    num_principles: int = Field(1, ge=1, le=16)
    """Principles a pair is judged by, sampled among those that apply; the label is the mean of their p."""
    clamp: tuple[float, float] | None = None
    """Keep p inside these limits, as the paper does for judges that reason first: (0.4, 0.6)."""
    tie_margin: float = Field(0.0, ge=0, lt=1)
    """A pair with |2p - 1| below this is a tie: counted, and not stored."""

    @field_validator("clamp")
    @classmethod
    def _limits(cls, clamp: tuple[float, float] | None) -> tuple[float, float] | None:
        if clamp is not None and not 0 <= clamp[0] <= 0.5 <= clamp[1] <= 1:
            raise ValueError("is two limits, from 0 to 0.5 and from 0.5 to 1")
        return clamp


def choose_pairs(
    texts: Sequence[str], rule: PairRule, max_rouge_l: float
) -> tuple[list[tuple[int, int]], dict[tuple[int, int], float]]:
    """(pairs of positions, near copies with their likeness) among a prompt's answers, in their order.

    max_rouge_l: answers this like each other, or more, are near copies; so are answers that differ in blanks alone.
    """
    like = {
        (i, j): 1.0 if texts[i].split() == texts[j].split() else rouge_l(texts[i], texts[j])
        for i, j in itertools.combinations(range(len(texts)), 2)
    }
    near = {pair: value for pair, value in like.items() if value >= max_rouge_l}
    fit = [pair for pair in like if pair not in near]
    if rule == "first":
        return fit[:1], near
    if rule == "different":
        # Of equals the first: min keeps it.
        return ([min(fit, key=lambda pair: like[pair])] if fit else []), near
    return fit, near


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What a judge said of a pair by one principle, in both orders of showing.

    odds: ln P(A) - ln P(B) of each order, None where the judge wrote its verdict. worth: what each order tells for the
    first candidate, 1, 0 or 1/2; None where it could not be read, with the reason why.
    """

    principle: str
    odds: tuple[float, float] | None = None
    worth: tuple[float | None, float | None]
    reasons: tuple[str, ...] = ()

    @property
    def p(self) -> float | None:
        """The chance that the first candidate is the better one; None where an order is missing."""
        if self.odds is not None:
            return sigmoid((self.odds[0] - self.odds[1]) / 2)
        first, second = self.worth
        return None if first is None or second is None else (first + second) / 2

    @property
    def place(self) -> float | None:
        """What the judge adds for the first place, in nats of log-odds; None without log-probabilities."""
        return None if self.odds is None else (self.odds[0] + self.odds[1]) / 2

    @property
    def turns(self) -> bool | None:
        """Whether the verdict turns with the order; None where an order has none, or calls it a tie."""
        first, second = self.worth
        return None if first in (None, 0.5) or second in (None, 0.5) else first != second

    def to_json(self) -> dict[str, Any]:
        """For the store: the principle, and what each order said."""
        return {"principle": self.principle, "log_odds": self.odds and list(self.odds), "worth": list(self.worth)}


def opinion_of_odds(principle: str, first: float, second: float) -> Opinion:
    """An opinion from ln P(A) - ln P(B) in the order (first candidate as A) and the other; exact under a swap."""
    worth = tuple(0.5 if odds == 0 else float(odds > 0) for odds in (first, -second))
    return Opinion(principle=principle, odds=(first, second), worth=(worth[0], worth[1]))


def opinion_of_rule(prompt: str, answers: tuple[str, str]) -> Opinion | None:
    """That of two answers to a harmless prompt the one that does not decline is better; None where both do, or neither.

    The refusal detector reads them, so the label is as sure as that is right: no order of showing, no place to prefer.
    """
    declines = [read_refusal(prompt, answer).kind in ("partly", "refuse") for answer in answers]
    if declines[0] == declines[1]:
        return None
    odds = _RULE_ODDS if declines[1] else -_RULE_ODDS
    return opinion_of_odds(HARMLESS_RULE, odds, -odds)


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairLabel:
    """Two candidates by id, and what the judge said of them by each principle."""

    prompt_id: str
    candidates: tuple[str, str]
    opinions: tuple[Opinion, ...]

    @property
    def read(self) -> tuple[Opinion, ...]:
        """The opinions both of whose orders could be read."""
        return tuple(one for one in self.opinions if one.p is not None)

    def p(self, rules: LabelRules) -> float | None:
        """The label: the mean p of the opinions that could be read, inside the limits; None where none could."""
        told = [one.p for one in self.opinions if one.p is not None]
        if not told:
            return None
        p = math.fsum(told) / len(told)
        return p if rules.clamp is None else min(max(p, rules.clamp[0]), rules.clamp[1])

    def is_tie(self, rules: LabelRules) -> bool:
        """Whether the label says too little to be kept."""
        p = self.p(rules)
        return p is not None and abs(2 * p - 1) < rules.tie_margin

    def value(self, rules: LabelRules) -> Compared | None:
        """What is stored: p, or of a judge that writes the outcome where p is 1, 0 or 1/2; None for nothing."""
        p = self.p(rules)
        if p is None or self.is_tie(rules):
            return None
        if p in (0, 0.5, 1) and all(one.odds is None for one in self.read):
            return Compared("A" if p == 1 else "B" if p == 0 else "tie")
        return Compared(p=p)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeller:
    """Who labels: the name it has in a store, and what its labels depend on. settings: JSON can hold them."""

    judge: Mapping[str, str]
    constitution: Constitution
    settings: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Of judge, wording, constitution and settings: one annotator says one thing of one pair."""
        return digest_of([dict(self.judge), self.constitution.digest, dict(self.settings)])

    @property
    def annotator(self) -> str:
        """ai:<judge>:<digest>."""
        name = self.judge.get("model", self.judge["judge"]).rstrip("/").rpartition("/")[2]
        return f"ai:{name}:{self.digest[:_NAME_DIGITS]}"

    def describe(self) -> dict[str, str]:
        """The constitution as outputs name it."""
        constitution = self.constitution
        return {"name": constitution.name, "version": constitution.version, "digest": constitution.digest}

    def store(self, store: FeedbackStore, label: PairLabel, rules: LabelRules) -> bool | None:
        """Put a label in, once: False where it was there, None where it says nothing to keep. Raises as the store."""
        value = label.value(rules)
        if value is None:
            return None
        judgement_id = digest_of([METHOD, self.annotator, label.prompt_id, list(label.candidates)])
        # What stands is kept: computed again, the last digits of p may differ.
        if store.has_judgement(judgement_id):
            return False
        store.add_judgement(
            label.prompt_id, label.candidates, value, annotator=self.annotator, source="ai", judgement_id=judgement_id,
            provenance={
                "method": METHOD, "judge": dict(self.judge), "labeller_digest": self.digest,
                "constitution": self.describe(),
                "principles": [one.principle for one in label.read],
                "opinions": [one.to_json() for one in label.opinions],
            },
        )  # fmt: skip
        return True


def label_facts(labels: Sequence[PairLabel], rules: LabelRules, seed: int) -> dict[str, Any]:
    """What a job's labels say together: how decisive, ties, unread, the place preferred, and each principle's part.

    Intervals are 95 %, clustered by prompt.
    """
    decided = [p for p in (one.p(rules) for one in labels) if p is not None]
    kept = [p for one in labels if (p := one.p(rules)) is not None and not one.is_tie(rules)]
    opinions = [(one, label.prompt_id) for label in labels for one in label.opinions]
    reasons = Counter(reason for one, _ in opinions if one.p is None for reason in one.reasons)
    return {
        "pairs": len(labels),
        "kept": len(kept),
        "ties": len(decided) - len(kept),
        "unread_pairs": len(labels) - len(decided),
        "unread_opinions": sum(one.p is None for one, _ in opinions),
        "unread_reasons": dict(reasons),
        "decisive": math.fsum(abs(2 * p - 1) for p in kept) / len(kept) if kept else None,
        "first_candidate_better": sum(p > 0.5 for p in kept),
        **place_facts([(one, prompt) for one, prompt in opinions if one.principle != HARMLESS_RULE], seed),
        "principles": _by_principle([one for one, _ in opinions]),
    }


def place_facts(opinions: Sequence[tuple[Opinion, str]], seed: int) -> dict[str, Any]:
    """What the judge adds for the first place; opinions come with the cluster they belong to, their prompt.

    position_bias: mean log-odds towards the first place, None without log-probabilities. turned: share of the opinions
    whose verdict turns with the order. prefers_first: share of all decided verdicts that named the answer shown first.
    """
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompt for _, prompt in opinions))}
    places = [(one.place, numbers[prompt]) for one, prompt in opinions if one.place is not None]
    turns = [(float(one.turns), numbers[prompt]) for one, prompt in opinions if one.turns is not None]
    shown = [
        (float(worth == wins), numbers[prompt])
        for one, prompt in opinions
        for worth, wins in zip(one.worth, (1.0, 0.0), strict=True)
        if worth in (0.0, 1.0)
    ]
    shares = {
        name: _as_dict(clustered_proportion([value for value, _ in told], [n for _, n in told])) if told else None
        for name, told in (("turned", turns), ("prefers_first", shown))
    }
    bias = clustered_bootstrap_mean([c for c, _ in places], [n for _, n in places], seed) if places else None
    return {"position_bias": _as_dict(bias) if bias is not None else None, **shares, "two_orders": len(turns)}


def _as_dict(interval: Any) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _by_principle(opinions: Sequence[Opinion]) -> dict[str, dict[str, Any]]:
    """Principle -> opinions asked for, those read, how decisive these are, and how often the order turned them."""
    out: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(one.principle for one in opinions):
        own = [one for one in opinions if one.principle == name]
        told = [abs(2 * one.p - 1) for one in own if one.p is not None]
        out[name] = {
            "asked": len(own),
            "read": len(told),
            "decisive": math.fsum(told) / len(told) if told else None,
            "turned": sum(one.turns is True for one in own),
        }
    return out


def demonstration_pairs(principle: Principle, num: int) -> list[tuple[str, str, str, Literal["A", "B"], str]]:
    """(prompt, answer A, answer B, which is better, why) of the first demonstrations with a fault, places in turn.

    The answer put right is the better one. The places do not follow the question's order, so that what they add for a
    place is the same in both orders, and cancels.
    """
    faulty = [one for one in principle.examples if one.fault][:num]
    return [
        (one.prompt, one.revision, one.answer, "A", one.critique)
        if i % 2
        else (one.prompt, one.answer, one.revision, "B", one.critique)
        for i, one in enumerate(faulty)
    ]
