"""What the pages of all benches share: tables, spreads, and the lines about the machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

Report = dict[str, Any]
Run = dict[str, Any]
WHO = {"ours": "tunesmith", "trl_defaults": "TRL, its defaults", "trl_best": "TRL, best of the sweep"}
PROBE_COLUMNS = ["peak GB", "bf16 GEMM GFLOP/s before / after", "fp32 before / after"]


def round_ratios(rounds: Sequence[dict[str, Run]], peer: str, key: str) -> list[float]:
    """One ratio a round, ours over the peer: both were measured minutes apart, so that drift of the machine cancels."""
    return [a_round["ours"][key] / a_round[peer][key] for a_round in rounds]


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def goals_table(goals: Sequence[tuple[str, str, bool]]) -> str:
    """(goal, median with spread, reached) of each."""
    rows = [[text, value, "yes" if reached else "**no**"] for text, value, reached in goals]
    return table(["goal", "median of the rounds (smallest to largest)", "reached"], rows)


def rounds_table(rounds: Sequence[dict[str, Run]], columns: list[str], cells: Callable[[Run], list[str]]) -> str:
    """Every measured process, in the order they ran."""
    rows = [
        [str(index), WHO[name], *cells(run)]
        for index, a_round in enumerate(rounds, start=1)
        for name, run in a_round.items()
    ]
    return table(["round", "who (in the order run)", *columns], rows)


def probe_cells(run: Run) -> list[str]:
    """Peak memory, and what the machine could do just before and just after."""
    probes = [run["gemm_before"], run["gemm_after"]]
    return [
        f"{run['peak_rss_bytes'] / 1e9:.2f}",
        " / ".join(f"{probe['bfloat16']:.0f}" for probe in probes),
        " / ".join(f"{probe['float32']:.0f}" for probe in probes),
    ]


def machine_lines(report: Report, threads: int) -> list[str]:
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return [
        (
            f"- machine: {machine['cpu']}, {machine['cores']} cores ({', '.join(machine['instructions'])}), "
            f"{machine['memory_gib']} GiB, Linux {machine['kernel']}, {machine['libc']}, Python {machine['python']}, "
            f"{threads} torch threads"
        ),
        f"- versions: {versions}",
    ]


def allocator_line(report: Report) -> str:
    allocator = ", ".join(f"`{name}={value}`" for name, value in report["allocator"].items())
    return f"- allocator, both sides: {allocator}"


def bf16_lines(report: Report) -> list[str]:
    """Said where the processor has no units for bf16."""
    if report["bf16_is_fast"]:
        return []
    return [
        "- **this processor has no bf16 units**: it emulates bf16 at a fraction of its fp32 rate, so TRL's own "
        "default (bf16 autocast) is switched off in what is called its defaults here, and the sweep is in fp32"
    ]
