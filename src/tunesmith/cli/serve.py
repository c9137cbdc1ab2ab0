"""``tunesmith serve``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tunesmith.cli.shared import AdapterPaths, Debug, DecodingWeights, Json, ModelName, errors_in_one_paragraph


def serve(
    model: ModelName = "smollm2-135m-instruct",
    adapter: AdapterPaths = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; others than loopback are for all.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", help="0 takes any that is free.")] = 8000,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer whose request does not say.")] = 256,
    weights: DecodingWeights = "auto",
    key_env: Annotated[str, typer.Option("--api-key-env", help="Variable with the key that clients must send.")] = (
        "TUNESMITH_SERVE_KEY"
    ),
    seed: Annotated[int, typer.Option("--seed", help="Keys the draws of requests without a seed.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No line for each request.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Serve models as an OpenAI-compatible address. Example: tunesmith serve --adapter runs/demo --port 8000.

    Each adapter is a model named after its folder, on one base in memory; the base is one too.
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.recipes.serve import describe_server, serve_until_stopped, serving

        def log(line: str) -> None:
            if not quiet:
                typer.echo(line, err=True)

        with serving(
            model, adapter or [], host=host, port=port, max_new_tokens=max_new_tokens, weights=weights,
            key_env=key_env, seed=seed, say=log,
        ) as server:  # fmt: skip
            facts = {"url": server.url, "models": list(server.models), "key": bool(server.key)}
            for line in [json.dumps(facts)] if as_json else describe_server(server, key_env):
                typer.echo(line)
            serve_until_stopped(server)
        typer.echo(f"stopped; requests answered: {server.num_answered}.", err=True)
