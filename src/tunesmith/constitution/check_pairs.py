"""Rules beside each other: said twice, said the other way round, or pulling one answer to and fro."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations

from tunesmith.constitution.applies import Applicability
from tunesmith.constitution.findings import Findings, plain, quoted
from tunesmith.constitution.principles import Constitution, Principle
from tunesmith.data.near import near_clusters

# Shared runs of three words, and cosine of sentence vectors, above which two rules say nearly the same.
NEAR_WORDS, NEAR_MEANING = 0.6, 0.75
# Two stances are about the same thing that share so much of their words (Jaccard), of at least so many.
SAME_THING, FEWEST_WORDS = 0.75, 2
_TURNS = frozenset({
    "no", "not", "never", "none", "nobody", "nothing", "neither", "nor", "cannot", "without", "avoid", "stop",
    "refrain",
})  # fmt: skip
# Words of two poles: each stands for its pair's name, the second with the sign turned.
_POLES = (
    ("help", "helps assist assists comply complies", "refuse refuses decline declines reject rejects deny denies"),
    (
        "include",
        "include includes add adds keep keeps name names mention mentions",
        "omit omits leave drop drops remove",
    ),
    ("long", "long longer detailed", "short shorter brief briefly concise"),
    ("more", "more", "less fewer"),
    ("allow", "allow allows permit permits", "forbid forbids ban bans prohibit prohibits"),
    ("formal", "formal", "informal casual"),
    ("certain", "certain certainly", "uncertain unsure"),
)
_SMALL = frozenset({
    "a", "an", "the", "of", "to", "in", "on", "at", "for", "and", "or", "but", "so", "that", "this", "these", "it",
    "its", "is", "are", "be", "been", "do", "does", "did", "must", "should", "shall", "will", "would", "always",
    "ever", "again", "please", "write", "answer", "answers", "reply", "response", "with", "as", "by", "from", "out",
    "any", "some", "s",
})  # fmt: skip
_POLE = {
    word: (name, sign)
    for name, plus, minus in _POLES
    for words, sign in ((plus, 1), (minus, -1))
    for word in words.split()
}


@dataclass(frozen=True, slots=True)
class Stance:
    """What a sentence is about, and whether it is for or against: its words without those that turn it round."""

    words: frozenset[str]
    sign: int


def stance(text: str) -> Stance:
    """Words that carry meaning, poles under one name, and the sign: turned by each "not", "without", second pole."""
    sign, words = 1, set[str]()
    for word in re.findall(r"[^\W_]+(?:['’]t)?", text.lower()):
        if word in _TURNS or word.endswith(("n't", "n’t")):
            sign = -sign
        elif word in _POLE:
            words.add(_POLE[word][0])
            sign *= _POLE[word][1]
        elif word not in _SMALL:
            # "promises" and "promise" are one word.
            words.add(word.removesuffix("s") if len(word) > 3 else word)
    return Stance(frozenset(words), sign)


def opposed(first: str, second: str) -> bool:
    """Whether two sentences are about the same words, and one is turned round and the other is not."""
    a, b = stance(first), stance(second)
    if min(len(a.words), len(b.words)) < FEWEST_WORDS or a.sign == b.sign:
        return False
    return len(a.words & b.words) >= SAME_THING * len(a.words | b.words)


def look_at_pairs(constitution: Constitution, applicability: Applicability, findings: Findings) -> None:
    """Note duplicates, near duplicates and contradictions of form between two rules."""
    principles = constitution.principles
    clusters = near_clusters([plain(one.text) for one in principles], NEAR_WORDS)
    vectors = applicability.vectors.of([one.text for one in principles]) if applicability.has_planes else None
    reached = _reached_prompts(constitution, applicability)
    for i, j in combinations(range(len(principles)), 2):
        one, other = principles[i], principles[j]
        cosine = 0.0 if vectors is None else float(vectors[i] @ vectors[j])
        if (shared := _shared(one, other, reached)) is not None:
            _look_for_opposites(one, other, shared, findings)
        _look_for_copies(one, other, clusters[i] == clusters[j], cosine, findings)
        _look_for_a_tug_of_war(one, other, findings)
        _look_for_a_tug_of_war(other, one, findings)
    for one in principles:
        both = {plain(text) for text in one.applies.like} & {plain(text) for text in one.applies.unlike}
        if both:
            findings.add(
                "error", "contradiction", one, "applies",
                f"{quoted(min(both))} stands under `like` and under `unlike`.", "Keep one of the two.",
            )  # fmt: skip


def _look_for_copies(one: Principle, other: Principle, near: bool, cosine: float, findings: Findings) -> None:
    if plain(one.text) == plain(other.text):
        same = one.applies == other.applies
        findings.add(
            "error" if same else "warning", "duplicate", other, "text",
            f"says the same as {one.id}{', for the same prompts' if same else ''}.",
            "Keep one, with the sum of both weights.",
        )  # fmt: skip
    elif near or cosine >= NEAR_MEANING:
        what = (
            "shares most of its words with"
            if near
            else f"is near in meaning to (cosine {cosine:.2f}), or the reverse of,"
        )
        findings.add(
            "warning" if near else "note", "near-duplicate", other, "text", f"{what} {one.id}.",
            "Keep one, or say what sets them apart.",
        )  # fmt: skip


def _look_for_opposites(one: Principle, other: Principle, shared: str, findings: Findings) -> None:
    for key in ("text", "revision_request"):
        if opposed(getattr(one, key), getattr(other, key)):
            findings.add(
                "error", "contradiction", other, key,
                f"says in the same words the opposite of {one.id}, and both apply to {shared}.",
                "Drop one, or let `applies` keep them apart.",
            )  # fmt: skip


def _look_for_a_tug_of_war(one: Principle, other: Principle, findings: Findings) -> None:
    """What one rule's demonstration puts right, the other's finds a fault in."""
    faulty = {(plain(shot.prompt), plain(shot.answer)) for shot in other.examples if shot.fault}
    for number, shot in enumerate(one.examples):
        if shot.fault and (plain(shot.prompt), plain(shot.revision)) in faulty:
            findings.add(
                "error", "contradiction", one, f"examples.{number}.revision",
                f"{other.id} shows this very answer to the same prompt as faulty.", "Let one answer satisfy both.",
            )  # fmt: skip


def _reached_prompts(constitution: Constitution, applicability: Applicability) -> dict[str, set[str]]:
    """Rule -> those prompts of the whole file that it applies to."""
    prompts = [
        text
        for one in constitution.principles
        for text in (*one.applies.like, *one.applies.unlike, *(shot.prompt for shot in one.examples))
    ]
    prompts = list(dict.fromkeys(prompts))
    out = {one.id: set[str]() for one in constitution.principles}
    for text, found in zip(prompts, applicability.of_texts(prompts), strict=True):
        for one in found:
            out[one.id].add(text)
    return out


def _shared(one: Principle, other: Principle, reached: dict[str, set[str]]) -> str | None:
    """What both rules apply to, in words; None where nothing is known that they share."""
    if not (one.weight and other.weight):
        return None
    if one.applies == other.applies:
        return "the same prompts"
    if any(not (rule.applies.pattern or rule.applies.like) for rule in (one, other)):
        return "some prompts, as one of them always applies"
    both = reached[one.id] & reached[other.id]
    return quoted(min(both)) if both else None
