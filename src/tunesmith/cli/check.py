"""``tunesmith data check``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.progress import row_bar
from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines

Shape = Annotated[str, typer.Option("--shape", help="What the columns mean; auto tells it from their names.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", "--columns", help="ours=theirs, for a column named otherwise."),
]


def check(
    file: Annotated[str, typer.Argument(help="A file, a folder with train and validation files, or a hub data set.")],
    valid: Annotated[str | None, typer.Option("--valid", help="Validation rows, to find training rows in.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Count this model's tokens.")] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", help="Most tokens of a row.")] = None,
    shape: Shape = "auto",
    columns: Columns = None,
    near: Annotated[bool, typer.Option("--near/--no-near", help="Near copies: about 0.3 ms and 2 KB a row.")] = True,
    near_threshold: Annotated[float, typer.Option("--near-threshold", help="Shared runs of words, 0 to 1.")] = 0.8,
    names: Annotated[bool, typer.Option("--names", help="Look for names of people, through spaCy.")] = False,
    picture: Annotated[str | None, typer.Option("--picture", help="PNG of the lengths.")] = None,
    output_dir: Annotated[str | None, typer.Option("--output-dir", help="For lengths.png and check.json.")] = None,
    fix: Annotated[str | None, typer.Option("--fix", help="Write the rows that pass; others: .rejected.jsonl.")] = None,
    drop_duplicates: Annotated[bool, typer.Option("--drop-duplicates", help="Exact copies do not pass.")] = False,
    redact: Annotated[str | None, typer.Option("--redact", help="Write rows without personal data (.jsonl).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; empty: one a core.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Faults, copies, lengths, odd characters, personal data, classes. Example: tunesmith data check rows.jsonl.

    Exit code 0: clean, 1: warnings, 2: faults. A wrong call or an unreadable file ends with 2 too, and with 'error:'.
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.recipes.check import CheckConfig, check_data
        from tunesmith.recipes.check_text import as_dict, describe, exit_code, write_picture
        from tunesmith.runs import atomic_write_text

        settings = {
            "file": file, "validation": valid, "shape": shape, "columns": column_map(columns), "model": model,
            "max_length": max_length, "near": near, "near_threshold": near_threshold, "names": names, "fix": fix,
            "drop_duplicates": drop_duplicates, "redact": redact, "picture": picture, "output_dir": output_dir,
            "overwrite": overwrite, "num_workers": workers or os.cpu_count() or 1,
        }  # fmt: skip
        config = build_config(CheckConfig, settings, place="command line")
        with row_bar() as tell:
            report = check_data(config, tell)
        if output_dir is not None:
            picture = picture or str(Path(output_dir) / "lengths.png")
        if picture is not None:
            write_picture(report, Path(picture))
        if output_dir is not None:
            report.written["the report"] = Path(output_dir) / "check.json"
            atomic_write_text(report.written["the report"], json.dumps(as_dict(report), ensure_ascii=False, indent=1))
        print_lines([json.dumps(as_dict(report))] if as_json else describe(report))
        raise typer.Exit(exit_code(report))


def column_map(columns: list[str] | None) -> dict[str, str]:
    """``ours=theirs`` texts as a map. Raises ConfigError."""
    from tunesmith.errors import ConfigError

    out = {}
    for text in columns or []:
        ours, separator, theirs = text.partition("=")
        if not separator or not ours or not theirs:
            raise ConfigError(f"--column {text}", "is not of the form ours=theirs.", "Write --column prompt=question.")
        out[ours] = theirs
    return out
