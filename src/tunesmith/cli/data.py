"""``tunesmith data <verb>``: rows, before anything is trained on them."""

from __future__ import annotations

import typer

from tunesmith.cli import bootstrap, check, convert, mix, show, split

app = typer.Typer(help="Rows: check, show, convert, split, mix, bootstrap.", no_args_is_help=True)
app.command("check")(check.check)
app.command("show")(show.show)
app.command("convert")(convert.convert)
app.command("split")(split.split)
app.command("mix")(mix.mix)
app.command("bootstrap")(bootstrap.bootstrap)
