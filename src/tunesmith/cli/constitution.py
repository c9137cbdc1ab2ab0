"""``tunesmith constitution <verb>``: written principles that criticise, revise, compare and train."""

from __future__ import annotations

import typer

from tunesmith.cli import constitution_check, constitution_label, constitution_revise, constitution_run

app = typer.Typer(
    help="Written rules that revise, label and train, with a log of which did what.", no_args_is_help=True
)
app.command("check")(constitution_check.check)
app.command("revise")(constitution_revise.revise)
app.command("label")(constitution_label.label)
app.command("run")(constitution_run.run)
