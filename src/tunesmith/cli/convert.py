"""``tunesmith data convert``: rows of any shape into the one you need."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines
from tunesmith.errors import ConfigError

Source = Annotated[str, typer.Argument(metavar="IN", help="A file, a folder with a train file, or a hub data set.")]
Output = Annotated[Path, typer.Argument(metavar="OUT", help="A .jsonl, .json, .csv or .parquet file.")]
To = Annotated[str, typer.Option("--to", help="messages, alpaca, prompt-completion, sharegpt, preference or text.")]
Shaped = Annotated[str | None, typer.Option("--shape", help="What the rows are, where columns leave a doubt.")]
Columns = Annotated[
    list[str] | None, typer.Option("--columns", "--column", help="OURS=THEIRS for a column named otherwise.")
]
Names = Annotated[list[str] | None, typer.Option(help="Chat export: who is the assistant; may be repeated.")]
Column = Annotated[str | None, typer.Option(help="Chat export: the column that holds it, if it has another name.")]
Format = Annotated[str | None, typer.Option(help="Chat export: how times are written, such as '%d/%m/%Y %H:%M'.")]
Separator = Annotated[str, typer.Option(help="Chat export: what joins neighbouring messages of one side.")]
MinRating = Annotated[int, typer.Option(min=1, max=5, help="Ratings: the lowest that becomes a conversation.")]
MinGap = Annotated[int, typer.Option(min=1, max=4, help="Ratings: the least difference that makes a pair.")]
Merge = Annotated[
    bool, typer.Option("--merge-same-role", help="Join a speaker's neighbouring turns with a blank line.")
]
OnBadRow = Annotated[str, typer.Option(help="error, or drop: leave faulty rows out and count them.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")]


def convert(
    source: Source,
    output: Output,
    to: To,
    shape: Shaped = None,
    columns: Columns = None,
    assistant: Names = None,
    speaker: Column = None,
    time: Column = None,
    thread: Column = None,
    text: Column = None,
    time_format: Format = None,
    separator: Separator = "\\n",
    min_rating: MinRating = 4,
    min_gap: MinGap = 1,
    merge_same_role: Merge = False,
    on_bad_row: OnBadRow = "error",
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Rows of one format into another. Example: tunesmith data convert prefs.json pairs.jsonl --to preference.

    Conversations, instructions, pairs, rankings, ratings, edits, message trees and chat exports are told by their
    columns. What the target cannot hold is refused row by row, or counted with --on-bad-row drop.
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.data.convert import ALL_SHAPES
        from tunesmith.data.convert import convert as run
        from tunesmith.data.sources import ReadOptions
        from tunesmith.data.write import TARGETS

        export = {"speaker": speaker, "time": time, "thread": thread, "text": text}
        options = ReadOptions(
            columns=_mapping(columns or []) | {ours: theirs for ours, theirs in export.items() if theirs is not None},
            merge_same_role=merge_same_role,
            drop_bad_rows=_one_of("--on-bad-row", on_bad_row, ("error", "drop")) == "drop",
            assistants=tuple(assistant or ()),
            time_format=time_format,
            separator=separator.replace("\\n", "\n"),
            min_rating=min_rating,
            min_gap=min_gap,
        )
        target = _one_of("--to", to, TARGETS)
        stated = None if shape is None else _one_of("--shape", shape, ALL_SHAPES)
        with _progress(source) as tell:
            done = run(source, output, target, options, shape=stated, overwrite=overwrite, tell=tell)
        print_lines([json.dumps(done.as_dict(), ensure_ascii=False)] if as_json else _describe(done))


@contextmanager
def _progress(source: str) -> Iterator[Callable[[int], None]]:
    """A line on the terminal that says how far a long conversion is; nothing where standard error is no terminal."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda num_rows: None
        return
    with console.status(f"checking {escape(source)}") as status:
        yield lambda num_rows: status.update(f"{num_rows} rows written")


def _one_of(option: str, value: str, known: tuple[Any, ...]) -> Any:
    if value not in known:
        raise ConfigError(option, f"'{value}' is not known.", f"Use {', '.join(known)}.")
    return value


def _mapping(columns: list[str]) -> dict[str, str]:
    out: dict[str, str] = {}
    for text in columns:
        ours, equals, theirs = text.partition("=")
        if not equals or not ours or not theirs:
            raise ConfigError(f"--columns {text}", "is not of the form OURS=THEIRS.", "Write prompt=question.")
        if ours in out or theirs in out.values():
            raise ConfigError(f"--columns {text}", "a column is mapped twice.", "Keep one of the two.")
        out[ours] = theirs
    return out


def _describe(done: Any) -> list[str]:
    from tunesmith.data.check import shown

    lines = [f"read {_rows(done.rows_read)} of {done.source}, shape {done.shape}"]
    if done.rows_dropped:
        lines += [
            f"dropped {_rows(sum(done.rows_dropped.values()))}:",
            done.fault_table,
        ]
    if done.left_out:
        lines += ["left out:", _counts(done.left_out)]
    if done.ignored_columns:
        lines.append(f"not carried: {', '.join(map(shown, done.ignored_columns))}")
    lines += [f"note: {note}" for note in done.notes]
    lines.append(f"wrote {_rows(done.rows_written)} to {done.output}, columns {', '.join(done.written_columns)}")
    if done.target == "preference":
        lines.append(f"next: tunesmith data convert {shlex.quote(done.output)} chosen.jsonl --to messages")
    else:
        # The recipe names validation rows, which are none of these.
        train = shlex.quote(f"data.train={done.output}")
        lines.append(f"next: tunesmith plan recipes/chat.yaml {train} data.validation=null")
    return lines


def _counts(counts: dict[str, int]) -> str:
    return "\n".join(f"  {count} x {cause}" for cause, count in counts.items())


def _rows(number: int) -> str:
    return f"{number} row" if number == 1 else f"{number} rows"
