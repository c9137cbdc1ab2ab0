"""``tunesmith redteam``: attack a model, and what follows from it."""

from __future__ import annotations

import typer

from tunesmith.cli import redteam_export, redteam_loop

app = typer.Typer(help="Attack a model, and train against what went through.", no_args_is_help=True)
app.command("export")(redteam_export.export)
app.command("loop")(redteam_loop.loop)
