"""A worked domain example: the abbreviations of an invented hospital. Seeded, ours, no network.

All but 'DIC' are made up, and none of this is for use in a real ward. What they mean cannot be guessed, so a model that
answers has learnt it from the rows: each abbreviation stands in six training rows, in questions, in ward notes and the
other way round. Validation and test ask for the same abbreviations in other wordings and other notes: what is measured
is knowledge, not memory of a sentence. Several read like everyday shorthand: 'DIC' is a diagnosis on this hospital's
wards and not 'do it carefully'.

The answer is the expansion and nothing else, with a capital first letter and a full stop.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.randomness import generator

SEED = 20261123
SIZES = {"train": 252, "valid": 42, "test": 63}

EXPANSIONS: dict[str, str] = {
    "DIC": "disseminated intravascular coagulation",
    "BRB": "bed rest with bandage",
    "FYI": "fed yesterday, intravenously",
    "LOL": "left outer lobe",
    "ETA": "evening temperature, armpit",
    "TGIF": "tube for gastric infusion of fluids",
    "ASAP": "acute swelling around the patella",
    "OMG": "oral mucosa graft",
    "AKA": "absent knee action",
    "DIY": "drain inspected yesterday",
    "RSVP": "repeat saline via pump",
    "VIP": "ventilation in pulses",
    "BYO": "bring your oxygen",
    "TUB": "turned upon the back",
    "NIB": "no ice on bruises",
    "KOR": "kidney observation round",
    "SLAM": "sedation level at midnight",
    "PIP": "pale inner palm",
    "GRID": "gait recovery in daylight",
    "MOTH": "monitoring of the heart",
    "FERN": "feverish evening, restless night",
    "TARN": "transfer after round noted",
    "WREN": "wound rinsed every night",
    "HULK": "high urea, low kalium",
    "DRAB": "dressing removed after bath",
    "CLAM": "calf lump after marching",
    "SPUD": "sudden pain under the diaphragm",
    "QAB": "quiet airway breathing",
    "OBEX": "old blood exchange",
    "ZAT": "zinc after tea",
    "VEL": "vein easily lost",
    "PUMA": "pupils unequal, medic alerted",
    "LARK": "light anaesthesia, rigid knee",
    "NUB": "nose unblocked",
    "EFT": "elbow fixed with tape",
    "GOSH": "gentle oil on sore heels",
    "YAM": "yellow arm mark",
    "CRUX": "chest recheck using X-ray",
    "HOB": "hip operation booked",
    "JOT": "joint opened and trimmed",
    "IVY": "insulin verified yesterday",
    "RUNE": "rash under the neck, eased",
}

QUESTIONS: dict[str, tuple[str, ...]] = {
    "train": (
        "What does {A} mean?",
        "What does {A} stand for?",
        "Write out {A}.",
        "Expand the abbreviation {A}.",
        "On our wards, what is {A}?",
        "{A} means what?",
        "Give the full form of {A}.",
        "Tell me what {A} stands for in our hospital.",
    ),
    "valid": ("What is the long form of {A}?", "Please spell out the abbreviation {A}.", "What do we mean by {A}?"),
    "test": (
        "I saw {A} on a chart. What is it short for?",
        "How do you read {A} in full?",
        "A new nurse asks about {A}. What is the meaning?",
        "Which words does {A} abbreviate?",
        "{A}: say it in full words.",
    ),
}
NOTES: dict[str, tuple[str, ...]] = {
    "train": (
        "Ward note: 'Bed {B}, {A}, check again in {H} h.' What does {A} mean here?",
        "Night report: '{A} seen in room {B}.' Write out {A}.",
        "Chart of bed {B}: '{A} since {H} o'clock.' What does {A} stand for?",
        "The round noted '{A}' for bed {B}. Expand {A}.",
    ),
    "valid": ("The handover says '{A}, bed {B}'. What is {A} in full?",),
    "test": (
        "Doctor's entry for room {B}: 'known {A}, next look in {H} h.' What is {A} short for?",
        "The letter reads '{A} in the patient of bed {B}'. Say {A} in full words.",
    ),
}
REVERSED = (
    "Which abbreviation do we use for '{X}'?",
    "How do we shorten '{X}' in a ward note?",
    "Abbreviate '{X}'.",
)


def build_rows(split: str, seed: int = SEED) -> list[dict[str, Any]]:
    """Rows of one split (train, valid or test) in the ``messages`` shape, shuffled; every abbreviation is in each.

    An abbreviation has six training rows (three questions, two notes, one the other way round), one validation row and
    one test question; every second one has a test note as well.
    """
    rows: list[dict[str, Any]] = []
    for place, abbreviation in enumerate(EXPANSIONS):
        draws = generator(seed, "jargon", split, abbreviation)
        num_questions, num_notes = {"train": (3, 2), "valid": (1 - place % 2, place % 2), "test": (1, place % 2)}[split]
        wordings = [*_some(draws, QUESTIONS[split], num_questions), *_some(draws, NOTES[split], num_notes)]
        rows += [_row(_fill(wording, abbreviation, draws), answer_to(abbreviation)) for wording in wordings]
        if split == "train":
            rows.append(_row(_fill(_some(draws, REVERSED, 1)[0], abbreviation, draws), f"{abbreviation}."))
    order = generator(seed, "jargon", split, "order").permutation(len(rows))
    return [rows[int(i)] for i in order]


def answer_to(abbreviation: str) -> str:
    """The expected answer: the expansion as a sentence."""
    expansion = EXPANSIONS[abbreviation]
    return f"{expansion[0].upper()}{expansion[1:]}."


def _some(draws: np.random.Generator, wordings: tuple[str, ...], count: int) -> list[str]:
    return [wordings[int(i)] for i in draws.permutation(len(wordings))[:count]]


def _fill(wording: str, abbreviation: str, draws: np.random.Generator) -> str:
    bed, hours = int(draws.integers(1, 40)), int(draws.integers(2, 12))
    filled = wording.replace("{B}", str(bed)).replace("{H}", str(hours))
    return filled.replace("{A}", abbreviation).replace("{X}", EXPANSIONS[abbreviation])


def _row(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def file_of(split: str) -> Path:
    """The shipped rows of a split."""
    return Path(__file__).parent / f"jargon_{split}.jsonl"


def write_files(folder: Path) -> None:
    """Write the three shipped files anew into a folder."""
    for split in SIZES:
        lines = [json.dumps(row, ensure_ascii=False) for row in build_rows(split)]
        (folder / file_of(split).name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_rows(split: str) -> list[dict[str, Any]]:
    """The shipped rows of a split, in file order."""
    return [json.loads(line) for line in file_of(split).read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    write_files(Path(__file__).parent)
