"""``tunesmith data <verb>``: rows before training."""

from __future__ import annotations

import typer

from tunesmith.cli import convert

app = typer.Typer(help="Rows before training: convert, check, look.", no_args_is_help=True)
app.command("convert")(convert.convert)
