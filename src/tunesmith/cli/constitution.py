"""``tunesmith constitution <verb>``: written principles that revise, label and train."""

from __future__ import annotations

import typer

from tunesmith.cli import constitution_label

app = typer.Typer(help="Written principles: what they find, revise and prefer.", no_args_is_help=True)
app.command("label")(constitution_label.label)


@app.callback()
def _group() -> None:
    """Keeps the verbs a group while there is one."""
