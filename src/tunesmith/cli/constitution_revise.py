"""``tunesmith constitution revise``: prompts in; revised answers, rows to train on and an audit log out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.check import Columns, column_map
from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines


def revise(
    prompts: Annotated[str, typer.Argument(help="Prompts, or rows that hold one each; a .txt has one a line.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", help="Folder of the log, the rows and the summary.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Who answers: hub id, folder, .gguf or address; none: the embedded.")
    ] = None,
    endpoint_model: Annotated[
        str | None, typer.Option("--endpoint-model", help="The model's name, where --model is an address.")
    ] = None,
    adapter: Annotated[str | None, typer.Option("--adapter", help="Folder of an adapter that answers.")] = None,
    critic: Annotated[
        str, typer.Option("--critic", help="self, base, an adapter's folder, an address, random or always-refuse.")
    ] = "self",
    critic_model: Annotated[
        str | None, typer.Option("--critic-model", help="The model's name, where --critic is an address.")
    ] = None,
    reviser: Annotated[str, typer.Option("--reviser", help="Who writes revisions: model or critic.")] = "model",
    constitution: Annotated[str, typer.Option("--constitution", help="A file of principles, or ours.")] = "ours",
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=16, help="Most rounds for a prompt.")] = 2,
    principles: Annotated[int, typer.Option("--principles", min=1, max=16, help="Principles of a round.")] = 1,
    harmless: Annotated[str | None, typer.Option("--harmless", help="Prompts that ask for nothing bad.")] = None,
    helpful_rows: Annotated[str | None, typer.Option("--helpful-rows", help="Rows of good answers to mix in.")] = None,
    helpful_share: Annotated[float, typer.Option("--helpful-share", min=0, help="Their share of all rows.")] = 0.0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for any other key of docs/constitution-revise.md.")
    ] = None,
    columns: Columns = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first prompts of each file.")] = None,
    on_bad_row: Annotated[str, typer.Option("--on-bad-row", help="error or drop.")] = "error",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Keys all randomness.")] = 0,
    estimate_only: Annotated[bool, typer.Option("--estimate-only", help="Say what it would take, and stop.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Revise answers by a constitution; the same command goes on where it was stopped.

    Example: tunesmith constitution revise prompts.jsonl --adapter runs/helpful --output-dir runs/revised
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.constitution_revise import ReviseConfig, run_revise
        from tunesmith.recipes.constitution_revise_show import answer_bar, last_lines

        settings = {
            "prompts": prompts, "output_dir": str(output_dir), "model": model, "endpoint_model": endpoint_model,
            "adapter": adapter, "critic": critic, "critic_model": critic_model, "reviser": reviser,
            "constitution": constitution, "num_rounds": rounds, "principles_per_round": principles,
            "harmless": harmless, "helpful_rows": helpful_rows, "helpful_share": helpful_share, "limit": limit,
            "columns": column_map(columns), "on_bad_row": on_bad_row, "seed": seed, "estimate_only": estimate_only,
        }  # fmt: skip
        # As JSON, which YAML reads as it is meant: a folder named 7 stays a text.
        given = [f"{key}={json.dumps(value)}" for key, value in settings.items() if value is not None]
        config, _ = load_config(ReviseConfig, None, [*given, *(set_ or [])])
        with answer_bar() as show:
            revised = run_revise(config, (lambda _: None) if as_json else typer.echo, show)
        print_lines([json.dumps(revised.as_dict(), ensure_ascii=False)] if as_json else last_lines(revised))
    if revised.interrupted:
        raise typer.Exit(130)
