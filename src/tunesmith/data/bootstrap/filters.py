"""What a new task or instance is turned down for: one reason by name, or None. Words and limits are ours.

The heuristics of Self-Instruct (arXiv:2212.10560, section 2.2 and appendix A) are the model: length, words that speak
of what a language model cannot see, form, echoes, and instances that contradict each other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pydantic import Field

from tunesmith.config import Config
from tunesmith.data.bootstrap.rouge import tokens_of
from tunesmith.data.bootstrap.seeds import Instance

# What a model that reads and writes text alone can neither see, hear, open nor do.
_BLOCKED = (
    "image images photo photos photograph photographs picture pictures graph graphs chart charts diagram diagrams "
    "draw drawing sketch plot video videos audio music melody file files folder attachment attached screenshot "
    "website url link links click upload download camera screen"
)
BLOCKED_WORDS = frozenset(_BLOCKED.split())
_VULGAR = (
    "fuck fucks fucked fucking fucker motherfucker shit shits shitty bullshit bitch bitches cunt cunts asshole "
    "assholes bastard bastards whore whores slut sluts wanker wankers twat"
)
VULGAR_WORDS = frozenset(_VULGAR.split())
# A blank left to be filled in: [your name], [topic of the talk], insert a date here.
_BLANK = re.compile(
    r"\[(?:your|insert|name|topic|input|text)\b[^\]\n]{0,40}\]|\binsert [a-z ]{1,30} here\b", re.IGNORECASE
)
# Control characters, halves of characters, and what broken bytes are decoded to: no row can be trained on them.
_BAD_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffd]")
_NGRAM_WORDS = 4


class FilterConfig(Config):
    """Limits of what is kept."""

    max_rouge_l: float = Field(0.7, gt=0, le=1)
    """A new instruction this similar (ROUGE-L F) to any seed or earlier one is turned down."""
    min_instruction_words: int = Field(3, ge=1)
    """Shorter instructions say too little."""
    max_instruction_words: int = Field(150, ge=1)
    """Longer ones are mostly several tasks, or a task with its answer."""
    max_output_words: int = Field(500, ge=1)
    """Longest output of an instance."""
    max_repeated_share: float = Field(0.3, ge=0, le=1)
    """Largest share of a text's 4-word groups that stood in it before."""
    blocked_words: tuple[str, ...] = ()
    """Words that turn an instruction down, besides our own list."""


def instruction_fault(text: str, limits: FilterConfig) -> str | None:
    """Why an instruction is turned down, its likeness to others aside; None when it is not."""
    if not text.strip():
        return "empty"
    if _BAD_CHARACTER.search(text):
        return "bad_character"
    words = tokens_of(text)
    first = text.lstrip()[0]
    if not words or not (first.isalnum() or first in "\"'“«‘¿¡([{$"):
        return "format"
    # Models that lose the thread answer with the shape of an instance, or with talk about being an assistant.
    if re.search(r"^\s*(?:input|output|label)\s*:", text, re.IGNORECASE | re.MULTILINE) or _BLANK.search(text):
        return "format"
    if len(words) < limits.min_instruction_words:
        return "too_short"
    if len(words) > limits.max_instruction_words:
        return "too_long"
    if not VULGAR_WORDS.isdisjoint(words):
        return "profanity"
    if not BLOCKED_WORDS.isdisjoint(words) or not {word.lower() for word in limits.blocked_words}.isdisjoint(words):
        return "blocked_word"
    return "repetitive" if is_repetitive(text, limits) else None


def instance_fault(instruction: str, instance: Instance, limits: FilterConfig) -> str | None:
    """Why an instance is turned down on its own; None when it is not."""
    if not instance.output.strip():
        return "empty_output"
    if _BAD_CHARACTER.search(instance.input) or _BAD_CHARACTER.search(instance.output):
        return "bad_character"
    told, given, answer = (" ".join(tokens_of(part)) for part in (instruction, instance.input, instance.output))
    if given and answer == given:
        return "input_equals_output"
    if answer and answer == told:
        return "echo_of_instruction"
    if given and given == told:
        return "input_is_instruction"
    if _BLANK.search(instance.output) or _BLANK.search(instance.input):
        return "blank_left"
    if len(answer.split()) > limits.max_output_words:
        return "too_long"
    if not VULGAR_WORDS.isdisjoint(answer.split()) or not VULGAR_WORDS.isdisjoint(given.split()):
        return "profanity"
    if is_repetitive(instance.output, limits) or is_repetitive(instance.input, limits):
        return "repetitive"
    return None


def instances_faults(instruction: str, instances: Sequence[Instance], limits: FilterConfig) -> list[str | None]:
    """One reason or None an instance.

    Besides each one's own faults: ``duplicate`` for a repeated pair, and ``conflict`` for every instance whose input
    has another output elsewhere, since none of them can be told to be the right one.
    """
    outputs: dict[str, set[str]] = {}
    for one in instances:
        outputs.setdefault(_folded(one.input), set()).add(_folded(one.output))
    out, seen = list[str | None](), set[tuple[str, str]]()
    for one in instances:
        pair = (_folded(one.input), _folded(one.output))
        fault = instance_fault(instruction, one, limits)
        if fault is None and len(outputs[pair[0]]) > 1:
            fault = "conflict"
        if fault is None and pair in seen:
            fault = "duplicate"
        seen.add(pair)
        out.append(fault)
    return out


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def repeated_share(text: str) -> float:
    """Share of a text's groups of four words that stood in it before; 0 below eight words."""
    words = tokens_of(text)
    if len(words) < 2 * _NGRAM_WORDS:
        return 0.0
    grams = Counter(tuple(words[i : i + _NGRAM_WORDS]) for i in range(len(words) - _NGRAM_WORDS + 1))
    return 1 - len(grams) / grams.total()


def is_repetitive(text: str, limits: FilterConfig) -> bool:
    """Whether a text says the same over and over: groups of words, or one word five times in a row."""
    return repeated_share(text) > limits.max_repeated_share or bool(
        re.search(r"\b(\w+)(?:\W+\1\b){4}", text, re.IGNORECASE)
    )
