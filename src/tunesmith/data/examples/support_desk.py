"""The demo's rows: a customer's message becomes a fixed JSON ticket. Seeded, ours, no network.

Labelling guide; every label can be decided from the message alone:
category   delivery (not arrived), damaged (broken or not working), billing (invoice, price or payment is wrong), return
           (wants to give it back or exchange it), question (wants to know something about the product)
priority   high when a deadline or danger is named, else normal
product    the product's name as written: two words
order_id   as written, two capital letters, a hyphen, five digits; null when none is given
sentiment  angry, happy, or neutral when no feeling is voiced
reply      the brand's tone: cheerful, at most 25 words, exactly one emoji; it thanks as the sentiment asks for, says
           what happens next as the category asks for, and names the product

Wordings, products, names and order ids of the three splits are disjoint, so nothing learnt by heart helps on the test
rows. One row in five carries a typo; none touches a product, a name or an order id. A ticket is JSON as json.dumps
writes it, blanks after commas and colons: compact JSON saves ten tokens a row, but the base, shown 3 of them,
writes valid tickets in 2 of 80 rows instead of 22, and beating that would prove less.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.examples.support_desk_wording import (
    ASIDES,
    BRANDS,
    CLOSINGS,
    DANGERS,
    DEADLINES,
    DEVICES,
    FEELINGS,
    GREETINGS,
    NAMES,
    ORDERS,
    PROBLEMS,
)
from tunesmith.randomness import generator

SEED = 20261123
SIZES = {"train": 900, "valid": 100, "test": 200}
SYSTEM = (
    "Write a JSON ticket: category (delivery, damaged, billing, return, question), priority (high, normal), product, "
    "order_id, sentiment (angry, neutral, happy), reply (cheerful, one emoji)."
)
FIELDS = ("category", "priority", "product", "order_id", "sentiment")
CATEGORIES = ("delivery", "damaged", "billing", "return", "question")
PRIORITIES = ("high", "normal")
SENTIMENTS = ("angry", "neutral", "happy")

THANKS = {
    "angry": "Thanks for telling us!",
    "neutral": "Thanks for writing!",
    "happy": "How lovely to hear from you!",
}
NEXT_STEP = {
    "delivery": "We gladly track down your {P} today 🚚",
    "damaged": "We gladly replace your {P} right away 🎁",
    "billing": "We gladly put the bill for your {P} right 💛",
    "return": "We gladly take back your {P} 📦",
    "question": "We gladly tell you all about the {P} 😊",
}
MAX_REPLY_WORDS = 25
CHEERFUL_WORDS = ("thanks", "great", "happy", "gladly", "lovely", "delighted", "wonderful", "glad", "welcome", "joy")
GLOOMY_WORDS = ("unfortunately", "sorry", "regret", "cannot", "impossible", "complaint", "policy")

_TYPO_SHARE, _ASIDE_SHARE, _GREETING_SHARE, _CLOSING_SHARE, _ORDER_SHARE = 0.2, 0.3, 0.4, 0.4, 0.7
_HIGH_SHARE, _DANGER_SHARE, _BEFORE_SHARE = 0.45, 0.5, 0.25
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def build_rows(split: str, num_rows: int, seed: int = SEED) -> list[dict[str, Any]]:
    """Rows of one split (train, valid or test) in the ``messages`` shape; no message stands in them twice."""
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    attempt = 0
    while len(rows) < num_rows:
        message, ticket = _one(split, generator(seed, "support_desk", split, attempt))
        attempt += 1
        if message in seen:
            continue
        seen.add(message)
        answer = json.dumps(ticket, ensure_ascii=False)
        turns = [("system", SYSTEM), ("user", message), ("assistant", answer)]
        rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    return rows


def order_prefixes(split: str) -> list[str]:
    """The letter pairs a split's order ids begin with: a fifth of all each for valid and test, the rest for train."""
    part = {"test": (0,), "valid": (1,), "train": (2, 3, 4)}[split]
    pairs = [first + second for first in _LETTERS for second in _LETTERS]
    return [pair for pair in pairs if (7 * ord(pair[0]) + 3 * ord(pair[1])) % 5 in part]


def _one(split: str, draws: np.random.Generator) -> tuple[str, dict[str, str | None]]:
    category, sentiment = _pick(draws, CATEGORIES), _pick(draws, SENTIMENTS)
    high = bool(draws.random() < _HIGH_SHARE)
    product = f"{_pick(draws, BRANDS[split])} {_pick(draws, DEVICES[split])}"
    order = _order_id(split, draws) if draws.random() < _ORDER_SHARE else None
    sentences = _sentences(split, draws, category, sentiment, high, has_order=order is not None)
    if draws.random() < _TYPO_SHARE:
        sentences = _with_typo(sentences, draws)
    filled = " ".join(sentences).replace("{P}", product).replace("{O}", order or "")
    ticket = {
        "category": category,
        "priority": "high" if high else "normal",
        "product": product,
        "order_id": order,
        "sentiment": sentiment,
        "reply": f"{THANKS[sentiment]} {NEXT_STEP[category].replace('{P}', product)}",
    }
    return filled.replace("{N}", _pick(draws, NAMES[split])), ticket


def _sentences(
    split: str, draws: np.random.Generator, category: str, sentiment: str, high: bool, *, has_order: bool
) -> list[str]:
    """The message's sentences: what points back with "it" follows the problem, the rest stands anywhere."""
    problem, anywhere, after = _pick(draws, PROBLEMS[category][split]), [], []
    if has_order:
        anywhere.append(_pick(draws, ORDERS[split]))
    if sentiment != "neutral":
        anywhere.append(_pick(draws, FEELINGS[sentiment][split]))
    if high:
        # Only a broken thing is dangerous; a lost parcel that burns somebody's hand makes no sense.
        dangerous = category == "damaged" and draws.random() < _DANGER_SHARE
        after.append(_pick(draws, (DANGERS if dangerous else DEADLINES)[split]))
    if draws.random() < _ASIDE_SHARE:
        after.append(_pick(draws, ASIDES[split]))
    before = [sentence for sentence in anywhere if draws.random() < _BEFORE_SHARE]
    after += [sentence for sentence in anywhere if sentence not in before]
    sentences = [*_shuffled(before, draws), problem, *_shuffled(after, draws)]
    if draws.random() < _GREETING_SHARE:
        sentences.insert(0, _pick(draws, GREETINGS[split]))
    if draws.random() < _CLOSING_SHARE:
        sentences.append(_pick(draws, CLOSINGS[split]))
    return sentences


def _with_typo(sentences: list[str], draws: np.random.Generator) -> list[str]:
    """Swap, drop or double one inner letter of one long small-letter word; names and placeholders have none."""
    words = [sentence.split(" ") for sentence in sentences]
    places = [
        (i, j)
        for i, sentence in enumerate(words)
        for j, word in enumerate(sentence)
        if len(word) >= 6 and word.isalpha() and word.islower()
    ]
    if not places:
        return sentences
    i, j = places[int(draws.integers(len(places)))]
    word = words[i][j]
    at = int(draws.integers(1, len(word) - 2))
    first, second = word[at], word[at + 1]
    inner = (second + first, second, first + first + second)[int(draws.integers(3))]
    words[i][j] = word[:at] + inner + word[at + 2 :]
    return [" ".join(sentence) for sentence in words]


def _order_id(split: str, draws: np.random.Generator) -> str:
    return f"{_pick(draws, order_prefixes(split))}-{int(draws.integers(10_000, 100_000))}"


def _pick(draws: np.random.Generator, options: tuple[str, ...] | list[str]) -> str:
    return options[int(draws.integers(len(options)))]


def _shuffled(sentences: list[str], draws: np.random.Generator) -> list[str]:
    return [sentences[int(i)] for i in draws.permutation(len(sentences))]


def file_of(split: str) -> Path:
    """The shipped rows of a split."""
    return Path(__file__).parent / f"support_desk_{split}.jsonl"


def write_files(folder: Path) -> None:
    """Write the three shipped files anew into a folder."""
    for split, size in SIZES.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in build_rows(split, size)]
        (folder / file_of(split).name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_rows(split: str) -> list[dict[str, Any]]:
    """The shipped rows of a split, in file order."""
    return [json.loads(line) for line in file_of(split).read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    write_files(Path(__file__).parent)
