"""``tunesmith feedback <verb>``: candidates, what people say of them, and how far they agree."""

from __future__ import annotations

import typer

from tunesmith.cli import feedback_agreement, feedback_label, feedback_sample

app = typer.Typer(help="Candidate answers and what people say of them.", no_args_is_help=True)
app.command("sample")(feedback_sample.sample)
app.command("label")(feedback_label.label)
app.command("agreement")(feedback_agreement.agreement)
