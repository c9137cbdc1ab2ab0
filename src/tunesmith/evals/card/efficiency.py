"""How fast a model answers and what it takes: tokens a second, time to the first token, memory, energy.

Both models take turns on the same prompt, so that a machine that slows down slows both. Letters: B rows.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from tunesmith.evals.card.measure import Row
from tunesmith.kernels.head_loss import logits_of
from tunesmith.models.decoding import start_decoding
from tunesmith.models.roles import Base
from tunesmith.models.token_rows import head_for
from tunesmith.records import Where
from tunesmith.stats import Interval
from tunesmith.tokens.template import encode_as_text

REPEATS, NEW_TOKENS, MANY_ROWS = 5, 16, 8
PROMPT = (
    "A customer writes that the parcel ordered last Monday has not arrived, although the page says it was delivered. "
    "Write a short and friendly reply that says what happens next, and ask for the order number."
)
RAPL = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One model's readings, a value a repeat; joules is None in a turn whose counter could not be read."""

    first_token_ms: tuple[float, ...]
    one_row_rate: tuple[float, ...]
    many_rows_rate: tuple[float, ...]
    joules: tuple[float | None, ...]


def measure_speed(base: Base, adapters: Sequence[str | None], *, repeats: int = REPEATS) -> list[Speed]:
    """Readings of each adapter (None: the bare base), in turns; the first turn warms up and is not kept."""
    readings: list[list[tuple[float, float, float, float | None]]] = [[] for _ in adapters]
    for turn in range(repeats + 1):
        for own, adapter in zip(readings, adapters, strict=True):
            found = _turn(base, adapter)
            if turn:
                own.append(found)
    return [
        Speed(
            first_token_ms=tuple(r[0] for r in own),
            one_row_rate=tuple(r[1] for r in own),
            many_rows_rate=tuple(r[2] for r in own),
            joules=tuple(r[3] for r in own),
        )
        for own in readings
    ]


def _turn(base: Base, adapter: str | None) -> tuple[float, float, float, float | None]:
    first, one = _decode(base, adapter, 1)
    before = read_joules()
    _, many = _decode(base, adapter, MANY_ROWS)
    after = read_joules()
    joules = None if before is None or after is None else (after - before) / (MANY_ROWS * NEW_TOKENS)
    # A counter that began anew in between tells nothing.
    return (
        first * 1000,
        (NEW_TOKENS - 1) / one,
        MANY_ROWS * (NEW_TOKENS - 1) / many,
        joules if (joules or 0) > 0 else None,
    )


@torch.no_grad()
def _decode(base: Base, adapter: str | None, num_rows: int) -> tuple[float, float]:
    """Seconds to the first token, and of the others, greedy and never ending early."""
    ids = np.array(encode_as_text(PROMPT, base.tokenizer_of(adapter), Where("speed prompt")), np.int64)
    head, _, _ = head_for(base.token_rows, base.head, [adapter], "none")
    began = _now(base)
    state, hidden_BD = start_decoding(base, [ids] * num_rows, NEW_TOKENS, [adapter] * num_rows)
    chosen_B = logits_of(hidden_BD, head).argmax(-1)
    first = _now(base)
    for _ in range(NEW_TOKENS - 1):
        chosen_B = logits_of(state.step(chosen_B), head).argmax(-1)
    return first - began, _now(base) - first


def _now(base: Base) -> float:
    if base.device.type == "cuda":
        torch.cuda.synchronize(base.device)
    return time.perf_counter()


def read_joules(folder: Path = RAPL) -> float | None:
    """Energy the processor packages have used by their RAPL counters; None where none can be read."""
    total, found = 0.0, False
    for path in sorted(folder.glob("intel-rapl:*/energy_uj")):
        # intel-rapl:0 is a package; intel-rapl:0:1 is a part of it.
        if path.parent.name.count(":") != 1:
            continue
        try:
            total += int(path.read_text()) / 1e6
        except (OSError, ValueError):
            return None
        found = True
    return total if found else None


def peak_memory_bytes(base: Base) -> int:
    """The most memory that was taken so far: of the graphics card where the model is on one, else of this process."""
    if base.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(base.device))
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def efficiency_rows(first: Speed, second: Speed | None) -> list[Row]:
    """Rows over the repeats: Student's intervals, and the paired t-test, since the two took turns."""
    described = (
        ("ms to the first token", "first_token_ms", 0.0, "ms"),
        ("tokens a second, one answer", "one_row_rate", math.inf, "tokens/s"),
        (f"tokens a second, {MANY_ROWS} at once", "many_rows_rate", math.inf, "tokens/s"),
        ("joules a token", "joules", 0.0, "J"),
    )
    out = []
    for name, field, ideal, unit in described:
        # Turns in which both were read: a pair is of one turn.
        turns = zip(*(getattr(speed, field) for speed in (first, second or first)), strict=True)
        read = [pair for pair in turns if None not in pair]
        if len(read) < 2:
            continue
        one, two = zip(*read, strict=True)
        row = Row(dimension="efficiency", name=name, num_items=len(one), ideal=ideal, unit=unit, first=student(one)[0])
        if second is not None:
            difference, p = student([b - a for a, b in zip(one, two, strict=True)])
            row = replace(row, second=_level(two), difference=difference, p=p)
        out.append(row)
    return out


def _level(values: Sequence[float]) -> Interval:
    """A reading that cannot be negative, nor can its limits."""
    found, _ = student(values)
    return Interval(found.value, max(0.0, found.low), found.high)


def student(values: Sequence[float]) -> tuple[Interval, float]:
    """Mean with Student's 95 % interval, and the two-sided p of its being 0. Raises ValueError below two values."""
    from scipy.special import stdtr, stdtrit

    if len(values) < 2:
        raise ValueError("one reading has no interval")
    x, n = np.asarray(values, float), len(values)
    value, error = float(x.mean()), float(x.std(ddof=1) / math.sqrt(n))
    half = float(stdtrit(n - 1, 0.975)) * error
    p = 2 * float(stdtr(n - 1, -abs(value) / error)) if error > 0 else float(value == 0)
    return Interval(value, value - half, value + half), p
