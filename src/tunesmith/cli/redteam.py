"""``tunesmith redteam``: attack a model, and what follows from it."""

from __future__ import annotations

import typer

from tunesmith.cli import redteam_export

app = typer.Typer(help="Attack a model, and train against what went through.", no_args_is_help=True)
app.command("export")(redteam_export.export)
