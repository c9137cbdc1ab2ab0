"""Is the speed bought with quality? The same steps on the same rows must reach TRL's validation loss.

    python bench/quality.py [--data DIR] [--num-steps 100]

Both sides take the same rows in the same order with the same hyper-parameters; plain transformers + PEFT judges both
adapters in fp32. Two controls must fail the same check: our adapter trained with its gradient's sign flipped, and no
adapter at all.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from processes import Rows, Sides, run_json
from settings import BATCH_SIZE_ROWS, MAX_LENGTH_TOKENS, Setting

TOLERANCE_NATS = 0.02
TRAIN_ROWS, VALIDATION_ROWS = 580, 200
# The arithmetic of its defaults (fp32 weights, bf16 autocast) without recomputation or padding, rows in file order.
TRL_SETTING = Setting(weights="float32", autocast=True, sampling="sequential", micro_rows=1)
IN_ORDER = ("--keep-order", "--save")


def agrees(loss: float | None, reference: float) -> bool:
    """Whether a validation loss is within the tolerance of TRL's; None (not finite) never is."""
    return loss is not None and abs(loss - reference) <= TOLERANCE_NATS


def train_flipped(sides: Sides, rows: Rows) -> bool:
    """Train ours with flipped gradients; False where the loss ran away until it was no number: a failure as well."""
    folder = str(sides.out / "adapter_flipped")
    result = sides.ours(rows, extra=(*IN_ORDER, "--flip-gradient", "--output-dir", folder))
    return not result.get("diverged", False)


def check(sides: Sides, source: Path, num_steps: int, *, bf16_is_fast: bool = True) -> dict[str, Any]:
    """Train both sides and the control, judge all adapters, and say whether the check holds and has teeth."""
    setting = TRL_SETTING if bf16_is_fast else replace(TRL_SETTING, autocast=False)
    train = sides.prepare_rows(
        "quality_train.jsonl",
        source,
        num_steps * BATCH_SIZE_ROWS,
        *("--to-row", str(TRAIN_ROWS), "--repeat"),
        max_length=MAX_LENGTH_TOKENS,
    )
    validation = sides.prepare_rows(
        "quality_validation.jsonl",
        source,
        VALIDATION_ROWS,
        *("--from-row", str(TRAIN_ROWS)),
        max_length=MAX_LENGTH_TOKENS,
    )
    sides.trl(setting, train, extra=("--save",))
    sides.ours(train, extra=IN_ORDER)
    adapters = {"base": "base", "trl": str(sides.out / "adapter_trl"), "ours": str(sides.out / "adapter_ours")}
    flipped_finished = train_flipped(sides, train)
    if flipped_finished:
        adapters["flipped"] = str(sides.out / "adapter_flipped")
    command = [str(sides.peers_python), "evaluate_adapter.py", "--model", sides.model_folder]
    command += ["--rows", str(validation.path), "--max-length", str(MAX_LENGTH_TOKENS)]
    for adapter in adapters.values():
        command += ["--adapter", adapter]
    judged = run_json(command, {}, sides.out / "evaluate.log")
    losses = {name: judged["losses"][adapter] for name, adapter in adapters.items()}
    passed = agrees(losses["ours"], losses["trl"])
    controls_fail = not agrees(losses.get("flipped"), losses["trl"]) and not agrees(losses["base"], losses["trl"])
    return {
        "num_steps": num_steps,
        "train_rows": TRAIN_ROWS,
        "validation_rows": judged["num_rows"],
        "validation_loss_tokens": judged["loss_tokens"],
        "losses": losses,
        "flipped_finished": flipped_finished,
        "tolerance_nats": TOLERANCE_NATS,
        "setting": setting.name,
        "passed": passed,
        "controls_fail": controls_fail,
        "holds": passed and controls_fail,
    }


def main() -> None:
    from run_sft import add_common_arguments, data_file, prepare_sides

    parser = argparse.ArgumentParser(description=__doc__)
    add_common_arguments(parser)
    parser.add_argument("--num-steps", type=int, default=100)
    args = parser.parse_args()
    source = data_file(args.data, "instructions/instructions.json")
    sides = prepare_sides(args)
    report = check(sides, source, args.num_steps, bf16_is_fast=sides.bf16_is_fast)
    (sides.out / "quality.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(json.dumps(report, indent=2))
    raise SystemExit(0 if report["holds"] else 1)


if __name__ == "__main__":
    main()
