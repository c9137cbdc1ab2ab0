"""``tunesmith data <verb>``: rows before training."""

from __future__ import annotations

import typer

from tunesmith.cli import mix

app = typer.Typer(help="Rows before training.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Rows before training."""


app.command("mix")(mix.mix)
