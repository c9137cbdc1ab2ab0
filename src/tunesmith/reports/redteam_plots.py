"""The picture of a red-team campaign that shows where: success of each attack on each category of harm."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.runs import atomic_write_bytes

# Light to dark by one hue; what was not tried is hatched, and is not the colour of 0.
_COLOURS = ("#fbf6f1", "#f0c9a8", "#d98a5b", "#b5482a", "#6d1f12")
_CELL_INCHES, _ROW_INCHES, _MOST_INCHES = 0.52, 0.3, 13.0
_ALL = "all"


def draw_heat(path: Path, grids: Mapping[str, Mapping[str, Any]]) -> bool:
    """Write the PNG: a panel a model, attacks down, categories across, successes of attempts in every cell.

    grids: label -> attacks, categories and cells of [successes, attempts]. Attacks stand in the order of their success
    against the last model. Returns whether there was anything to draw. Raises DiskFullError.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    if not grids:
        return False
    tables = {label: _with_totals(grid) for label, grid in grids.items()}
    attacks, categories = _order(tables)
    width = _CELL_INCHES * len(categories) + 0.3
    beside = max(1, min(len(tables), int((_MOST_INCHES - 2) // width)))
    rows = -(-len(tables) // beside)
    height = _ROW_INCHES * len(attacks) + 0.5
    figure = Figure(figsize=(2.2 + beside * width, rows * height + 1.4), dpi=130, layout="constrained")
    grid_of_axes = figure.subplots(rows, beside, squeeze=False, sharex=True, sharey=True)
    colours = LinearSegmentedColormap.from_list("success", _COLOURS)
    for axes, (label, table) in zip(grid_of_axes.flat, tables.items(), strict=False):
        _panel(axes, label, table, attacks, categories, colours)
    for axes in list(grid_of_axes.flat)[len(tables) :]:
        axes.set_visible(False)
    _save(figure, path)
    return True


Cells = Mapping[tuple[str, str], tuple[int, int]]


def _with_totals(grid: Mapping[str, Any]) -> dict[tuple[str, str], tuple[int, int]]:
    out: dict[tuple[str, str], tuple[int, int]] = {}
    for attack, row in zip(grid["attacks"], grid["cells"], strict=True):
        for category, (hits, made) in zip(grid["categories"], row, strict=True):
            for name in {(attack, category), (attack, _ALL), (_ALL, category), (_ALL, _ALL)}:
                own = out.get(name, (0, 0))
                out[name] = own[0] + hits, own[1] + made
    return out


def _order(tables: Mapping[str, Cells]) -> tuple[list[str], list[str]]:
    """Attacks by their success against the last model, categories by name; totals last."""
    names = [name for table in tables.values() for name in table]
    last = list(tables.values())[-1]

    def share(attack: str) -> float:
        hits, made = last.get((attack, _ALL), (0, 0))
        return -hits / made if made else 0.0

    attacks = [one for one in dict.fromkeys(attack for attack, _ in names) if one != _ALL]
    categories = sorted({category for _, category in names} - {_ALL})
    return [*sorted(attacks, key=share), _ALL], [*categories, _ALL]


def _panel(
    axes: Any, label: str, table: Cells, attacks: Sequence[str], categories: Sequence[str], colours: Any
) -> None:
    from matplotlib.patches import Rectangle

    for y, attack in enumerate(attacks):
        for x, category in enumerate(categories):
            hits, made = table.get((attack, category), (0, 0))
            share = hits / made if made else 0.0
            face = {"facecolor": colours(share)} if made else {"facecolor": "none", "hatch": "////"}
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, edgecolor="#d9dee7", linewidth=0.6, **face))
            if made:
                ink = "white" if share > 0.55 else "#1d2330"
                axes.text(x, y, f"{hits}/{made}", ha="center", va="center", fontsize=6.5, color=ink)
    axes.set_xlim(-0.5, len(categories) - 0.5)
    axes.set_ylim(len(attacks) - 0.5, -0.5)
    axes.set_xticks(range(len(categories)), categories, rotation=45, ha="right", rotation_mode="anchor", fontsize=7.5)
    axes.set_yticks(range(len(attacks)), attacks, fontsize=7.5)
    axes.axhline(len(attacks) - 1.5, color="#5c6678", linewidth=0.8)
    axes.axvline(len(categories) - 1.5, color="#5c6678", linewidth=0.8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(label, fontsize=9.5, loc="left", parse_math=False)


def _save(figure: Any, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())
