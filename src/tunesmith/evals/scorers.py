"""Scorers: an item and an answer's text in, named values out; each rule is stated where it is applied."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evals.task import Item, Scorer
from tunesmith.records import Verdict


def parse_json_object(text: str) -> dict[str, Any] | None:
    """The answer as one JSON object and nothing around it but white space, else None; NaN is not JSON."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToneRules:
    """A brand's tone as rules a reader can check: words at most, emojis exactly, words to use, words to avoid."""

    max_words: int
    num_emojis: int
    cheerful_words: tuple[str, ...]
    gloomy_words: tuple[str, ...]


def num_emojis(text: str) -> int:
    """Emojis in a text; one with a variation selector, a skin tone or joined parts counts once."""
    count, joined = 0, False
    for character in text:
        if character == "\u200d":
            joined = True
            continue
        modifier = character == "\ufe0f" or "\U0001f3fb" <= character <= "\U0001f3ff"
        symbol = unicodedata.category(character) == "So" and ord(character) >= 0x2190
        if symbol and not modifier:
            count += not joined
            joined = False
    return count


def tone_faults(text: str, rules: ToneRules) -> list[str]:
    """The rules a reply breaks, in words; an empty list means the tone is right."""
    words = re.findall(r"[\w'-]+", text.lower())
    faults = []
    if not words:
        faults.append("says nothing")
    if len(words) > rules.max_words:
        faults.append(f"{len(words)} words instead of {rules.max_words} at most")
    if (count := num_emojis(text)) != rules.num_emojis:
        faults.append(f"{count} emojis instead of {rules.num_emojis}")
    if not set(words) & set(rules.cheerful_words):
        faults.append("no cheerful word")
    if gloomy := sorted(set(words) & set(rules.gloomy_words)):
        faults.append(f"gloomy: {', '.join(gloomy)}")
    return faults


def json_ticket(fields: Sequence[str], tone_field: str, rules: ToneRules) -> Scorer:
    """Score a JSON answer against the item's target.

    Values (0 or 1): valid_json (one object, the target's keys and no others), one a field (exact match),
    all_fields (every field at once), tone (the text in ``tone_field`` keeps every rule).
    """

    def score(item: Item, text: str) -> Verdict:
        target, answer = json.loads(item.target), parse_json_object(text)
        right = {field: answer is not None and field in answer and answer[field] == target[field] for field in fields}
        valid = answer is not None and set(answer) == set(target)
        reply = answer.get(tone_field) if answer is not None else None
        faults = tone_faults(reply, rules) if isinstance(reply, str) else ["no reply"]
        values = {
            "valid_json": float(valid),
            **{field: float(ok) for field, ok in right.items()},
            "all_fields": float(valid and all(right.values())),
            "tone": float(not faults),
        }
        wrong = [field for field, ok in right.items() if not ok]
        return Verdict(values=values, explanation="; ".join([*(f"wrong {field}" for field in wrong), *faults]))

    return score


def exact_expansion(item: Item, text: str) -> Verdict:
    """Whether the answer contains the target's words in order, case and punctuation aside."""
    said, target = _plain(text), _plain(item.target)
    return Verdict(values={"exact": float(f" {target} " in f" {said} ")})


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
