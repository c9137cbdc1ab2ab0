"""``tunesmith eval``: a model on suites, with intervals, compared on the same items."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines

# The suite a judge decides has options of its own, so it is a verb of its own, spelled as a suite.
MT_BENCH = "mt-bench"
# key=value as in a recipe; rows:a=b.jsonl is a suite.
_OVERRIDE = re.compile(r"^[a-z_]+(\.[a-z_]+)*=")


class Verbs(TyperGroup):
    """The verbs; ``eval mt-bench`` leads to the one of that name."""

    # typer brings a click of its own in some versions, so that neither's types can be named.
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args[1:] if args[:2] == ["eval", MT_BENCH] else args)


def evaluate(
    suites: Annotated[
        list[str] | None,
        typer.Argument(help="Suites (--list names them), rows:FILE, lm-eval:NAME; and key=value settings."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="A YAML file of settings; options override it.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Embedded name, hub id, folder or .gguf file.")] = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="Adapter, run or tuned model to measure.")] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", help="base, an adapter, or an earlier evaluation's folder; may be repeated."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Items of each suite at most.")] = None,
    shots: Annotated[int | None, typer.Option("--shots", help="Solved examples before each question.")] = None,
    select_shots: Annotated[
        str | None, typer.Option("--select-shots", help="Numbers such as 0,1,3: the best on validation is taken.")
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="Answers drawn an item, for pass@k.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0 takes the likeliest token.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", help="Most tokens of one answer.")] = None,
    no_chat_template: Annotated[
        bool, typer.Option("--no-chat-template", help="Ask as plain text that the model goes on with.")
    ] = False,
    data: Annotated[str | None, typer.Option("--data", help="Folder of the public sets.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Chooses items, shots and draws.")] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Measure a model behind this OpenAI-compatible address.")
    ] = None,
    endpoint_model: Annotated[str | None, typer.Option("--endpoint-model", help="The model's name there.")] = None,
    output: Annotated[str | None, typer.Option("--output", help="Folder for replies, result and pages.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another evaluation's result there.")] = False,
    estimate_only: Annotated[bool, typer.Option("--estimate-only", help="Say what it would take, and stop.")] = False,
    list_suites: Annotated[bool, typer.Option("--list", help="Name the shipped suites, and stop.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model on suites; compare. Example: tunesmith eval boolq gsm8k --adapter runs/demo --compare base."""
    given = {
        "model_name_or_path": model, "adapter": adapter and str(adapter), "compare": compare or None, "limit": limit,
        "shots": shots, "select_shots": _numbers(select_shots), "samples": samples, "temperature": temperature,
        "max_new_tokens": max_new_tokens, "chat_template": False if no_chat_template else None, "data_dir": data,
        "seed": seed, "endpoint.url": endpoint, "endpoint.model": endpoint_model, "output_dir": output,
        "overwrite_output_dir": overwrite or None, "estimate_only": estimate_only or None,
    }  # fmt: skip
    with errors_in_one_paragraph(debug):
        if list_suites:
            print_lines(_shipped(as_json=as_json))
        else:
            _run(suites or [], recipe, given, as_json=as_json)


def _run(words: Sequence[str], recipe: Path | None, given: Mapping[str, Any], *, as_json: bool) -> None:
    """Options over key=value settings over the recipe; then the job, and what came of it."""
    from tunesmith.config import load_config
    from tunesmith.errors import ConfigError
    from tunesmith.recipes.evaluate import describe, run_eval
    from tunesmith.recipes.evaluate_config import EvalConfig

    named = [word for word in words if not _OVERRIDE.match(word)]
    if MT_BENCH in named:
        fix = f"Name it first and alone: tunesmith eval {MT_BENCH} --questions question.jsonl."
        raise ConfigError(f"suite '{MT_BENCH}'", "is judged and has options of its own.", fix)
    settings = {"suites": named or None, **given}
    options = [f"{key}={json.dumps(value)}" for key, value in settings.items() if value is not None]
    config, notes = load_config(EvalConfig, recipe, [*(word for word in words if _OVERRIDE.match(word)), *options])
    say: Callable[[str], None] = (lambda _: None) if as_json else typer.echo
    for note in notes:
        say(note)
    facts = run_eval(config, say)
    if as_json:
        typer.echo(json.dumps(facts))
    elif "suites" in facts:
        print_lines(describe(facts, Path(config.output_dir)))
    if facts.get("interrupted"):
        typer.echo(f"\nstopped; {facts['replies']} replies are kept in {facts['output_dir']}.", err=True)
        typer.echo(f"go on with:  tunesmith {shlex.join(sys.argv[1:])}", err=True)
        raise typer.Exit(130)


def _numbers(text: str | None) -> list[Any] | None:
    """0,1,3 as numbers; what is none stays a text, which the config then refuses by its key."""
    if text is None:
        return None
    return [int(part) if part.strip().isdecimal() else part for part in text.split(",")]


def _shipped(*, as_json: bool) -> list[str]:
    from tunesmith.evals.suites.catalogue import SUITES

    told = ("about", "source", "licence", "version", "answers", "headline")
    if as_json:
        return [json.dumps({name: {key: getattr(suite, key) for key in told} for name, suite in SUITES.items()})]
    return [f"{name:18} {one.about} [{one.headline}; {one.source}, {one.licence}]" for name, one in SUITES.items()]
