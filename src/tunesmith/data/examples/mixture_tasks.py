"""The shipped mixture: nine small tasks of our own, six to train on and three held out. Seeded, ours, no network.

The held-out tasks are of the same kinds (a mood, a code in a note, a word for a word) and share no wording, subject or
class name with the trained ones. Test rows of the trained tasks use wordings, names and products that no training row
has. ``mixture/mixture.yaml`` holds the templates.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.examples import mixture_wording as words
from tunesmith.data.examples.mixture_nouns import NOUNS
from tunesmith.randomness import generator

SEED = 20261125
SIZES = {"train": 200, "test": 60}
FOLDER = Path(__file__).parent / "mixture"
Row = dict[str, Any]


def _filled(patterns: Iterable[str], **values: Sequence[str]) -> list[str]:
    """Every pattern with every combination of the values it has a place for."""
    out = []
    for pattern in patterns:
        names = [name for name in values if f"{{{name}}}" in pattern]
        combinations = itertools.product(*(values[name] for name in names))
        out += [pattern.format_map(dict(zip(names, chosen, strict=True))) for chosen in combinations]
    return out


def _balanced(groups: dict[str, list[str]], text: str, label: str, draws: np.random.Generator, size: int) -> list[Row]:
    """As many rows of each class, none twice."""
    each = size // len(groups)
    return [
        {text: said[int(i)], label: name}
        for name, said in groups.items()
        for i in draws.choice(len(said), size=each, replace=False)
    ]


def _sentiment(split: str, draws: np.random.Generator, size: int) -> list[Row]:
    patterns = {
        mood: [said + ending for said in texts for ending in words.REVIEW_ENDINGS[split]]
        for mood, texts in words.REVIEWS[split].items()
    }
    groups = {mood: _filled(texts, P=words.PRODUCTS[split]) for mood, texts in patterns.items()}
    return _balanced(groups, "review", "sentiment", draws, size)


def _topic(split: str, draws: np.random.Generator, size: int) -> list[Row]:
    greetings = {"train": ("", "Hello! ", "Good morning. ", "Hi! "), "test": ("", "Dear shop! ")}[split]
    groups = {}
    for topic, patterns in words.TOPICS[split].items():
        said = _filled(patterns, P=words.PRODUCTS[split], D=words.DAYS[split])
        tails = {"train": ("", " Please answer soon.", " Thanks."), "test": ("", " Kind regards.")}[split]
        groups[topic] = [f"{greeting}{text}{tail}" for text in said for greeting in greetings for tail in tails]
    return _balanced(groups, "message", "topic", draws, size)


def _code(draws: np.random.Generator, letters: str, pattern: str) -> str:
    """A code after a pattern in which L is a letter and 9 a digit."""
    made = (letters[int(draws.integers(len(letters)))] if c == "L" else str(draws.integers(10)) for c in pattern)
    return "".join(character if mark in "L9" else mark for character, mark in zip(made, pattern, strict=True))


def _order_number(split: str, draws: np.random.Generator, size: int) -> list[Row]:
    letters = {"train": "ABCDEFGH", "test": "KLMNPQRS"}[split]
    patterns = words.ORDER_MESSAGES[split]
    rows = []
    for i in range(size):
        code = _code(draws, letters, "LL-99999")
        product, day = _pick(draws, words.PRODUCTS[split]), _pick(draws, words.DAYS[split])
        rows.append({"message": patterns[i % len(patterns)].format(C=code, P=product, D=day), "order_number": code})
    return rows


def _pick(draws: np.random.Generator, values: Sequence[str]) -> str:
    return values[int(draws.integers(len(values)))]


def _entailment(split: str, draws: np.random.Generator, size: int) -> list[Row]:
    rows: list[Row] = []
    for a, b in itertools.permutations(words.NAMES[split], 2):
        for fact, follows, contradicts in words.FACTS[split]:
            n, o = (str(number) for number in draws.choice(np.arange(2, 10), size=2, replace=False))
            for claim, answer in ((follows, "yes"), (contradicts, "no")):
                values = {"A": a, "B": b, "N": n, "O": o}
                rows.append({"fact": fact.format_map(values), "claim": claim.format_map(values), "answer": answer})
    different = list({row["fact"] + row["claim"]: row for row in rows}.values())
    groups = {answer: [row for row in different if row["answer"] == answer] for answer in ("yes", "no")}
    return [rows[int(i)] for rows in groups.values() for i in draws.choice(len(rows), size=size // 2, replace=False)]


def _unit_conversion(split: str, draws: np.random.Generator, size: int) -> list[Row]:
    pairs = [(unit, amount) for unit in words.UNITS[split] for amount in range(2, 60)]
    rows = []
    for i in draws.choice(len(pairs), size=size, replace=False):
        (large, one, small, factor), amount = pairs[int(i)]
        result = amount * factor
        rows.append(
            {
                "amount": amount,
                "unit": large,
                "wanted_unit": small,
                "result": str(result),
                "rationale": f"One {one} is {factor} {small}. {amount} times {factor} is {result}.",
            }
        )
    return rows


def _plural(split: str, draws: np.random.Generator, size: int) -> list[Row]:
    order = generator(SEED, "mixture_nouns").permutation(len(NOUNS))
    nouns = [NOUNS[int(i)] for i in order]
    chosen = nouns[: SIZES["test"]] if split == "test" else nouns[SIZES["test"] :]
    return [{"word": word, "plural": plural} for word, plural in chosen[:size]]


def _guest_mood(split: str, draws: np.random.Generator, size: int) -> list[Row]:
    stays = _filled(words.GUEST_STAYS, N=[str(n) for n in range(2, 10)])
    groups = {mood: [f"{stay} {text}" for text in texts for stay in stays] for mood, texts in words.GUESTS.items()}
    return _balanced(groups, "comment", "mood", draws, size)


def _booking_code(split: str, draws: np.random.Generator, size: int) -> list[Row]:
    rows = []
    for i in range(size):
        code, time = _code(draws, "TUVWXYZ", "9LL9L9"), f"{draws.integers(6, 22)}:{draws.integers(1, 6)}0"
        day, number = _pick(draws, words.DAYS["test"]), str(draws.integers(2, 9))
        note = words.TRIP_NOTES[i % len(words.TRIP_NOTES)].format(C=code, T=time, D=day, N=number)
        rows.append({"note": note, "code": code})
    return rows


def _opposite(split: str, draws: np.random.Generator, size: int) -> list[Row]:
    pairs = [tuple(pair.split()) for pair in words.OPPOSITES.split(", ")]
    rows = [{"word": a, "opposite": b} for one, other in pairs for a, b in ((one, other), (other, one))]
    return [rows[int(i)] for i in draws.choice(len(rows), size=size, replace=False)]


TASKS: dict[str, Callable[[str, np.random.Generator, int], list[Row]]] = {
    "sentiment": _sentiment,
    "topic": _topic,
    "order_number": _order_number,
    "entailment": _entailment,
    "unit_conversion": _unit_conversion,
    "plural": _plural,
}
HELD_OUT: dict[str, Callable[[str, np.random.Generator, int], list[Row]]] = {
    "guest_mood": _guest_mood,
    "booking_code": _booking_code,
    "opposite": _opposite,
}
NUM_HELD_OUT_ROWS = 100


def build_rows(name: str, split: str, seed: int = SEED) -> list[Row]:
    """A task's rows of one split, shuffled; a held-out task has only test rows."""
    draws = generator(seed, "mixture_rows_made", name, split)
    if name in HELD_OUT:
        rows = HELD_OUT[name]("test", draws, NUM_HELD_OUT_ROWS)
    else:
        rows = TASKS[name](split, draws, SIZES[split])
    return [rows[int(i)] for i in draws.permutation(len(rows))]


def file_names() -> dict[str, tuple[str, str]]:
    """File name -> (task, split) of every shipped file."""
    trained = {f"{name}_{split}.jsonl": (name, split) for name in TASKS for split in SIZES}
    return {**trained, **{f"{name}_test.jsonl": (name, "test") for name in HELD_OUT}}


def write_files(folder: Path) -> None:
    """Write the shipped files anew into a folder."""
    for file, (name, split) in file_names().items():
        lines = [json.dumps(row, ensure_ascii=False) for row in build_rows(name, split)]
        (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_files(FOLDER)
