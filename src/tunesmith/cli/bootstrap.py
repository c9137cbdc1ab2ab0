"""``tunesmith data bootstrap``: seeds in, new instruction rows out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.shared import AdapterPath, Debug, Json, errors_in_one_paragraph, print_lines

EMBEDDED = "smollm2-135m-instruct"


def bootstrap(
    seeds: Annotated[Path, typer.Argument(help="Seed tasks: Self-Instruct's or Alpaca's columns.")],
    output: Annotated[Path, typer.Option("--output", help="Folder for the rows, the requests and the report.")],
    num: Annotated[int, typer.Option("--num", min=1, help="Rows wanted.")] = 500,
    model: Annotated[str | None, typer.Option("--model", help="Hub id, folder or .gguf; none: the embedded.")] = None,
    adapter: AdapterPath = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="OpenAI-compatible address, ending in /v1.")
    ] = None,
    endpoint_model: Annotated[str | None, typer.Option("--endpoint-model", help="The model's name there.")] = None,
    api_key_env: Annotated[
        str, typer.Option("--api-key-env", help="Environment variable that holds the endpoint's key.")
    ] = "TUNESMITH_API_KEY",
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds for one answer of the endpoint.")] = 120.0,
    connections: Annotated[int, typer.Option("--connections", min=1, max=64, help="Requests under way at once.")] = 4,
    scheme: Annotated[str, typer.Option("--scheme", help="auto, paper, or small for models below 1B.")] = "auto",
    temperature: Annotated[float, typer.Option("--temperature", min=0, max=10)] = 0.7,
    top_p: Annotated[float, typer.Option("--top-p", min=0.01, max=1)] = 0.95,
    shown: Annotated[int, typer.Option("--shown", min=1, help="Tasks shown in a request for a new one.")] = 8,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="New instructions asked for in one round.")] = 8,
    max_idle: Annotated[int, typer.Option("--max-idle", min=1, help="Stop after so many without a new row.")] = 200,
    max_rouge_l: Annotated[float, typer.Option("--max-rouge-l", min=0.01, max=1, help="Likeness turned down.")] = 0.7,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Keys all randomness.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Let a model write instruction rows from seeds (Self-Instruct); the same command goes on where it was stopped.

    Example: tunesmith data bootstrap seeds.jsonl --num 500 --endpoint http://localhost:8000/v1 --endpoint-model NAME
    --output rows
    """
    with errors_in_one_paragraph(debug):
        settings: dict[str, Any] = {
            "seeds": str(seeds),
            "output_dir": str(output),
            "num": num,
            "seed": seed,
            "num_shown": shown,
            "requests_at_once": at_once,
            "max_idle_requests": max_idle,
            "temperature": temperature,
            "top_p": top_p,
            "filters": {"max_rouge_l": max_rouge_l},
        }
        server = {
            "url": endpoint,
            "model": endpoint_model,
            "api_key_env": api_key_env,
            "timeout_seconds": timeout,
            "num_connections": connections,
        }
        _run(settings, server, model, adapter, scheme, as_json=as_json)


def _run(
    settings: dict[str, Any],
    server: dict[str, Any],
    model: str | None,
    adapter: Path | None,
    scheme: str,
    *,
    as_json: bool,
) -> None:
    """Check the settings and the seeds, open the writer, make the rows, report."""
    from tunesmith.config import build_config
    from tunesmith.recipes.bootstrap import make_rows
    from tunesmith.recipes.bootstrap_config import BootstrapConfig
    from tunesmith.recipes.bootstrap_open import check_choice, open_endpoint, open_local
    from tunesmith.recipes.bootstrap_show import last_lines, make_report, row_bar
    from tunesmith.rollout.endpoint import EndpointConfig

    check_choice(model, adapter, server["url"], server["model"])
    if scheme != "auto":
        settings = {**settings, "scheme": scheme}
    # Wrong settings and wrong seeds are told before a model is loaded.
    config = build_config(BootstrapConfig, {**settings, "writer": {}}, place="command line")
    config.check_seeds()
    if server["url"] is not None:
        opened = open_endpoint(build_config(EndpointConfig, server, place="command line"), seed=config.seed)
    else:
        opened = open_local(model or EMBEDDED, adapter)
    if not as_json:
        print_lines(opened.notes)
    told = {"writer": dict(opened.writer.identity), "scheme": opened.scheme if scheme == "auto" else scheme}
    config = config.model_copy(update=told)
    began = time.monotonic()
    with row_bar(config.num) as show, make_rows(config, opened.writer, show) as (made, asker, tasks):
        facts = make_report(config, made, asker, tasks, time.monotonic() - began)
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        print_lines(last_lines(config, facts))
    if made.stopped == "interrupted":
        raise typer.Exit(130)
