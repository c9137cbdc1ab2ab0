"""``tunesmith quantize``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, ModelName, errors_in_one_paragraph, print_lines


def quantize(
    output: Annotated[Path, typer.Option("--output", help="Folder for the base in 4 bits.")],
    model: ModelName = "smollm2-135m-instruct",
    double_quant: Annotated[
        bool, typer.Option(help="Pack the blocks' magnitudes too: 4.127 bits a weight instead of 4.5.")
    ] = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Pack a base's linear maps into 4 bits. Example: tunesmith quantize --model my-model --output my-model-4bit."""
    with errors_in_one_paragraph(debug):
        from tunesmith.errors import ModelError
        from tunesmith.models.load import build_base, pick_device, stored_dtype
        from tunesmith.models.quantize import save_quantized
        from tunesmith.models.quantized_linear import QuantizationConfig
        from tunesmith.models.resolve import QUANTIZED_FILE, resolve_model

        if output.exists() and any(output.iterdir()):
            raise ModelError(output, "is not empty.", "Name a new folder.")
        packing, resolved = QuantizationConfig(double_quant=double_quant), resolve_model(model)
        base = build_base(resolved, pick_device("cpu"), stored_dtype(resolved), quantization=packing)
        save_quantized(base, output)
        if as_json:
            size = (output / QUANTIZED_FILE).stat().st_size
            typer.echo(json.dumps({"output": str(output), "size_bytes": size, "notes": base.notes}))
            return
        print_lines(
            [
                *base.notes,
                f"wrote      {output}",
                f"next:      tunesmith sft recipes/chat.yaml model_name_or_path={shlex.quote(str(output))}",
            ]
        )
