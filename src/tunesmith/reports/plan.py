"""A memory plan as a person reads it: lines, and a picture of what the memory goes into."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.runs import atomic_write_bytes

PARTS = (
    "process",
    "weights",
    "adapter",
    "gradients",
    "optimizer",
    "activations",
    "attention",
    "head",
    "working",
    "heap",
)
# Reads as one series from what is fixed (blue) to what the batch makes (orange), also in grey.
COLOURS = ("#9aa5b1", "#1f4e79", "#3f6ea3", "#6f9bc8", "#a9c4e0", "#f2b880", "#e08e45", "#b5482a", "#7a2e1d", "#c8b6a6")


def lines_of(plan: Mapping[str, Any], shown_name: str) -> list[str]:
    """The plan of ``recipes/plan_model.as_dict`` as lines."""
    model, machine, choice = plan["model"], plan["machine"], plan["choice"]
    kind = "our kernels" if model["fast"] else "transformers' own modules"
    return [
        f"model      {shown_name}: {_count(model['parameters'])} parameters, {model['family']}, "
        f"{model['layers']} layers of width {model['width']}, vocabulary {model['vocab_size']}; {kind}",
        f"machine    {machine['name']}: {_gb(machine['memory_bytes'])} GB, {_gb(machine['free_bytes'])} GB to plan "
        f"with; {8 * machine['dtype_bytes']}-bit activations",
        f"trained    {plan['trainable_parameters']} parameters ({_count(plan['trainable_parameters'])}), "
        f"{100 * plan['trainable_share']:.3g} % of all; file of {_size(4 * plan['saved_parameters'])}",
        *_table(plan["options"], choice),
        *_verdict(plan["options"], choice, machine),
        _generation(plan["generation"]),
    ]


def option_name(option: Mapping[str, Any]) -> str:
    """What an option does, in words."""
    bits = "4-bit base" if option["quantized"] else "base unquantised"
    level = option["checkpointing"]
    again = "feed-forward checkpointing" if level == "attention" else "checkpointing" if level else "no checkpointing"
    paged = ", paged moments" if option["paged_optimizer"] else ""
    return f"{bits}, {again}, {option['micro_batch_tokens']} tokens at once{paged}"


def _table(options: Sequence[Mapping[str, Any]], choice: Mapping[str, Any] | None) -> list[str]:
    """One column an option, one line a part, in GB."""
    head = "GB         " + "".join(f"{i:>9}" for i in range(1, len(options) + 1))
    rows = [
        f"  {part:<9}" + "".join(f"{option['memory'][part] / 1e9:>9.2f}" for option in options)
        for part in PARTS
        if any(option["memory"][part] for option in options)
    ]
    total = "  total    " + "".join(f"{option['memory']['total'] / 1e9:>9.2f}" for option in options)
    names = [f"  {i}  {option_name(option)}: {_fits(option)}" for i, option in enumerate(options, 1)]
    return [head, *rows, total, *names]


def _fits(option: Mapping[str, Any]) -> str:
    return "fits" if option["fits"] else f"{_gb(option['over_bytes'])} GB too large"


def _verdict(
    options: Sequence[Mapping[str, Any]], choice: Mapping[str, Any] | None, machine: Mapping[str, Any]
) -> list[str]:
    if choice is not None:
        return [f"take       {option_name(choice)}: {_gb(choice['memory']['total'])} GB"]
    least = min(options, key=lambda option: option["over_bytes"])
    return [
        f"NOTHING FITS {machine['name']}: the smallest, {option_name(least)}, is {_gb(least['over_bytes'])} GB too "
        "large. Lower max_length, take a smaller model or another method."
    ]


def _generation(generation: Mapping[str, int]) -> str:
    held, row = generation["weights"] + generation["adapter"], generation["kv_cache_per_row"]
    return f"answering  {_size(held)} and {_size(row)} of keys and values a row of max_length"


def _gb(number: float) -> str:
    return f"{number / 1e9:.2f}" if number < 1e11 else f"{number / 1e9:.0f}"


def _size(number: float) -> str:
    return f"{_gb(number)} GB" if number >= 1e9 else f"{number / 1e6:.3g} MB"


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def memory_picture(bars: Mapping[str, Mapping[str, int]], free_bytes: int, path: Path, *, title: str) -> None:
    """Stacked bars, one a setting: bytes by part, with a line where the machine's memory ends. Raises DiskFullError."""
    # Not through pyplot: that would change the drawing backend of a notebook that calls this.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 0.9 + 0.45 * len(bars) + 1.1), dpi=130, layout="constrained")
    axes = figure.subplots()
    left = dict.fromkeys(bars, 0.0)
    for part, colour in zip(PARTS, COLOURS, strict=True):
        widths = [memory[part] / 1e9 for memory in bars.values()]
        if not any(widths):
            continue
        axes.barh(list(bars), widths, left=[left[name] for name in bars], color=colour, label=part, height=0.7)
        for name, width in zip(bars, widths, strict=True):
            left[name] += width
    axes.axvline(free_bytes / 1e9, color="black", linestyle="--", linewidth=1.0, label="what may be used")
    axes.invert_yaxis()
    axes.set_xlabel("GB at the peak of a step")
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())
