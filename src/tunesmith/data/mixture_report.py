"""What a mixture holds, task by task: as plain values and as lines a person reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.mixture import Mixture, MixtureRecords
from tunesmith.data.mixture_task import MODES


def mixture_table(mixture: Mixture, records: MixtureRecords, tokens: Mapping[int, int] | None) -> list[dict[str, Any]]:
    """One entry a task, held-out ones too: rows, share, examples, passes, templates and modes used, and tokens.

    tokens: place in the mixture -> number of tokens, where the examples have been rendered; without it no tokens.
    """
    counts: dict[str, Counter[str]] = {}
    num_tokens: Counter[str] = Counter()
    for i in range(len(records)):
        draw = records.draw(i)
        counts.setdefault(draw.task.name, Counter()).update(["examples", f"t {draw.template.name}", f"m {draw.mode}"])
        num_tokens[draw.task.name] += (tokens or {}).get(int(records.places[i]), 0)
    trained = {task.name: (task, float(rate)) for task, rate in zip(mixture.tasks, mixture.rates, strict=True)}
    table: list[dict[str, Any]] = []
    for config in mixture.config.tasks:
        task, rate = trained.get(config.name, (None, 0.0))
        count = counts.get(config.name, Counter())
        rows = len(task.row_ids) if task is not None else 0
        table.append(
            {
                "task": config.name,
                "held_out": config.name in mixture.config.held_out,
                "rows": rows,
                "rows_validation": len(task.held_ids) if task is not None else 0,
                "rate": round(rate, 6),
                "examples": count["examples"],
                "passes": round(count["examples"] / rows, 3) if rows else 0.0,
                **({"tokens": num_tokens[config.name]} if tokens is not None else {}),
                "templates": {key[2:]: n for key, n in sorted(count.items()) if key.startswith("t ")},
                "modes": {mode: count[f"m {mode}"] for mode in MODES if count[f"m {mode}"]},
            }
        )
    return table


def table_lines(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table aligned for a terminal."""
    with_tokens = any("tokens" in entry for entry in table)
    head = ["task", "rows", "valid", "share", "examples", "passes", *["tokens"] * with_tokens, "templates", "modes"]
    lines = [head]
    for entry in table:
        if not entry["examples"]:
            reason = "held out" if entry["held_out"] else "not drawn"
            rows = "-" if entry["held_out"] else str(entry["rows"])
            lines.append([entry["task"], rows, *["-"] * (5 + with_tokens), reason])
            continue
        used = entry["templates"].values()
        modes = ", ".join(f"{mode.replace('_', '-')} {count}" for mode, count in entry["modes"].items())
        lines.append(
            [
                entry["task"],
                str(entry["rows"]),
                str(entry["rows_validation"]),
                f"{100 * entry['rate']:.1f} %",
                str(entry["examples"]),
                f"{entry['passes']:.2f}",
                *([str(entry["tokens"])] if with_tokens else []),
                f"{len(used)} x {_span(list(used))}",
                modes,
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _span(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}-{high}"
