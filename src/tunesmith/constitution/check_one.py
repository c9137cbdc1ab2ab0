"""One rule by itself: its weight, its pattern, the words of its requests, its demonstrations, their length."""

from __future__ import annotations

import re
from collections.abc import Callable

from tunesmith.constitution.findings import Findings, plain
from tunesmith.constitution.pattern_check import pattern_facts
from tunesmith.constitution.principles import PLACEHOLDERS, Principle, filled
from tunesmith.data.check import shown

# A request that points at something which no placeholder puts there.
_POINTS = re.compile(r"\b(following|below|underneath)\b|:\s*$", re.IGNORECASE)
_SAYS_ANSWER = re.compile(r"answer|repl(y|ies)|respon[sd]|\bit\b", re.IGNORECASE)
_BRACES = re.compile(r"\{[^{}]*\}")
# A critic shown so many demonstrations of one kind is led by them.
ONE_SIDED = 2


def look_at(one: Principle, findings: Findings, count_tokens: Callable[[str], int], context_tokens: int) -> None:
    """Note what is wrong with one rule."""
    if one.weight == 0:
        findings.add(
            "warning", "never-drawn", one, "weight", "its weight is 0: it is never drawn.", "Raise it, or leave it out."
        )
    _look_at_pattern(one, findings)
    _look_at_words(one, findings)
    _look_at_demonstrations(one, findings)
    _look_at_length(one, findings, count_tokens, context_tokens)


def _look_at_pattern(one: Principle, findings: Findings) -> None:
    if one.applies.pattern is None:
        return
    facts = pattern_facts(one.applies.pattern)
    if facts.slow_on:
        findings.add(
            "error", "slow-pattern", one, "applies.pattern",
            f"its search finds no end in time on a long run of '{shown(facts.slow_on)}'.",
            "Write repeats inside repeats, as (a+)+, without the outer or the inner one.",
        )  # fmt: skip
    elif facts.matches == "nothing":
        findings.add(
            "error", "unreachable", one, "applies.pattern", "no text matches it: each way to grow one was tried.",
            "Correct it; an empty class, or ^ behind a character, can match nothing.",
        )  # fmt: skip
    elif facts.matches == "disputed":
        findings.add(
            "error", "disputed-pattern", one, "applies.pattern",
            f"it is found in '{shown(facts.witness)}' here, and not by Python's re: two engines read it in two ways.",
            "Write it another way.",
        )  # fmt: skip
    elif facts.matches == "everything":
        findings.add(
            "note", "matches-everything", one, "applies.pattern", "it is found in every text: it narrows nothing down.",
            "Leave it out, or narrow it.",
        )  # fmt: skip


def _look_at_words(one: Principle, findings: Findings) -> None:
    if found := _BRACES.search(one.text):
        findings.add(
            "warning", "not-filled", one, "text", f"{shown(found[0])} stays as it is: only requests are filled in.",
            "Say it in words.",
        )  # fmt: skip
    words = dict.fromkeys(PLACEHOLDERS, "")
    for key, request in (("critique_request", one.critique_request), ("revision_request", one.revision_request)):
        if found := re.search(r"[{}]", filled(request, **words)):
            findings.add(
                "warning", "not-filled", one, key,
                f"holds a '{found[0]}' that belongs to no placeholder and stays as it is.",
                f"Write {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)} without spaces, or no braces.",
            )  # fmt: skip
        named = "{prompt}" in request or "{answer}" in request or "{critique}" in request or "{principle}" in request
        if (found := _POINTS.search(request)) and not named:
            findings.add(
                "warning", "points-at-nothing", one, key,
                f"'{shown(found[0])}' points at something behind it, but the conversation stands before the request.",
                "Write {answer} or {prompt} where it should stand, or say 'the answer'.",
            )  # fmt: skip
        elif key == "critique_request" and not named and not _SAYS_ANSWER.search(request):
            findings.add(
                "note", "names-no-answer", one, key, "does not say that it is about the answer.",
                "Say 'the answer', or write {answer}.",
            )  # fmt: skip


def _look_at_demonstrations(one: Principle, findings: Findings) -> None:
    if not one.examples:
        findings.add(
            "warning", "no-demonstrations", one, "", "it has no demonstration: small models need some.",
            "Add `examples`, with and without a fault.",
        )  # fmt: skip
    faults = [shot.fault for shot in one.examples]
    if len(faults) >= ONE_SIDED and len(set(faults)) == 1:
        what = "none is without" if faults[0] else "none has"
        findings.add(
            "note", "one-sided", one, "examples", f"of {len(faults)} demonstrations {what} a fault, and critics copy.",
            "Add one of the other kind.",
        )  # fmt: skip
    said = dict[tuple[str, str], tuple[int, bool]]()
    for number, shot in enumerate(one.examples):
        earlier = said.setdefault((plain(shot.prompt), plain(shot.answer)), (number, shot.fault))
        if earlier[0] != number:
            differ = earlier[1] != shot.fault
            findings.add(
                "error" if differ else "warning", "contradiction" if differ else "duplicate", one, f"examples.{number}",
                f"shows the same prompt and answer as examples.{earlier[0]}, "
                f"{'once with a fault and once without' if differ else 'again'}.", "Keep one of the two.",
            )  # fmt: skip
        if shot.fault and plain(shot.revision) == plain(shot.answer):
            findings.add(
                "error", "contradiction", one, f"examples.{number}.revision",
                "the answer has a fault and its revision is the same answer.", "Put it right, or set fault: false.",
            )  # fmt: skip


def _look_at_length(one: Principle, findings: Findings, count_tokens: Callable[[str], int], context: int) -> None:
    """What a critic and a reviser read before the conversation: all demonstrations, and the requests."""
    requests = f"{one.text} {one.critique_request} {one.revision_request}"
    shown_texts = [f"{shot.prompt} {shot.answer} {shot.critique} {shot.revision} {requests}" for shot in one.examples]
    tokens = count_tokens(" ".join([*shown_texts, requests]))
    if tokens > context / 2:
        findings.add(
            "warning", "long", one, "examples" if one.examples else "",
            f"its demonstrations and requests take about {tokens} tokens, over half of a context of {context}.",
            "Shorten them, show fewer, or use a model that reads more.",
        )  # fmt: skip
