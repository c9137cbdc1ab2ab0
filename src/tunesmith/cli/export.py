"""``tunesmith export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines


def export(
    source: Annotated[str, typer.Argument(help="Folder of an adapter or a run, or a model: name, hub id, folder.")],
    output: Annotated[Path, typer.Option("--output", help="A .gguf file or a folder.")],
    to: Annotated[str, typer.Option("--to", help="The format: gguf.")] = "gguf",
    quant: Annotated[
        str | None, typer.Option("--quant", help="f32, f16, bf16, q8_0, q4_0, q4_k_m, ...; q8_0 unless said.")
    ] = None,
    base: Annotated[str | None, typer.Option("--base", help="The adapter's model, where its folder is silent.")] = None,
    lora_only: Annotated[bool, typer.Option("--lora-only", help="The LoRA matrices alone, for a GGUF base.")] = False,
    check: Annotated[
        bool | None, typer.Option("--check/--no-check", help="Compare with llama.cpp; on where it is installed.")
    ] = None,
    text: Annotated[Path | None, typer.Option("--text", help="Text file for the perplexity.")] = None,
    max_gap: Annotated[float | None, typer.Option("--max-gap", min=0, help="Allowed gap of perplexity: 0.05.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a GGUF for llama.cpp and Ollama, and check it. Example: tunesmith export runs/demo --output edge."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.recipes.export import ExportConfig
        from tunesmith.recipes.export import export as run
        from tunesmith.recipes.export_text import describe

        settings = {
            "source": source,
            "to": to,
            "quant": quant,
            "output": str(output),
            "base": base,
            "lora_only": lora_only,
            "check": check,
            "text": str(text) if text is not None else None,
            "max_gap": max_gap,
            "overwrite": overwrite,
        }
        config = build_config(ExportConfig, settings, place="tunesmith export")
        done = run(config, say=lambda line: typer.echo(f"{line} ...", err=True))
        print_lines([json.dumps(done.as_dict())] if as_json else describe(done.as_dict(), done.parity))
