"""``tunesmith data <verb>``: the verbs that work on rows."""

from __future__ import annotations

import typer

from tunesmith.cli import bootstrap

app = typer.Typer(help="Work on rows: make them.", no_args_is_help=True)
app.command("bootstrap")(bootstrap.bootstrap)
