"""What a check found, in words and as plain values; the exit code follows from it."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.check import shown
from tunesmith.data.names import can_find_names
from tunesmith.data.pii import DATE, NAME, WARNING_KINDS
from tunesmith.data.survey import Tally
from tunesmith.recipes.check import CheckReport
from tunesmith.reports.lengths import bars, histogram, length_picture

CLEAN, WARNINGS, FAULTS = 0, 1, 2
_VERDICTS = {CLEAN: "clean", WARNINGS: "warnings", FAULTS: "faults"}
# A column is taken for a class where a value stands in ten rows or more on average.
ROWS_PER_CLASS = 10
CLASSES_SHOWN = 8
# The largest class is so many times the smallest, or holds so large a share of the rows.
UNBALANCED_RATIO, UNBALANCED_SHARE = 10, 0.8
_PII_WORDS = {
    "email": "e-mail addresses", "phone": "phone numbers", "card": "payment cards", "iban": "bank accounts (IBAN)",
    "id": "identity numbers", "record": "record numbers", "date": "dates", "address": "postal addresses",
    "name": "names of people",
}  # fmt: skip


def exit_code(report: CheckReport) -> int:
    """0 clean, 1 warnings, 2 faults."""
    if len(report.faults):
        return FAULTS
    return WARNINGS if warnings_of(report) else CLEAN


def lengths_of(report: CheckReport) -> tuple[np.ndarray[Any, Any], str]:
    """(N,) lengths of the rows and their unit: tokens with a model, else words."""
    if report.tokens is not None and len(report.tokens.tokens):
        return report.tokens.lengths, "tokens"
    words = report.survey.words
    return (np.frombuffer(words, np.int32) if words else np.zeros(0, np.int32)), "words"


def classes_of(report: CheckReport) -> dict[str, dict[str, int]]:
    """Columns that look like a class -> value -> rows, most frequent first."""
    out = {}
    for column, counts in sorted(report.survey.labels.items()):
        if counts is None or len(counts) < 2:
            continue
        total = sum(counts.values())
        if total >= ROWS_PER_CLASS * len(counts):
            out[column] = dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
    return out


def _is_unbalanced(counts: dict[str, int]) -> bool:
    largest, smallest, total = max(counts.values()), min(counts.values()), sum(counts.values())
    return largest >= UNBALANCED_RATIO * smallest or largest >= UNBALANCED_SHARE * total


def warnings_of(report: CheckReport) -> list[str]:
    """What is no fault but should be looked at, one sentence each."""
    twice, found = report.duplicates, []
    if report.shape_problem is not None:
        found.append(f"no shape could be told, so only the texts were looked at: {report.shape_problem}")
    for count, what in (
        (twice.num_copies, "rows are exact copies of an earlier row"),
        (twice.num_near, "rows are near copies of an earlier row"),
        (twice.num_leaks, "validation rows stand in the training rows too"),
        (twice.num_near_leaks, "validation rows are near copies of a training row"),
    ):
        if count:
            found.append(f"{count} {what}.")
    for part, source in (("", report.train), ("validation: ", report.valid)):
        if source is None:
            continue
        found += [f"{part}{tally.num_rows} rows hold {kind}." for kind, tally in source.survey.odd.items()]
        for kind, tally in source.survey.pii.items():
            if kind in WARNING_KINDS:
                found.append(f"{part}{tally.count} {_PII_WORDS[kind]} in {tally.num_rows} rows.")
    for column, counts in classes_of(report).items():
        if _is_unbalanced(counts):
            found.append(f"the classes of '{shown(column)}' are unbalanced.")
    return found


def write_picture(report: CheckReport, path: Path) -> None:
    """The histogram of the lengths as a PNG."""
    lengths, unit = lengths_of(report)
    marks = [("limit", report.tokens.limit)] if report.tokens is not None and unit == "tokens" else []
    length_picture(lengths, unit, path, marks=marks)
    report.written["lengths"] = path


def as_dict(report: CheckReport) -> dict[str, Any]:
    """Plain values for --json."""
    twice, code = report.duplicates, exit_code(report)
    lengths, unit = lengths_of(report)
    tokens = None
    if report.tokens is not None:
        rendered = report.tokens.rendered
        tokens = {
            "model": report.tokens.base.name,
            "limit": report.tokens.limit,
            "rows": rendered.num_rows,
            "examples": rendered.num_examples,
            "tokens": rendered.num_tokens,
            "loss_share": rendered.loss_share,
            "end_of_turn_share": rendered.end_share,
            "longest_tokens": rendered.longest_tokens,
            "rows_refused": len(report.tokens.bad_row_ids),
        }
    return {
        "result": _VERDICTS[code],
        "exit_code": code,
        "file": report.train.rows.path,
        "validation_file": report.valid.rows.path if report.valid else None,
        "shape": report.train.plan.shape,
        "rows": report.num_rows,
        "rows_without_fault": len(report.survey.row_ids),
        "validation_rows": report.valid.survey.num_rows if report.valid else None,
        "ignored_columns": sorted(report.survey.ignored),
        "faults": report.faults.as_list(),
        "warnings": warnings_of(report),
        "duplicates": twice.as_dict(),
        "lengths": histogram(lengths, unit).as_dict(),
        "characters": int(np.sum(np.frombuffer(report.survey.characters, np.int32))) if len(lengths) else 0,
        "tokens": tokens,
        "scripts": dict(report.survey.scripts.most_common()),
        "odd_characters": {kind: _tally(tally) for kind, tally in report.survey.odd.items()},
        "pii": {kind: _tally(tally) for kind, tally in report.survey.pii.items()},
        "names_looked_for": report.config.names,
        "classes": classes_of(report),
        "counts": report.counts,
        "written": {what: str(path) for what, path in report.written.items()},
    }


def _tally(tally: Tally) -> dict[str, Any]:
    return {"count": tally.count, "rows": tally.num_rows, "places": tally.places}


def describe(report: CheckReport) -> list[str]:
    """The report for a reader."""
    train, valid, faults = report.train, report.valid, report.faults
    shape = train.plan.shape or "unknown"
    files = f"{train.rows.path}: {report.num_rows} rows, shape {shape}"
    lines = [files + (f"; {valid.rows.path}: {valid.survey.num_rows} rows" if valid else "")]
    if report.survey.ignored:
        lines.append(f"columns not used: {', '.join(map(shown, sorted(report.survey.ignored)))}")
    lines += ["", f"faults: {len(faults)} rows" if len(faults) else "faults: none"]
    lines += [faults.table()] if len(faults) else []
    lines += ["", *_duplicate_lines(report), "", *_length_lines(report), "", *_text_lines(report)]
    for column, counts in classes_of(report).items():
        lines += _class_lines(column, counts)
    warnings = warnings_of(report)
    lines += ["", f"warnings: {len(warnings)}" if warnings else "warnings: none", *(f"  {text}" for text in warnings)]
    lines += ["", *_written_lines(report)]
    code = exit_code(report)
    return [*lines, f"result: {_VERDICTS[code]} (exit code {code})", f"next:  {_next_command(report)}"]


def _places(pairs: list[tuple[str, str]]) -> list[str]:
    return [f"    {place}, as {earlier}" for place, earlier in pairs]


def _duplicate_lines(report: CheckReport) -> list[str]:
    twice = report.duplicates
    lines = [f"copies: {twice.num_copies} exact", *_places(twice.copies)]
    if twice.num_near is None:
        lines.append("near copies: not looked for (--no-near)")
    else:
        threshold = report.config.near_threshold
        lines.append(
            f"near copies: {twice.num_near} share {100 * threshold:g} % of their runs of three words with an earlier "
            f"row ({report.near_seconds:.1f} s; --no-near skips this)"
        )
        lines += _places(twice.near)
    if twice.num_leaks is not None:
        near = "" if twice.num_near_leaks is None else f", {twice.num_near_leaks} near copies"
        lines.append(f"validation rows that are training rows: {twice.num_leaks} exact{near}")
        lines += _places([*twice.leaks, *twice.near_leaks])
    return lines


def _length_lines(report: CheckReport) -> list[str]:
    lengths, unit = lengths_of(report)
    shape = histogram(lengths, unit)
    lines = [f"{unit} a row: " + ", ".join(f"{name} {value}" for name, value in shape.quantiles.items())]
    lines += [f"  {line}" for line in bars(shape)] if shape.quantiles else []
    tokens = report.tokens
    if tokens is not None and tokens.rendered.num_rows:
        rendered = tokens.rendered
        lines.append(
            f"tokens of {tokens.base.name}: {rendered.num_tokens} in {rendered.num_examples} examples, longest "
            f"{rendered.longest_tokens} of {tokens.limit}; {100 * rendered.loss_share:.1f} % in the loss; end-of-turn "
            f"trained in {100 * rendered.end_share:.1f} % of the examples"
        )
    return lines


def _text_lines(report: CheckReport) -> list[str]:
    survey = report.survey
    scripts = ", ".join(f"{name} {count}" for name, count in survey.scripts.most_common(8)) or "none"
    lines = [f"scripts (rows): {scripts}"]
    if survey.odd:
        lines.append("odd characters (rows):")
        for kind, tally in survey.odd.items():
            lines += [f"  {tally.num_rows} {kind}", f"    {', '.join(tally.places[:3])}"]
    else:
        lines.append("odd characters: none")
    lines.append("personal data (values in rows):" if survey.pii else "personal data: none found")
    for kind, tally in sorted(survey.pii.items(), key=lambda item: -item[1].count):
        note = ", counted without a warning" if kind == DATE else ""
        lines.append(f"  {tally.count} in {tally.num_rows}: {_PII_WORDS[kind]}{note}")
        lines.append(f"    {', '.join(tally.places[:3])}")
    if not report.config.names:
        can = "--names looks for them" if can_find_names() else "needs spaCy and its model, see docs/data-check.md"
        columns = "outside columns called so " if NAME in survey.pii else ""
        lines.append(f"  names of people were not looked for {columns}({can})")
    return lines


def _class_lines(column: str, counts: dict[str, int]) -> list[str]:
    total = sum(counts.values())
    shares = [count / total for count in counts.values()]
    entropy = -sum(share * math.log(share) for share in shares) / math.log(len(shares))
    listed = [f"{shown(value)} {count} ({100 * count / total:.1f} %)" for value, count in counts.items()]
    more = [f"and {len(listed) - CLASSES_SHOWN} more"] if len(listed) > CLASSES_SHOWN else []
    head = f"classes in '{shown(column)}': {len(counts)}, evenness {entropy:.2f} (1: all alike)"
    return [head, "  " + ", ".join([*listed[:CLASSES_SHOWN], *more])]


def _written_lines(report: CheckReport) -> list[str]:
    lines = [f"wrote {path}: {what}" for what, path in report.written.items()]
    counts = report.counts
    if "passed" in counts:
        lines.append(f"{counts['passed']} rows pass, {counts['rejected']} do not")
    if "redacted" in counts:
        values = ", ".join(f"{count} {_PII_WORDS[kind]}" for kind, count in counts["redacted"].items()) or "nothing"
        lines.append(f"replaced: {values} (different values)")
    return lines


def _next_command(report: CheckReport) -> str:
    path = shlex.quote(report.train.rows.path)
    if "rows that pass" in report.written:
        return f"tunesmith data check {shlex.quote(str(report.written['rows that pass']))}"
    if len(report.faults):
        return f"tunesmith data check {path} --fix passing{Path(report.train.rows.path).suffix or '.jsonl'}"
    if report.config.model is None:
        return f"tunesmith data check {path} --model smollm2-135m-instruct"
    return f"tunesmith data show {path} -n 3 --model {report.config.model}"
