"""``tunesmith tokenizer``: train one, look into one, extend one."""

from __future__ import annotations

import typer

from tunesmith.cli import tokenizer_extend, tokenizer_show, tokenizer_train

app = typer.Typer(help="Train, look into and extend tokenizers.", no_args_is_help=True)
app.command("train")(tokenizer_train.train)
app.command("show")(tokenizer_show.show)
app.command("extend")(tokenizer_extend.extend)
