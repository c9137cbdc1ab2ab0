"""``tunesmith feedback label``: a person judges candidates in the terminal, one key a judgement."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines


def label(
    store: Annotated[Path, typer.Option("--store", help="The feedback store with the candidates.")],
    annotator: Annotated[str, typer.Option("--annotator", help="Who judges; each has a progress of their own.")],
    kind: Annotated[
        str, typer.Option("--kind", help="comparison, thumb, rating, flag, edit or ranking.")
    ] = "comparison",
    per_prompt: Annotated[
        int | None, typer.Option("--per-prompt", min=1, help="At most so many items of a prompt, the same for all.")
    ] = None,
    repeat_share: Annotated[
        float, typer.Option("--repeat-share", min=0, max=1, help="Share asked again, unannounced.")
    ] = 0.1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Keys the orders; the same for all annotators.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Judge candidates, one key a judgement; each is saved at once, and the same command goes on later.

    Example: tunesmith feedback label --store feedback.db --annotator anna --kind comparison
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.cli.keys import edit_in, keys
        from tunesmith.errors import ConfigError, DataError
        from tunesmith.feedback.judgements import KINDS
        from tunesmith.feedback.label import Labeller
        from tunesmith.feedback.queue import plan_queue
        from tunesmith.feedback.store import FeedbackStore

        if kind not in KINDS:
            raise ConfigError("--kind", f"'{kind}' is no kind of judgement.", f"Use {', '.join(KINDS)}.")
        if not annotator.strip():
            raise ConfigError("--annotator", "the name is empty.", "Say who judges.")
        editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
        name = annotator.strip()
        with FeedbackStore.open(store) as held:
            queue = plan_queue(held, kind, name, seed=seed, per_prompt=per_prompt, repeat_share=repeat_share)
            if not queue:
                needs = "two candidates" if kind in ("comparison", "ranking") else "a candidate"
                fix = f"Draw some: tunesmith feedback sample PROMPTS --store {shlex.quote(str(store))}"
                raise DataError(store, f"no prompt has {needs}.", fix)
            with keys() as read_key:
                session = Labeller(
                    store=held,
                    kind=kind,
                    annotator=name,
                    queue=queue,
                    read_key=read_key,
                    show=show_screen,
                    edit=(lambda text: edit_in(editor, text)) if editor and sys.stdin.isatty() else None,
                ).run()
        facts = {"judged": session.judged, "skipped": session.skipped, "undone": session.undone, "left": session.left}
        where = f"--store {shlex.quote(str(store))}"
        again = f"tunesmith feedback label {where} --annotator {shlex.quote(name)} --kind {kind}"
        said = f"{session.judged} judged and saved in {store}, {session.skipped} skipped, {session.left} left."
        then = f"next:  {again if session.left else f'tunesmith feedback agreement {where}'}"
        print_lines([json.dumps(facts)] if as_json else ["", said, then])


def show_screen(text: str) -> None:
    """Write to standard error, so that --json has standard output alone; a terminal is cleared before a screen."""
    stream = sys.stderr
    if text.count("\n") > 2 and stream.isatty():
        stream.write("\x1b[2J\x1b[H")
    # A terminal that cannot show a character shows its escape.
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
