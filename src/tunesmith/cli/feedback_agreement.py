"""``tunesmith feedback agreement``: how far the annotators of a store agree, with each other and with themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines

if TYPE_CHECKING:
    from tunesmith.feedback.agreement_report import KindReport


def agreement(
    store: Annotated[Path, typer.Option("--store", help="The feedback store.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Keys the resamples of the intervals.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Kappas, alpha, intervals, and who stands apart. Example: tunesmith feedback agreement --store feedback.db."""
    with errors_in_one_paragraph(debug):
        from tunesmith.errors import DataError
        from tunesmith.feedback.agreement_report import report_agreement
        from tunesmith.feedback.store import FeedbackStore

        with FeedbackStore.open(store) as held:
            reports = report_agreement(held.judgements(), seed=seed)
            edits = held.counts().judgements.get("edit", 0)
        if not reports:
            fix = "Label first: tunesmith feedback label --store FILE --annotator NAME --kind comparison."
            raise DataError(store, "holds no judgement that can be compared.", fix)
        if as_json:
            typer.echo(json.dumps({"store": str(store), "edits": edits, "kinds": [one.as_dict() for one in reports]}))
            return
        for report in reports:
            print_lines(describe(report))
        if edits:
            print_lines([f"{edits} edits: two good rewritings need not agree, so none is measured."])


def describe(report: KindReport) -> list[str]:
    """A kind's numbers and its table of annotators, as lines."""
    from tunesmith.feedback.screen import visible

    lines = [
        f"{report.kind}: {_many(report.judgements, 'judgement')} of {_many(report.items, 'item')} by "
        f"{_many(len(report.annotators), 'annotator')}",
        f"  Krippendorff's alpha ({report.level})  {report.alpha}",
        f"  Fleiss' kappa  {report.fleiss}",
    ]
    lines += [f"  Cohen's kappa {visible(a)}, {visible(b)}  {one}" for (a, b), one in report.cohen.items()]
    head = ("annotator", "items", "agreement with the rest", "with themselves")
    rows = [head] + [
        (
            visible(one.name) + (" (!)" if one.stands_apart else ""),
            str(one.items),
            str(one.with_rest),
            f"{one.self_agreement} of {one.repeats} repeats" if one.self_agreement is not None else "no repeats",
        )
        for one in report.annotators
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines += [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines += [
        f"  (!) {visible(one.name)} disagrees with people who agree: theirs is higher by {one.rest_minus_this}."
        for one in report.annotators
        if one.stands_apart
    ]
    lines += [f"  left out: {number} x {cause}" for cause, number in report.left_out.items()]
    return [*lines, ""]


def _many(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
