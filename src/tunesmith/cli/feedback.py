"""``tunesmith feedback <verb>``: human judgements of answers, kept in a store and turned into training pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import feedback_agreement, feedback_label, feedback_sample
from tunesmith.cli.check import Columns, column_map
from tunesmith.cli.shared import Debug, Json, Overrides, errors_in_one_paragraph, print_lines
from tunesmith.errors import ConfigError

app = typer.Typer(help="Candidates, and what people say of them, up to pairs to train on.", no_args_is_help=True)
app.command("sample")(feedback_sample.sample)
app.command("label")(feedback_label.label)
app.command("agreement")(feedback_agreement.agreement)
Store = Annotated[Path, typer.Option("--store", help="The feedback store, one SQLite file.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]


@app.command("import")
def import_(
    files: Annotated[list[str], typer.Argument(help="Rows of feedback, Argilla's exports, or an export's folder.")],
    store: Annotated[Path, typer.Option("--store", help="The feedback store; made where there is none.")],
    annotator: Annotated[
        str | None, typer.Option("--annotator", help="Whose words they are, where a file does not say.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option("--shape", help="What the rows are, where columns leave a doubt.")
    ] = None,
    columns: Columns = None,
    on_bad_row: Annotated[str, typer.Option("--on-bad-row", help="error, or drop: leave out and count.")] = "error",
    merge_same_role: Annotated[
        bool, typer.Option("--merge-same-role", help="Join a speaker's neighbouring turns with a blank line.")
    ] = False,
    prompt_field: Annotated[str | None, typer.Option("--prompt-field", help="Argilla: the prompt's field.")] = None,
    answer_fields: Annotated[
        list[str] | None, typer.Option("--answer-field", help="Argilla: an answer's field; may be repeated.")
    ] = None,
    questions: Annotated[
        list[str] | None, typer.Option("--question", help="Argilla: NAME=KIND[:FIELD], what a question asks.")
    ] = None,
    suggestions: Annotated[
        bool, typer.Option("--suggestions", help="Argilla: take what models suggested too.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Put judgements into a store, once each. Example: tunesmith feedback import ratings.jsonl --store feedback.db."""
    with errors_in_one_paragraph(debug):
        from tunesmith.data.convertible import FEEDBACK_SHAPES
        from tunesmith.feedback.argilla import ArgillaOptions
        from tunesmith.feedback.transfer import ImportOptions
        from tunesmith.recipes.feedback_transfer import describe_import, import_feedback, parse_questions

        if shape is not None and shape not in FEEDBACK_SHAPES:
            raise ConfigError("--shape", f"'{shape}' is not known.", f"Use {', '.join(FEEDBACK_SHAPES)}.")
        if on_bad_row not in ("error", "drop"):
            raise ConfigError("--on-bad-row", f"'{on_bad_row}' is not known.", "Use error or drop.")
        options = ImportOptions(
            annotator=annotator,
            shape=next((known for known in FEEDBACK_SHAPES if known == shape), None),
            columns=column_map(columns),
            drop_bad_rows=on_bad_row == "drop",
            merge_same_role=merge_same_role,
            argilla=ArgillaOptions(
                prompt_field=prompt_field,
                answer_fields=tuple(answer_fields or ()),
                questions=parse_questions(questions or []),
                suggestions=suggestions,
            ),
        )
        done = import_feedback(store, files, options)
        print_lines([json.dumps(done.as_dict(), ensure_ascii=False)] if as_json else describe_import(done, store))


@app.command("export")
def export(
    folder: Annotated[Path, typer.Argument(help="Folder for a .jsonl file a kind.")],
    store: Store,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a store as files of rows, without loss. Example: tunesmith feedback export exported --store feedback.db."""
    with errors_in_one_paragraph(debug):
        from tunesmith.recipes.feedback_transfer import as_dict, describe_export, export_feedback

        done = export_feedback(store, folder, overwrite=overwrite)
        print_lines([json.dumps(as_dict(done))] if as_json else describe_export(done, store, folder))


@app.command("prefer")
def prefer(
    output_dir: Annotated[str, typer.Argument(help="Folder for the pairs and the report.")],
    store: Store,
    overrides: Overrides = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="A YAML file with the settings.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Judgements of all kinds into pairs. Example: tunesmith feedback prefer preferences --store feedback.db."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.feedback_prefer import FeedbackPreferConfig, describe, make_preferences

        given = {"store": str(store), "output_dir": output_dir, "overwrite": overwrite}
        settings = [f"{key}={json.dumps(value)}" for key, value in given.items()]
        config, notes = load_config(FeedbackPreferConfig, recipe, [*(overrides or []), *settings])
        report = make_preferences(config)
        shown = [json.dumps(report.as_dict(), ensure_ascii=False)] if as_json else [*notes, *describe(report, config)]
        print_lines(shown)
