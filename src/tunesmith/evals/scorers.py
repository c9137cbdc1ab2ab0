"""Scorers: an item and the reply to it in, named values out; each rule is stated where it is applied."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import DataError
from tunesmith.evals.task import Item, Reply, Scorer
from tunesmith.records import Verdict


def parse_json_object(text: str) -> dict[str, Any] | None:
    """The answer as one JSON object and nothing around it but white space, else None.

    Strict: NaN and Infinity are not JSON, and a key that stands twice in one object is refused.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        raise ValueError("a key stands twice")
    return out


def json_fields(fields: Sequence[str]) -> Scorer:
    """Score a JSON answer against the item's target, itself a JSON object.

    Values (0 or 1): valid_json (one object with the target's keys and no others), one a field (equal to the target's,
    letter by letter and of the same type), all_fields (valid and every field right). Raises DataError for a target that
    is no such object.
    """

    def score(item: Item, reply: Reply) -> Verdict:
        target, answer = parse_json_object(item.target), parse_json_object(reply.text)
        if target is None or not set(fields) <= target.keys():
            cause = f"its target is no JSON object with {', '.join(fields)}."
            raise DataError(f"item {item.id}", cause, "Correct the target, or the scorer's fields.")
        right = {field: answer is not None and _same(answer, target, field) for field in fields}
        valid = answer is not None and answer.keys() == target.keys()
        values = {
            "valid_json": float(valid),
            **{field: float(ok) for field, ok in right.items()},
            "all_fields": float(valid and all(right.values())),
        }
        faults = [] if valid else ["no JSON object" if answer is None else "keys missing or added"]
        faults += [f"wrong {field}" for field, ok in right.items() if not ok]
        return Verdict(values=values, explanation="; ".join(faults))

    return score


def _same(answer: dict[str, Any], target: dict[str, Any], field: str) -> bool:
    # Compared as JSON, where true is not 1 and 1 is not 1.0 as they are in Python.
    return field in answer and json.dumps(answer[field], sort_keys=True) == json.dumps(target[field], sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToneRules:
    """A brand's tone as rules a reader can check: words at most, emojis exactly, words to use, words to avoid."""

    max_words: int
    num_emojis: int
    cheerful_words: tuple[str, ...]
    gloomy_words: tuple[str, ...]


def num_emojis(text: str) -> int:
    """Pictographs in a text: characters of Unicode category So from U+2190 on.

    One with a variation selector, a skin tone or joined parts counts once, and so does a flag.
    """
    count, joined, in_flag, drawn = 0, False, False, False
    for character in text:
        if character == "\u200d":
            joined = drawn
        elif "\U0001f1e6" <= character <= "\U0001f1ff":
            # A flag is two letters: the second one completes it.
            in_flag = not in_flag
            count += in_flag
            joined, drawn = False, True
        elif unicodedata.category(character) == "So" and ord(character) >= 0x2190:
            count += not joined
            joined, in_flag, drawn = False, False, True
        elif character != "\ufe0f" and not "\U0001f3fb" <= character <= "\U0001f3ff":
            joined, in_flag, drawn = False, False, False
    return count


def tone_faults(text: str, rules: ToneRules) -> list[str]:
    """The rules a reply breaks, in words; an empty list means the tone is right."""
    words = re.findall(r"[\w'’-]*\w[\w'’-]*", text.lower())
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
    """json_fields, and the value ``tone``: the text in ``tone_field`` keeps every rule of the tone."""
    score_fields = json_fields(fields)

    def score(item: Item, reply: Reply) -> Verdict:
        verdict, answer = score_fields(item, reply), parse_json_object(reply.text)
        words = answer.get(tone_field) if answer is not None else None
        faults = tone_faults(words, rules) if isinstance(words, str) else [f"no {tone_field}"]
        explanation = "; ".join(part for part in (verdict.explanation, *faults) if part)
        return Verdict(values={**verdict.values, "tone": float(not faults)}, explanation=explanation)

    return score


def exact_text(item: Item, reply: Reply) -> Verdict:
    """Whether an answer is the target, letter case and punctuation aside; of a target of marks alone, mark by mark.

    Values (0 or 1): exact (the target and nothing else), contained (the target's words stand in the answer, in a row).
    """
    said, target = comparable(reply.text, item.target), comparable(item.target, item.target)
    exact, contained = said == target, f" {target} " in f" {said} "
    explanation = "" if exact else f"'{target}' was expected"
    return Verdict(values={"exact": float(exact), "contained": float(contained)}, explanation=explanation)


def comparable(text: str, target: str) -> str:
    """A text as it is compared with a target: its words, or where the target has none (``+``) its marks as they are.

    Without that, an empty answer would be every such target.
    """
    return normalised(text) if normalised(target) else unicodedata.normalize("NFKC", text).strip()


def normalised(text: str) -> str:
    """A text's words in small letters with single blanks between them: Unicode form NFKC, no punctuation."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower()))
