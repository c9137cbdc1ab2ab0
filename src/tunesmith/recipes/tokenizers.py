"""Look into tokenizers: find them by name, show the way of one text, compare several over a text or over files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.data.texts import iter_texts
from tunesmith.models.resolve import resolve_model
from tunesmith.reports.tokenizers import fertility_bars
from tunesmith.tokens.fertility import Fertility, measure
from tunesmith.tokens.inspect import BASELINES, Inspector, Steps, open_inspector
from tunesmith.tokens.replay import visible


def find_tokenizer(name: str) -> Inspector:
    """A baseline, a path, or the tokenizer of a model by its name. Raises ModelError where there is none."""
    if name in BASELINES or Path(name).expanduser().exists():
        return open_inspector(name)
    inspector = open_inspector(str(resolve_model(name).folder))
    inspector.name = name
    return inspector


def steps_as_dict(inspector: Inspector, steps: Steps) -> dict[str, Any]:
    """For --json."""
    return {
        "tokenizer": inspector.name,
        "family": inspector.family,
        "normalised": steps.normalised,
        "words": [{"text": word.text, "pieces": list(word.pieces), "steps": list(word.how)} for word in steps.words],
        "pieces": [piece.text for piece in steps.pieces],
        "shown": [piece.shown for piece in steps.pieces],
        "ids": [piece.id for piece in steps.pieces],
        "unknown": sum(not piece.known for piece in steps.pieces),
        "notes": list(steps.notes),
    }


def describe_steps(inspector: Inspector, text: str, steps: Steps) -> list[str]:
    """The way of a text as lines; nothing of the text can act on a terminal."""
    lines = [f"{inspector.name}: {inspector.family}", f"text        {visible(text)}"]
    lines.append(f"normalised  {visible(steps.normalised)}")
    if len(steps.words) > 1:
        lines.append(f"words       {' | '.join(word.text for word in steps.words)}")
    lines.append(f"pieces      {' | '.join(piece.shown for piece in steps.pieces)}")
    written = [visible(piece.text) for piece in steps.pieces]
    if written != [piece.shown for piece in steps.pieces]:
        lines.append(f"as stored   {' | '.join(written)}")
    if any(piece.id is not None for piece in steps.pieces):
        lines.append(f"ids         {' '.join(str(piece.id) for piece in steps.pieces)}")
    if unknown := sum(not piece.known for piece in steps.pieces):
        lines.append(f"unknown     {unknown} of {len(steps.pieces)} pieces: their text is lost")
    for word in steps.words:
        if word.how:
            lines.append(f"{word.text} ->  {' | '.join(word.pieces)}")
            lines.extend(f"    {number}. {step}" for number, step in enumerate(word.how, 1))
    return [*lines, *steps.notes]


def compare_text(inspectors: Sequence[Inspector], text: str) -> tuple[list[Fertility], list[str]]:
    """Counts and the pieces of one text, a row a tokenizer."""
    rows = measure(inspectors, [text])
    return rows, [" | ".join(piece.shown for piece in inspector.pieces(text)) for inspector in inspectors]


def compare_files(
    inspectors: Sequence[Inspector], files: Sequence[str], picture: Path | None, fields: Sequence[str] = ()
) -> list[Fertility]:
    """Counts over every string of the files' rows; ``picture`` is the PNG to write. Raises DataError."""
    rows = measure(inspectors, (text for text, _ in iter_texts(files, fields)))
    if picture is not None:
        title = f"{', '.join(Path(file).name for file in files)}: {rows[0].num_words:,} words"
        fertility_bars([row.as_dict() for row in rows], picture, title=title)
    return rows


def describe_fertility(rows: Sequence[Fertility], pieces: Sequence[str] = ()) -> list[str]:
    """A plain table, one row a tokenizer."""
    width = max(len("tokenizer"), *(len(row.name) for row in rows))
    lines = [f"{'tokenizer':<{width}}  {'tokens':>9}  {'tokens/word':>11}  {'bytes/token':>11}  {'unknown':>7}"]
    for number, row in enumerate(rows):
        counts = f"{row.num_tokens:>9}  {row.tokens_a_word:>11.2f}  {row.bytes_a_token:>11.2f}  {row.num_unknown:>7}"
        lines.append(f"{row.name:<{width}}  {counts}" + (f"  {pieces[number]}" if pieces else ""))
    return lines
