"""``tunesmith constitution check``: what is wrong with the form of a constitution, and what it reaches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.check import Columns, column_map
from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines

# Something in the file would make the rules do what they do not say.
FAULTY = 1


def check(
    constitution: Annotated[str, typer.Argument(help="A .yaml file, or 'ours', which comes with tunesmith.")] = "ours",
    sample: Annotated[str | None, typer.Option("--sample", help="Prompts: which rules apply to them.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="First rows of the sample.")] = None,
    columns: Columns = None,
    model: Annotated[str | None, typer.Option("--model", help="Count this model's tokens, in its context.")] = None,
    context: Annotated[int, typer.Option("--context", min=64, help="Tokens a critic reads, without --model.")] = 2048,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Contradictions of form, copies, rules out of reach. Example: tunesmith constitution check ours.

    Exit code 0: no errors, 1: errors. A wrong call or a file that cannot be read ends with 2 and with 'error:'.
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.constitution.check import check_constitution
        from tunesmith.constitution.check_show import as_dict, describe
        from tunesmith.data.prompts import load_prompts

        prompts = None if sample is None else load_prompts(sample, column_map(columns), limit=limit)
        count, context_tokens = None, context
        if model is not None:
            from tunesmith.models.tokenizer import load_tokenizer

            base = load_tokenizer(model)
            context_tokens = base.context_tokens

            def count(text: str) -> int:
                return len(base.tokenizer(text)["input_ids"])

        checked = check_constitution(
            constitution, count_tokens=count, context_tokens=context_tokens, sample=prompts,
            sample_name=Path(sample or "").name,
        )  # fmt: skip
        notes = [] if prompts is None or as_json else prompts.notes()
        print_lines([json.dumps(as_dict(checked))] if as_json else [*describe(checked), *notes])
        if checked.num["error"]:
            raise typer.Exit(FAULTY)
        if not as_json:
            print_lines([f"Next: tunesmith constitution revise PROMPTS --constitution {constitution}"])
