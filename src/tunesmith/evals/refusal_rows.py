"""The answers that people labelled, on which the refusal detector is measured: XSTest's replies and PyRIT's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError
from tunesmith.evals.asking import read_table
from tunesmith.evals.refusal_error import (
    SAFE_HALF,
    TEST_HALF,
    UNSAFE_HALF,
    DetectorError,
    LabelledAnswer,
    measure_detector,
    pooled,
)
from tunesmith.records import Where
from tunesmith.rollout.refusal import Outcome

_XSTEST_LABELS: Mapping[str, Outcome] = {
    "1_full_compliance": "comply",
    "2_full_refusal": "refuse",
    "3_partial_refusal": "partly",
}
# The rules were written on replies to prompts of odd number, and on PyRIT's rows at even places from 0.
_REPLIES = {"GPT-4": "xstest/completions_gpt4.jsonl", "Mistral-7B-Instruct": "xstest/completions_mistralinstruct.jsonl"}
_PYRIT = "judge_calibration/refusal.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """Answers that people labelled, of one source; part: development where the rules were written on them, or test."""

    source: str
    part: str
    answers: tuple[LabelledAnswer, ...]


def labelled_sets(folder: Path) -> list[LabelledSet]:
    """Every source by itself, and of XSTest's test half the replies to unsafe and to safe prompts.

    folder: that of the public sets. Raises DataError for rows that are missing or at fault.
    """
    replies = {name: _read(folder / file, _of_xstest) for name, file in _REPLIES.items()}
    pyrit = [one for one, _ in _read(folder / _PYRIT, _of_pyrit)]
    sets = []
    for part, odd in (("development", 1), ("test", 0)):
        for name, rows in replies.items():
            kept = tuple(one for one, row in rows if _number(row) % 2 == odd)
            sets.append(
                LabelledSet(source=f"XSTest, {name}, {'odd' if odd else 'even'} prompts", part=part, answers=kept)
            )
    both = [pair for rows in replies.values() for pair in rows]
    for source, unsafe in ((UNSAFE_HALF, True), (SAFE_HALF, False)):
        kept = tuple(one for one, row in both if not _number(row) % 2 and _unsafe(row) == unsafe)
        sets.append(LabelledSet(source=source, part="test", answers=kept))
    sets.append(LabelledSet(source="PyRIT, even rows", part="development", answers=tuple(pyrit[::2])))
    sets.append(LabelledSet(source="PyRIT, odd rows", part="test", answers=tuple(pyrit[1::2])))
    return sets


def measured_errors(folder: Path) -> list[DetectorError]:
    """Every source with its part, and the test half of XSTest pooled, and by its prompts' label.

    Raises DataError as ``labelled_sets`` does.
    """
    errors: list[DetectorError] = []
    for one in labelled_sets(folder):
        if one.source == UNSAFE_HALF:
            # What is pooled here are the sources read so far whose part is the test: those of XSTest.
            errors.append(pooled([error for error in errors if error.part == "test"], TEST_HALF))
        errors.append(measure_detector(one.source, one.part, one.answers))
    return errors


def _read(
    path: Path, label: Callable[[Mapping[str, Any], Where], LabelledAnswer]
) -> list[tuple[LabelledAnswer, Mapping[str, Any]]]:
    if not path.is_file():
        raise DataError(str(path), "the labelled answers are not there.", "Name the folder of the public sets.")
    return [(label(row, where), row) for row, where in read_table(path)]


def _of_xstest(row: Mapping[str, Any], where: Where) -> LabelledAnswer:
    if row["final_label"] not in _XSTEST_LABELS:
        raise DataError(where.at("final_label"), f"it is none of {', '.join(_XSTEST_LABELS)}.", "Correct the row.")
    outcome = _XSTEST_LABELS[row["final_label"]]
    return LabelledAnswer(prompt=row["prompt"], answer=row["completion"], outcome=outcome)


def _of_pyrit(row: Mapping[str, Any], where: Where) -> LabelledAnswer:
    if str(row["human_score"]) not in ("0", "1", "0.0", "1.0"):
        raise DataError(where.at("human_score"), "1 for a refusal or 0 is expected.", "Correct the row.")
    outcome: Outcome = "refuse" if float(row["human_score"]) else "comply"
    return LabelledAnswer(prompt=row["objective"], answer=row["assistant_response"], outcome=outcome)


def _number(row: Mapping[str, Any]) -> int:
    return int(row["id"].rpartition("-")[2])


def _unsafe(row: Mapping[str, Any]) -> bool:
    return str(row["type"]).startswith("contrast_")
