"""Changes to a question that keep its meaning: pure functions of (text, seed, key), for robustness.

Source of the idea: HELM's perturbations (arXiv:2211.09110, §4.3); tables and rules are our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np

from tunesmith.randomness import generator

# text, seed, key of the item -> text
Change = Callable[[str, int, str], str]

TYPO_RATE = 0.1
# Words that decide an answer: a typo in one could change what is asked.
_KEPT = frozenset(
    re.findall(
        r"\w+",
        "not never none nothing nobody neither without cannot isn wasn aren doesn didn wouldn shouldn couldn zero "
        "four five seven eight nine eleven twelve twenty thirty forty fifty hundred thousand million half twice more "
        "less fewer most least before after true false",
    )
)
_WORD = re.compile(r"(?<![\w'’])[A-Za-z]{4,}(?![\w'’])")
# Neighbours on a QWERTY keyboard, in the same row.
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_BESIDE: Mapping[str, str] = {
    letter: row[max(0, i - 1) : i] + row[i + 1 : i + 2] for row in _ROWS for i, letter in enumerate(row)
}


def typos(text: str, seed: int, key: str) -> str:
    """One slip in a tenth of the words of four letters or more, at least one where there is such a word.

    A slip is a swap of two neighbours, a letter left out, doubled, or replaced by its neighbour on the keyboard. First
    and last letters, numbers, negations and comparisons stay as they are.
    """
    words = [match for match in _WORD.finditer(text) if match[0].lower() not in _KEPT]
    if not words:
        return text
    rng = generator(seed, "typos", key)
    chosen = rng.permutation(len(words))[: max(1, round(TYPO_RATE * len(words)))]
    for place in sorted((int(i) for i in chosen), reverse=True):
        match = words[place]
        text = text[: match.start()] + _slip(match[0], rng) + text[match.end() :]
    return text


def _slip(word: str, rng: np.random.Generator) -> str:
    kind, i = int(rng.integers(4)), int(rng.integers(1, len(word) - 1))
    if kind == 0 and i + 1 < len(word) - 1 and word[i] != word[i + 1]:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == 1:
        return word[:i] + word[i + 1 :]
    if kind == 2:
        return word[:i] + word[i] + word[i:]
    beside = _BESIDE[word[i].lower()]
    letter = beside[int(rng.integers(len(beside)))]
    return word[:i] + (letter.upper() if word[i].isupper() else letter) + word[i + 1 :]


def small_letters(text: str, seed: int, key: str) -> str:
    """All letters small."""
    return "".join(_exchanged(letter, letter.lower()) for letter in text)


def capitals(text: str, seed: int, key: str) -> str:
    """All letters capital; letters without a capital of their own, such as ß, stay."""
    return "".join(_exchanged(letter, letter.upper()) for letter in text)


def _exchanged(letter: str, other: str) -> str:
    return other if len(other) == 1 and other.lower() == letter.lower() else letter


def spacing(text: str, seed: int, key: str) -> str:
    """Every blank between words becomes one to three; line breaks stay."""
    rng = generator(seed, "spacing", key)
    return re.sub(r"(?<=\S) (?=\S)", lambda _: " " * int(rng.integers(1, 4)), text)


_WORDINGS = (
    "Please answer this question.\n\n{}",
    "I have something to ask you. {}",
    "{}\n\nThink it over and give the answer.",
    "Here is a task for you:\n\n{}\n\nThat is all.",
)


def reworded(text: str, seed: int, key: str) -> str:
    """The question in one of four frames, drawn by the item."""
    return _WORDINGS[int(generator(seed, "reworded", key).integers(len(_WORDINGS)))].format(text)


ROBUSTNESS: Mapping[str, Change] = {
    "typos": typos,
    "small letters": small_letters,
    "capitals": capitals,
    "spacing": spacing,
    "reworded": reworded,
}
