"""Upset customers and three answers each, with what people said of them: the example of the whole feedback path.

An answer has one of three qualities: helpful (it understands and takes a step that fits the problem), polite (kind
words, no step), rude. Helpful is above polite and polite above rude; answers of one quality are tied. The letters of a
row are shuffled. Neither length nor one word gives the quality away: helpful answers may be short and rude ones long,
rude ones may thank, apologise and speak of help. The wordings of train and test are disjoint; the judge's rows have
test's wordings in other prompts, so that who judges a match has seen neither its prompts nor what the policy learnt
from. The files are written from a seed; no network, nothing but ours.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tunesmith.data.examples.support_chat_wording import (
    APOLOGIES,
    CLOSINGS,
    FEELINGS,
    HELP,
    POLITE,
    POLITE_MORE,
    PROBLEMS,
    PRODUCTS,
    RUDE,
    RUDE_MORE,
)
from tunesmith.randomness import generator

Split = Literal["train", "test", "judge"]
Words = Literal["train", "test"]
Quality = Literal["helpful", "polite", "rude"]
FOLDER = Path(__file__).parent / "support_chat"
SEED = 20261125
SIZES: dict[Split, int] = {"train": 120, "test": 40, "judge": 120}
_WORDS: dict[Split, Words] = {"train": "train", "test": "test", "judge": "test"}
QUALITIES: tuple[Quality, ...] = ("helpful", "polite", "rude")
# The row that stands everywhere in the docs.
FIRST = {
    "prompt": "My order arrived broken. I'm very upset!",
    "candidates": {
        "A": "Well, you should have packed it yourself then. Not our problem.",
        "B": "I'm so sorry that your order arrived broken, I understand that you are upset. A new one leaves our "
        "warehouse today at no cost, and you need not send anything back.",
        "C": "Sorry to hear that.",
    },
    "ranking": "B > C > A",
}
_FIRST_QUALITIES: tuple[Quality, ...] = ("rude", "helpful", "polite")
_TIE_SHARE, _LONG = 0.15, {"helpful": 0.5, "polite": 0.5, "rude": 0.6}
_BEFORE_SHARE = 0.3


def build_rankings(split: Split, num_rows: int, seed: int = SEED) -> list[dict[str, Any]]:
    """Rows of prompt, candidates A, B, C and their ranking; no prompt stands in them twice."""
    return [row for row, _ in _rankings(split, num_rows, seed)]


def _rankings(split: Split, num_rows: int, seed: int) -> list[tuple[dict[str, Any], tuple[Quality, ...]]]:
    """The rows, each with the qualities of its candidates."""
    rows: list[tuple[dict[str, Any], tuple[Quality, ...]]] = [(FIRST, _FIRST_QUALITIES)] if split == "train" else []
    seen, attempt = {str(row["prompt"]) for row, _ in rows}, 0
    if split == "judge":
        seen |= {row["prompt"] for row in build_rankings("test", SIZES["test"], seed)}
    words = _WORDS[split]
    while len(rows) < num_rows:
        rng = generator(seed, "support_chat", split, attempt)
        attempt += 1
        topic = str(rng.choice(list(PROBLEMS)))
        product = str(rng.choice(PRODUCTS[words]))
        prompt = _prompt(words, topic, product, rng)
        if prompt in seen:
            continue
        seen.add(prompt)
        qualities = [str(one) for one in rng.permutation(QUALITIES)]
        if rng.random() < _TIE_SHARE:
            # Two answers of one quality, which one is drawn.
            qualities[int(rng.integers(3))] = qualities[int(rng.integers(3))]
        answers = _different_answers(words, topic, product, qualities, rng)
        names = string.ascii_uppercase[: len(answers)]
        row = {
            "prompt": prompt,
            "candidates": dict(zip(names, answers, strict=True)),
            "ranking": _ranking(names, qualities),
        }
        rows.append((row, tuple(qualities)))  # type: ignore[arg-type]
    return rows


def _prompt(split: Words, topic: str, product: str, rng: np.random.Generator) -> str:
    problem = str(rng.choice(PROBLEMS[topic][split])).format(P=product)
    feeling = str(rng.choice(FEELINGS[split]))
    return f"{feeling} {problem}" if rng.random() < _BEFORE_SHARE else f"{problem} {feeling}"


def _different_answers(
    split: Words, topic: str, product: str, qualities: Sequence[str], rng: np.random.Generator
) -> list[str]:
    answers: list[str] = []
    for quality in qualities:
        text = answer(split, topic, product, quality, rng)
        while text in answers:
            text = answer(split, topic, product, quality, rng)
        answers.append(text)
    return answers


def answer(split: Words, topic: str, product: str, quality: str, rng: np.random.Generator) -> str:
    """One answer of a quality to a problem with a product."""
    long = rng.random() < _LONG[quality]
    if quality == "helpful":
        step = rng.choice(HELP[topic][split])
        parts = [rng.choice(APOLOGIES[split]), step, rng.choice(CLOSINGS[split])] if long else [step]
        if not long and rng.random() < 0.5:
            parts.insert(0, rng.choice(APOLOGIES[split]))
    elif quality == "polite":
        parts = [
            rng.choice(POLITE[split]),
            *(rng.permutation(POLITE_MORE[split])[: rng.integers(1, 3)] if long else []),
        ]
    else:
        parts = [rng.choice(RUDE[split]), *(rng.permutation(RUDE_MORE[split])[: rng.integers(1, 3)] if long else [])]
    return " ".join(str(part) for part in parts).format(P=product)


def _ranking(names: str, qualities: Sequence[str]) -> str:
    tiers = [[name for name, own in zip(names, qualities, strict=True) if own == quality] for quality in QUALITIES]
    return " > ".join(" = ".join(tier) for tier in tiers if tier)


def build_judgements(seed: int = SEED) -> dict[str, list[dict[str, Any]]]:
    """Ratings, thumbs, flags and edits of training answers: file name -> rows. Each prompt has one kind of them."""
    rows = _rankings("train", SIZES["train"], seed)
    rng = generator(seed, "support_chat_judgements")
    out: dict[str, list[dict[str, Any]]] = {name: [] for name in ("ratings", "thumbs", "flags", "edits")}
    for number, (row, qualities) in enumerate(rows):
        of = {quality: row["candidates"][name] for name, quality in zip(row["candidates"], qualities, strict=True)}
        kind = ("ratings", "thumbs", "flags", "edits")[number % 4]
        if kind == "edits":
            worse = next((of[quality] for quality in ("rude", "polite") if quality in of), None)
            if worse is not None and "helpful" in of:
                out[kind].append({"prompt": row["prompt"], "original": worse, "corrected": of["helpful"]})
            continue
        for quality in sorted(of):
            said = {"prompt": row["prompt"], "completion": of[quality]}
            out[kind].append({**said, **_judged(kind, quality, rng)})
    return out


def _judged(kind: str, quality: str, rng: np.random.Generator) -> dict[str, Any]:
    """What a person says of an answer; ratings differ by one now and then, as people's do."""
    if kind == "ratings":
        grade = {"helpful": 5, "polite": 3, "rude": 1}[quality]
        shift = int(rng.integers(-1, 2)) if rng.random() < 0.4 else 0
        return {"rating": min(5, max(1, grade + shift))}
    if kind == "thumbs":
        return {"label": quality == "helpful" or (quality == "polite" and bool(rng.random() < 0.3))}
    return {"flagged": quality == "rude", "reason": "rude" if quality == "rude" else ""}


def file_of(name: str) -> Path:
    """The shipped file: rankings_train, rankings_test, rankings_judge, ratings, thumbs, flags or edits."""
    return FOLDER / f"{name}.jsonl"


def write_files(folder: Path = FOLDER, seed: int = SEED) -> None:
    """Write all files; the same seed writes the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"rankings_{split}": build_rankings(split, size, seed) for split, size in SIZES.items()}
    for name, rows in {**files, **build_judgements(seed)}.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_files()
