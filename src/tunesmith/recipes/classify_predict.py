"""Rows with texts -> the same rows with a classifier's label and the probability of every class."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from tunesmith.data.check import FaultLog, RowError, shown
from tunesmith.data.labelled import LABEL, TEXT, LabelledDataConfig, read_label, read_text
from tunesmith.data.out import check_output
from tunesmith.data.read import Rows, open_rows
from tunesmith.data.whole import temporary_sibling
from tunesmith.errors import DataError
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.roles import Base
from tunesmith.progress import Bar
from tunesmith.records import Where
from tunesmith.rollout.classify import Classifier, load_classifier
from tunesmith.stats import wilson_interval
from tunesmith.tokens.labelled import TextRenderConfig, TextReport, render_texts

ROWS_AT_ONCE = 256
# What is written beside a row's own columns.
PREDICTED, PROBABILITY, PROBABILITIES = "predicted", "probability", "probabilities"


class PredictConfig(ModelConfig):
    """What ``tunesmith predict`` is asked."""

    rows: str = Field(min_length=1)
    """The file of rows, a folder with a train file, or a hub data set."""
    adapter: str = Field(min_length=1)
    """Folder of a classifier."""
    output: str = "predictions.jsonl"
    """Where the rows with their labels go."""
    overwrite: bool = False
    """Replace the output file if there is one."""
    on_bad_row: Literal["error", "drop"] = "error"
    """A row without a text stops the job, or is left out and counted by cause."""
    max_length: int | None = Field(None, ge=8)
    """Most tokens of one text; empty: what the model reads."""
    over_length: Literal["error", "drop", "truncate"] = "error"
    """A longer text is an error, left out and counted, or cut at its end and counted."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column name (text, label) -> theirs."""

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        return LabelledDataConfig(train="-", columns=columns).columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What was read, classified and written; rows_read = rows_classified + all of rows_dropped."""

    output: str
    classifier_digest: str
    rows_read: int
    rows_classified: int
    rows_dropped: dict[str, int]
    texts_cut: int
    by_label: dict[str, int]
    labelled: int = 0
    """Rows that bring a label of their own."""
    unknown_labels: int = 0
    """Rows whose own label is none of the classes; they count as wrong."""
    accuracy: list[float] = field(default_factory=list)
    """[value, low, high] over the rows with a label of their own, Wilson's 95 %; empty without any."""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for --json."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class _Row:
    raw: Mapping[str, Any]
    text: str
    label: str | None
    where: Where


def predict_rows(config: PredictConfig, *, base: Base | None = None) -> Predicted:
    """Classify every row of a source and write each with label and probabilities, in order, whole or not at all.

    Raises DataError for faulty rows unless they are dropped, and AdapterMismatchError where the classifier was trained
    on another base.
    """
    output, began = Path(config.output), time.perf_counter()
    # All that can be wrong with the output is told before a model is loaded, not after hours of work.
    if output.suffix.lower() != ".jsonl":
        raise DataError(output, "rows with predictions are written as .jsonl only.", "End its name with .jsonl.")
    check_output(output, Path(config.rows), "messages", overwrite=config.overwrite)
    rows, faults = open_rows(config.rows), FaultLog()
    read = _read(rows, config, faults)
    if config.on_bad_row == "error":
        faults.raise_if_any(rows.path, len(rows))
    if not read:
        raise DataError(rows.path, f"none of its {len(rows)} rows has a text.\n{faults.table()}\n", "Correct them.")
    base = load_base(config) if base is None else base
    model = load_classifier(base, Path(config.adapter))
    if model.chat_template and config.over_length == "truncate":
        cause = "this classifier reads texts in the chat template, whose end a cut would take."
        raise DataError("over_length: truncate", cause, "Set over_length: drop, or raise max_length.")
    report, given, own = TextReport(), Counter[str](), list[tuple[str, str]]()
    with temporary_sibling(output) as path, path.open("w", encoding="utf-8") as stream, Bar(len(read), "rows") as bar:
        for begin in range(0, len(read), ROWS_AT_ONCE):
            part = read[begin : begin + ROWS_AT_ONCE]
            for row, said in _predict(model, part, config, report):
                # Dates and the like of a parquet file, as text.
                stream.write(json.dumps({**row.raw, **said}, ensure_ascii=False, default=str) + "\n")
                given[said[PREDICTED]] += 1
                if row.label is not None:
                    own.append((row.label, said[PREDICTED]))
            bar.update(begin + len(part))
        if not given:
            raise DataError(rows.path, "every row's text is too long.", "Raise max_length, or shorten them.")
    dropped = faults.by_cause()
    if report.texts_dropped:
        dropped["the text is too long"] = report.texts_dropped
    accuracy = wilson_interval(sum(a == b for a, b in own), len(own)) if own else None
    return Predicted(
        output=config.output,
        classifier_digest=model.digest,
        rows_read=len(rows),
        rows_classified=given.total(),
        rows_dropped=dropped,
        texts_cut=report.texts_cut,
        by_label={label: given[label] for label in model.labels},
        labelled=len(own),
        unknown_labels=sum(label not in model.labels for label, _ in own),
        accuracy=[accuracy.value, accuracy.low, accuracy.high] if accuracy else [],
        seconds=time.perf_counter() - began,
    )


def _read(rows: Rows, config: PredictConfig, faults: FaultLog) -> list[_Row]:
    out, named = [], config.columns.get(LABEL, LABEL)
    for row_id in range(len(rows)):
        try:
            row, where = rows[row_id]
            if taken := [name for name in (PREDICTED, PROBABILITY, PROBABILITIES) if name in row]:
                fix = "Rename it in the file; predictions are written in a column of that name."
                raise RowError(where.at(taken[0]), f"there is a column '{taken[0]}' already.", fix)
            text = read_text(row, where, config.columns)
            # A row need not have a label; one that has a faulty one is told, for its accuracy would be wrong.
            has_label = LABEL in config.columns or row.get(named) not in (None, "")
            label = read_label(row, where, config.columns) if has_label else None
        except RowError as error:
            faults.add(error.fault)
            continue
        out.append(_Row(row, text, label, where))
    return out


def _predict(
    model: Classifier, rows: list[_Row], config: PredictConfig, report: TextReport
) -> list[tuple[_Row, dict[str, Any]]]:
    """Each row with what is said of it; rows whose text is dropped are noted in the report."""
    base = model.base
    context = base.context_tokens_of(model.role.adapter)
    how = TextRenderConfig(chat_template=model.chat_template, over_length=config.over_length)
    rendered, made = render_texts(
        [row.text for row in rows],
        [row.where.at(shown(config.columns.get(TEXT, TEXT))) for row in rows],
        base.tokenizer_of(model.role.adapter),
        how,
        max_tokens=min(config.max_length or context, context),
    )
    report.texts_cut += made.texts_cut
    report.texts_dropped += made.texts_dropped
    kept = [(row, text.ids) for row, text in zip(rows, rendered, strict=True) if text is not None]
    probabilities_NK = model.probabilities([ids for _, ids in kept])
    out = []
    for (row, _), p_K in zip(kept, probabilities_NK, strict=True):
        best = int(p_K.argmax())
        by_label = dict(zip(model.labels, p_K.tolist(), strict=True))
        said = {PREDICTED: model.labels[best], PROBABILITY: float(p_K[best]), PROBABILITIES: by_label}
        out.append((row, said))
    return out


def describe(predicted: Predicted) -> list[str]:
    """What to tell the user: how often each label was given, what was left out, what was written."""
    given = ", ".join(f"{shown(label)} {count}" for label, count in predicted.by_label.items() if count)
    lines = [f"{predicted.rows_classified} rows: {given}"]
    if predicted.accuracy:
        value, low, high = (100 * x for x in predicted.accuracy)
        lines.append(f"right on {value:.1f} % [{low:.1f}, {high:.1f}] of the {predicted.labelled} rows with a label")
    if predicted.unknown_labels:
        lines.append(f"warning: {predicted.unknown_labels} rows have a label that is none of the classes")
    lines += [f"left out {count}: {shown(cause, most=200)}" for cause, count in predicted.rows_dropped.items()]
    if predicted.texts_cut:
        lines.append(f"{predicted.texts_cut} texts were cut to what fits")
    return [*lines, f"wrote {predicted.output} in {predicted.seconds:.1f} s"]
