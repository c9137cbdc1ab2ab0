"""``tunesmith tokenizer``: train one, look into one, extend one."""

from __future__ import annotations

import typer

from tunesmith.cli import tokenizer_extend

app = typer.Typer(help="Train, look into and extend tokenizers.", no_args_is_help=True)
app.command("extend")(tokenizer_extend.extend)
