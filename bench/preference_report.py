"""bench/RESULTS-preference.md from one report: ratios with their spread first, then what they were made from."""

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

TITLES = {"dpo": "DPO", "reward": "Reward model"}
# (peer, what, least ratio) for each kind.
GOALS = {
    "dpo": (("trl_defaults", "pairs_per_second", 5.0), ("trl_best", "pairs_per_second", 3.0)),
    "reward": (("trl_defaults", "pairs_per_second", 4.0), ("trl_best", "pairs_per_second", 3.0)),
}
MEMORY_LIMIT = 0.35
COLUMNS = [
    "pairs/s",
    "pairs/s, reference left out",
    "reference s",
    "start to last step s",
    *PROBE_COLUMNS,
]


def goals(report: Report) -> list[tuple[str, str, bool]]:
    """(goal, median with spread, reached) for each number the issue asks for."""
    found = []
    for kind, measured in report["kinds"].items():
        for peer, key, limit in GOALS[kind]:
            ratios = round_ratios(measured["rounds"], peer, key)
            text = f"{TITLES[kind]}: pairs/s over {WHO[peer]}: at least {limit:g}"
            found.append((text, spread(ratios), statistics.median(ratios) >= limit))
        ratios = round_ratios(measured["rounds"], "trl_defaults", "peak_rss_bytes")
        text = f"{TITLES[kind]}: peak resident memory over {WHO['trl_defaults']}: at most {MEMORY_LIMIT}"
        found.append((text, spread(ratios), statistics.median(ratios) <= MEMORY_LIMIT))
    return found


def cells(run: dict[str, Any]) -> list[str]:
    """The columns every measured process is shown with."""
    return [
        f"{run['pairs_per_second']:.3f}",
        f"{run['pairs_per_second_without_reference']:.3f}",
        f"{run['reference_seconds']:.1f}",
        f"{run['start_to_end_seconds']:.1f}",
        *probe_cells(run),
    ]


def render(report: Report) -> str:
    """The whole page."""
    parts = [
        "# Preferences: DPO and reward models beside TRL",
        (
            "Written by `python bench/run_preference.py` (`make bench-preference`); never edited by hand. How it is "
            "measured: [README.md](README.md)."
        ),
        setup_text(report),
        "## Ratios",
        goals_table(goals(report)),
    ]
    for kind, measured in report["kinds"].items():
        parts += [f"## {TITLES[kind]}", kind_text(kind, measured, report["pairs"]["num_pairs"])]
    return "\n\n".join(parts) + "\n"


def setup_text(report: Report) -> str:
    pairs, first = report["pairs"], next(iter(report["kinds"].values()))["rounds"][0]["ours"]
    lines = [
        f"- date: {report['date']}; load before: {report['load_before']:.2f}",
        *machine_lines(report, first["threads"]),
        (
            f"- model: {report['model']}; LoRA r 16, alpha 32, all linear layers; AdamW, lr 5e-5, linear; beta 0.1; "
            f"{report['batch_size_pairs']} pairs a step, in file order"
        ),
        (
            f"- pairs: the first {pairs['num_pairs']} usable of `{pairs['source']}`, none cut at 512 tokens "
            f"({pairs['pairs_left_out']} left out: longer, equal, or parting before the last answer); "
            f"{pairs['tokens']} tokens with the prompt counted in both answers, counted by each side and found equal"
        ),
        (
            "- pairs/s: over the steps after the first; a pass over the rows under the reference before the first "
            "step counts with those steps' share of it; nothing is taken from a cache of an earlier run"
        ),
        allocator_line(report),
        f"- TRL's defaults: {report['defaults_name']}, {report['batch_size_pairs']} pairs a forward",
        "- TRL's `padding_free` takes no part: TRL 1.16 has switched it off for DPO and has none for reward models",
        *bf16_lines(report),
    ]
    if report["quick"]:
        lines.insert(0, "- **QUICK RUN: two steps, no meaning.**")
    return "\n".join(lines)


def kind_text(kind: str, measured: dict[str, Any], num_pairs: int) -> str:
    """Rounds, losses and the sweep of one kind."""
    rounds, swept = measured["rounds"], measured["sweep"]
    first = rounds[0]
    losses = [
        [WHO[name], *(f"{loss:.4f}" for loss in first[name]["losses"])] for name in ("ours", "trl_defaults", "trl_best")
    ]
    steps = [f"step {i + 1}" for i in range(len(first["ours"]["losses"]))]
    sweep_rows = [
        [str(i), entry["name"], *(cells(entry["result"]) if "result" in entry else [entry["failed"]])]
        for i, entry in enumerate(swept["table"], start=1)
    ]
    peaks = {peer: spread(round_ratios(rounds, peer, "peak_rss_bytes")) for peer in ("trl_defaults", "trl_best")}
    return "\n\n".join(
        [
            f"Measured {measured['date']} on {num_pairs} pairs. TRL's best: {measured['best_name']}.",
            rounds_table(rounds, COLUMNS, cells),
            (
                f"Peak memory, ours over TRL's defaults {peaks['trl_defaults']}, over TRL's best {peaks['trl_best']}. "
                "The same steps' losses, as each side logs them (adapters start from different random matrices"
                + ("; a fresh scalar head too" if kind == "reward" else "")
                + "):"
            ),
            table(["who", *steps], losses),
            (
                f"TRL's sweep ({swept['date']}, load {swept['load_before']:.1f}), each setting once on "
                f"{swept['num_pairs']} pairs:"
            ),
            table(["", "setting", *COLUMNS], sweep_rows),
        ]
    )
