"""``tunesmith redteam``: attack what was tuned, and say what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tunesmith.cli import redteam_export, redteam_gcg, redteam_import, redteam_judges, redteam_loop, redteam_report
from tunesmith.cli.shared import Debug, Json, Overrides, errors_in_one_paragraph, print_lines

_RUN = "run"


class _RunsItself(TyperGroup):
    """A group whose options, where no verb is named, are those of the campaign itself."""

    # typer brings a click of its own in some versions, so that neither's types can be named.
    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        named = not args or args[0] in (*self.commands, "--help")
        return super().parse_args(ctx, args if named else [_RUN, *args])


app = typer.Typer(
    cls=_RunsItself,
    no_args_is_help=True,
    help="Attack a model that is yours, and say what came of it. Options without a verb are those of run.",
)
app.command("import")(redteam_import.import_scans)
app.command("judges")(redteam_judges.judges)
app.command("gcg")(redteam_gcg.gcg)
app.command("report")(redteam_report.report)
app.command("export")(redteam_export.export)
app.command("loop")(redteam_loop.loop)


@app.command(_RUN)
def run(
    overrides: Overrides = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="A YAML file of settings.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Embedded name, hub id, folder or .gguf file.")] = None,
    adapter: Annotated[str | None, typer.Option("--adapter", help="The adapter under test; none: the base.")] = None,
    compare: Annotated[
        list[str] | None, typer.Option("--compare", help="base or an adapter: what was there before; repeatable.")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="OpenAI-compatible address to attack.")] = None,
    target_model: Annotated[str | None, typer.Option("--target-model", help="The model's name there.")] = None,
    i_own_this_target: Annotated[
        bool, typer.Option("--i-own-this-target", help="You may attack an address that is not this machine.")
    ] = False,
    goals: Annotated[list[str] | None, typer.Option("--goals", help="A set by name or a file; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Goals in all at most.")] = None,
    attack: Annotated[list[str] | None, typer.Option("--attack", help="An attack by name, or all; repeatable.")] = None,
    converter: Annotated[
        list[str] | None, typer.Option("--converter", help="A chain such as leet+base64, before direct; repeatable.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option("--judge", help="detector, rubric, harm, or composed such as detector+rubric.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Folder of the public sets.")] = None,
    output: Annotated[str | None, typer.Option("--output", help="Folder for attempts and verdict.")] = None,
    fail_above: Annotated[
        list[str] | None, typer.Option("--fail-above", help="Such as asr=0.10,over-refusal=0.2: else exit code 1.")
    ] = None,
    estimate_only: Annotated[bool, typer.Option("--estimate-only", help="Say what it costs, attack nothing.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Do not mask what may harm in the terminal.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Goals x attacks x converters against a model of yours; the same command goes on where it was stopped.

    Example: tunesmith redteam --adapter runs/sft --compare base --goals ours --fail-above asr=0.10
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.redteam_config import RedteamConfig

        given: dict[str, Any] = {
            "model_name_or_path": model,
            "adapter": adapter,
            "compare": compare,
            "target": target,
            "target_model": target_model,
            "i_own_this_target": i_own_this_target or None,
            "goals": goals,
            "limit": limit,
            "attacks": attack,
            "converters": converter,
            "judge": judge,
            "data_dir": data,
            "output_dir": output,
            "fail_above": fail_above,
        }
        settings = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
        config, notes = load_config(RedteamConfig, recipe, [*(overrides or []), *settings])
        _run(config, notes, estimate_only=estimate_only, show=show, as_json=as_json)


def _run(config: Any, notes: list[str], *, estimate_only: bool, show: bool, as_json: bool) -> None:
    """Run, tell, and exit by the thresholds."""
    from tunesmith.recipes.redteam import run_redteam
    from tunesmith.recipes.redteam_show import campaign_bars, describe_campaign
    from tunesmith.redteam.thresholds import exceeded, parse_thresholds

    def say(line: str) -> None:
        typer.echo(line, err=as_json)

    print_lines([] if as_json else notes)
    with campaign_bars() as bars:
        campaign = run_redteam(config, say, bars, estimate_only=estimate_only)
    if estimate_only:
        print_lines([json.dumps(campaign.cost.as_dict())] if as_json else [])
        return
    beyond = [] if campaign.interrupted else exceeded(campaign.facts, parse_thresholds(config.fail_above))
    if as_json:
        typer.echo(json.dumps(campaign.as_dict() | {"exceeded": [str(one) for one in beyond]}))
    else:
        print_lines([*describe_campaign(campaign, show=show), *(f"exceeded: {one}" for one in beyond)])
    if campaign.interrupted:
        raise typer.Exit(130)
    if beyond:
        raise typer.Exit(1)
