"""What the verbs share: the options every one of them has, and how an error is shown."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from tunesmith.errors import TunesmithError

Overrides = Annotated[list[str] | None, typer.Argument(help="key=value settings that override the recipe.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
ModelName = Annotated[str, typer.Option("--model", help="Embedded name, hub id, folder or .gguf file.")]
AdapterPaths = Annotated[
    list[Path] | None,
    typer.Option("--adapter", help="Folder of an adapter or of a run; give it again for another on the same base."),
]
DecodingWeights = Annotated[
    Literal["auto", "full", "half", "int8"],
    typer.Option(
        "--weights",
        help="What a CPU decodes with: as loaded, fp16, 8 bits; auto: fp16 where it says the same.",
    ),
]
MinP = Annotated[
    float, typer.Option("--min-p", help="Only tokens of at least this share of the likeliest one's probability.")
]
RepetitionPenalty = Annotated[
    float, typer.Option("--repetition-penalty", help="Above 1: tokens that have been are less likely.")
]
AdapterPath = Annotated[Path | None, typer.Option("--adapter", help="Folder of an adapter or of a run.")]


@contextmanager
def errors_in_one_paragraph(debug: bool) -> Iterator[None]:
    """Print a user's error as one paragraph without a traceback; --debug lets it through."""
    try:
        yield
    except TunesmithError as error:
        if debug:
            raise
        typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("\nstopped.", err=True)
        raise typer.Exit(130) from None


def as_called(recipe: Path, overrides: list[str] | None, *, keep_folder: bool = False) -> str:
    """Recipe and overrides as a shell takes them, for a next command; without the run's folder and what resumes it."""
    folder = () if keep_folder else ("output_dir=", "resume_from_checkpoint=", "overwrite_output_dir=")
    kept = [override for override in overrides or [] if not override.startswith(folder)]
    return shlex.join([str(recipe), *kept])


def print_lines(lines: list[str]) -> None:
    """One line each, to standard output."""
    for line in lines:
        typer.echo(line)
