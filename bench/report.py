"""bench/RESULTS.md from one report: ratios with their spread first, then everything they were made from."""

from __future__ import annotations

import statistics
from typing import Any

from report_parts import (
    PROBE_COLUMNS,
    WHO,
    Report,
    allocator_line,
    bf16_lines,
    goals_table,
    machine_lines,
    probe_cells,
    round_ratios,
    rounds_table,
    spread,
    table,
)


def goals(report: Report) -> list[tuple[str, str, bool]]:
    """(goal, median with spread, reached) for each number the issue asks for."""
    speed, peak = "steady_tokens_per_second", "peak_rss_bytes"
    wanted = [
        ("tokens/s, steady state, over TRL's defaults: at least 3.5", "trl_defaults", speed, 3.5),
        ("tokens/s, steady state, over TRL's best of the sweep: at least 3", "trl_best", speed, 3.0),
        ("peak resident memory over TRL's defaults: at most 0.3", "trl_defaults", peak, 0.3),
    ]
    found = []
    for text, peer, key, limit in wanted:
        ratios = round_ratios(report["rounds"], peer, key)
        median = statistics.median(ratios)
        reached = median <= limit if key == peak else median >= limit
        found.append((text, spread(ratios), reached))
    if report["quality"] is not None:
        quality = report["quality"]
        losses = quality["losses"]
        text = f"validation loss after {quality['num_steps']} steps within {quality['tolerance_nats']} nats of TRL's, "
        text += "and the controls outside"
        found.append((text, f"ours {nats(losses['ours'])}, TRL {nats(losses['trl'])}", quality["holds"]))
    return found


def nats(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4f}"


def cells(run: dict[str, Any]) -> list[str]:
    """The columns every measured process is shown with."""
    return [
        f"{run['steady_tokens_per_second']:.1f}",
        f"{run['cold_start_seconds']:.1f}",
        f"{run['step_ends_seconds'][-1]:.1f}",
        *probe_cells(run),
    ]


COLUMNS = ["tokens/s, steady", "cold start s", "start to last step s", *PROBE_COLUMNS]


def render(report: Report) -> str:
    """The whole page."""
    parts = [
        "# SFT: speed, memory and quality beside TRL",
        (
            "Written by `python bench/run_sft.py` (`make bench`); never edited by hand. How it is measured: "
            "[README.md](README.md). What was learnt on the way: [LOG.md](LOG.md). Other rows and a larger model, step "
            "by step: [RESULTS-turns.md](RESULTS-turns.md). Where the time goes: "
            "[RESULTS-profile.md](RESULTS-profile.md). Answering: [RESULTS-generate.md](RESULTS-generate.md). On a "
            "GPU: [RESULTS-gpu.md](RESULTS-gpu.md). That it "
            "is the same numbers: [the parity matrix](../docs/design/parity.md)."
        ),
        setup_text(report),
        "## Ratios",
        goals_table(goals(report)),
        more_ratios(report),
        "## Rounds",
        rounds_table(report["rounds"], COLUMNS, cells),
    ]
    if report["untuned"]:
        rows = [[WHO[name], *cells(run)] for name, run in report["untuned"].items()]
        parts += ["## The same without the allocator's settings, once each", table(["who", *COLUMNS], rows)]
    if report["quality"] is not None:
        parts += ["## Quality", quality_text(report["quality"])]
    parts += ["## The sweep", sweep_text(report)]
    return "\n\n".join(parts) + "\n"


def setup_text(report: Report) -> str:
    rows, first = report["rows"], report["rounds"][0]["ours"]
    lines = [
        f"- date: {report['date']} (sweep: {report['sweep']['date']}); load before: {report['load_before']:.2f}",
        *machine_lines(report, first["threads"]),
        f"- model: {report['model']}; LoRA r 16, alpha 32, all linear layers; AdamW, lr 2e-4, linear; batch 8 rows",
        (
            f"- rows: the first {rows['num_rows']} usable of `{rows['source']}`, prompt -> output, cut at 512 tokens "
            f"({rows['rows_cut']} were; {rows['rows_left_out']} whose prompt alone fills 512 left out); "
            f"{rows['tokens']} real tokens, counted by each side and found equal"
        ),
        f"- steps: {first['num_steps']}; the steady state is every step but the first",
        allocator_line(report),
        f"- TRL's defaults: {report['defaults_name']}",
        f"- TRL's best: {report['best_name']}",
        *bf16_lines(report),
    ]
    if report["smoke"]:
        lines.insert(0, "- **SMOKE RUN: two steps, no meaning.**")
    return "\n".join(lines)


def more_ratios(report: Report) -> str:
    keys = ("steady_tokens_per_second", "peak_rss_bytes", "cold_start_seconds")
    rows = [
        [WHO[name], *(spread(round_ratios(report["rounds"], name, key)) for key in keys)]
        for name in ("trl_defaults", "trl_best")
    ]
    return table(["ours over", "tokens/s", "peak memory", "cold start time"], rows)


def quality_text(quality: dict[str, Any]) -> str:
    names = {
        "base": "no adapter (control: must not agree)",
        "trl": f"TRL: {quality['setting']}",
        "ours": "tunesmith",
        "flipped": "tunesmith, gradient's sign flipped (control: must not agree)",
    }
    rows = [[names[name], nats(loss)] for name, loss in quality["losses"].items()]
    if not quality["flipped_finished"]:
        rows.append([names["flipped"], "stopped: the loss was no number"])
    verdict = "agree" if quality["passed"] else "**do not agree**"
    controls = "fail it, as they must" if quality["controls_fail"] else "**pass it: the check has no teeth**"
    return (
        f"{quality['num_steps']} steps of 8 rows in the same order from the first {quality['train_rows']} rows of "
        f"`instructions/instructions.json`; loss in nats, token mean over the {quality['validation_loss_tokens']} "
        f"answer tokens of {quality['validation_rows']} later rows, by plain transformers + PEFT in fp32.\n\n"
        + table(["adapter", "validation loss"], rows)
        + f"\n\nOurs and TRL {verdict} within {quality['tolerance_nats']}; the controls {controls}."
    )


def sweep_text(report: Report) -> str:
    swept = report["sweep"]
    rows = []
    for number, entry in enumerate(swept["table"], start=1):
        if "failed" in entry:
            rows.append([str(number), entry["name"], entry["failed"], *[""] * len(COLUMNS)])
            continue
        again = entry.get("again")
        rows.append(
            [
                str(number),
                entry["name"],
                f"{again['steady_tokens_per_second']:.1f}" if again else "",
                *cells(entry["result"]),
            ]
        )
    found = swept["isolation"]["largest_logit_difference"]
    isolation = "; ".join(
        f"{name}: padding-free {d['padding_free']:.1e}, packed {d['packing']:.1e}, control without positions "
        f"{d['control']:.1e}"
        for name, d in found.items()
    )
    exact = "exact, so they take part" if swept["isolation"]["exact"] else "not exact, so they take no part"
    return (
        f"Each setting once on the first {swept['rows']} rows. {sweep_stages(swept)}\n\n"
        f"Flattened layouts are {exact}: largest logit difference to each row alone, fp32: {isolation}.\n\n"
        + table(["", "setting", "again", *COLUMNS], rows)
    )


def sweep_stages(swept: dict[str, Any]) -> str:
    """How the settings were chosen."""
    if swept["kind"] == "fp32":
        return (
            "In fp32 without checkpointing: layouts, rows a forward (gradient accumulation keeps the step at 8 rows), "
            "attention, and transformers' loss in place of TRL's."
        )
    if swept["kind"] == "short":
        return "Only the settings that ranked first in earlier sweeps: precisions, length grouping, unpadded layouts."
    return (
        "torch.compile ran on 72 rows with four steps left out; the fastest three ran once more and the mean decides. "
        "Stage 1: checkpointing x weights x autocast x length grouping. Stage 2, on the best so far: attention x rows "
        "a forward (gradient accumulation keeps the step at 8 rows) x layout. Stage 3: the other precisions again, "
        "transformers' loss in place of TRL's, torch.compile."
    )
