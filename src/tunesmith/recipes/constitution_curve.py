"""Branches of a run that are trained and measured besides: other mixing shares, and critics that read nothing.

Each is a loop over the run's own stages in a folder of its own; answers of models that are measured twice are found.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith.randomness import permutation
from tunesmith.recipes.constitution_evaluate import RESULTS_FILE
from tunesmith.recipes.constitution_mix import helpful_rows, mixed
from tunesmith.recipes.constitution_revise import REQUESTS_FILE, SFT_FILE
from tunesmith.recipes.constitution_run_config import ConstitutionRunConfig
from tunesmith.recipes.constitution_run_shop import Recipe, Workshop, file_of
from tunesmith.recipes.constitution_run_stages import Builder
from tunesmith.recipes.stages import Stage
from tunesmith.runs import atomic_write_text

SHARES, CONTROLS = "shares", "controls"


def branch_stages(config: ConstitutionRunConfig, main: list[Recipe], shop: Workshop, place: str) -> list[Recipe]:
    """The stages of every mixing share and of every control, behind those of the run. Raises as ``build_stages``."""
    folders: dict[str, Path] = {recipe.kind: recipe.stage.folder for recipe in main}
    made = {path for recipe in main for path in (recipe.stage.folder, *recipe.stage.leaves)}
    out: list[Recipe] = []
    for share in config.mixing_shares:
        builder = _branch(config, shop, place, folders, made, Path(SHARES) / f"{share:g}")
        revise = next(recipe for recipe in main if recipe.kind == "revise")
        out.append(_mix(revise, builder.folder("revise"), share, shop))
        out += _trained_and_measured(builder, out[-1], f"@{share:g}")
    for control in config.controls:
        builder = _branch(config, shop, place, folders, made, Path(CONTROLS) / control)
        told = {**config.revise, "critic": control}
        builder.config = builder.config.model_copy(update={"revise": told})
        # First answers do not depend on the critic: what the run has of them is not asked again.
        recipe = builder.build("revise", f"@{control}")
        out.append(_after_copy(recipe, folders["revise"] / REQUESTS_FILE))
        out += _trained_and_measured(builder, out[-1], f"@{control}")
    return out


def _branch(
    config: ConstitutionRunConfig,
    shop: Workshop,
    place: str,
    folders: Mapping[str, Path],
    made: set[Path],
    below: Path,
) -> Builder:
    """A builder in a folder of its own, which measures harm and over-refusal alone."""
    asked = {
        "measured": ("final",),
        "helpful": None,
        "reference": None,
        "creative": None,
        "scenarios": None,
        "xstest_unsafe": 0,
    }
    changed = {
        "output_dir": str(Path(config.output_dir) / below),
        "evaluate": config.evaluate.model_copy(update=asked),
    }
    helpful = {"helpful": folders["helpful"]} if "helpful" in folders else {}
    return Builder(
        config.model_copy(update=changed), shop, place,
        adapters=dict(helpful),
        made=set(made),
        elsewhere={name: folders[name] for name in ("prompts", "helpful") if name in folders},
        results=folders["evaluate"] / RESULTS_FILE,
    )  # fmt: skip


def _trained_and_measured(builder: Builder, rows: Recipe, suffix: str) -> list[Recipe]:
    builder.made.add(rows.stage.folder / SFT_FILE)
    return [builder.build("sft", suffix), builder.build("evaluate", suffix)]


def _mix(revise: Recipe, folder: Path, share: float, shop: Workshop) -> Recipe:
    """The run's own revised rows with helpful ones in another share."""
    config, source = revise.config.model_copy(update={"helpful_share": share}), revise.stage.folder / SFT_FILE

    def work(_: bool) -> Mapping[str, Any]:
        rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
        own = [row for row in rows if row["provenance"]["from"] != "helpful"]
        helpful = helpful_rows(config, shop.say)
        kept = thinned(own, len(helpful), share, config.seed)
        rows, facts = mixed(config, kept, helpful, shop.say)
        facts["own_left_out"] = len(own) - len(kept)
        atomic_write_text(folder / SFT_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return facts

    reads = {"rows": source, "helpful rows": file_of(getattr(config, "helpful_rows", None))}
    stage = Stage(
        name=f"mix@{share:g}", folder=folder, settings={"share": share, "seed": getattr(config, "seed", 0)},
        reads={name: path for name, path in reads.items() if path is not None},
        leaves=(folder / SFT_FILE,), work=work,
    )  # fmt: skip
    return Recipe(kind="revise", stage=stage, config=config)


def thinned(own: Sequence[Any], num_helpful: int, share: float, seed: int) -> list[Any]:
    """Own rows, fewer of them where there are too few helpful ones for the share; which ones the seed says."""
    most = len(own) if share == 0 else round(num_helpful * (1 - share) / share)
    return [own[i] for i in sorted(permutation(len(own), seed, "constitution_thinned")[:most])]


def _after_copy(recipe: Recipe, requests: Path) -> Recipe:
    stage = recipe.stage

    def work(going_on: bool) -> Mapping[str, Any]:
        own = stage.folder / REQUESTS_FILE
        if requests.exists() and not own.exists():
            shutil.copyfile(requests, own)
        return stage.work(going_on)

    return replace(recipe, stage=replace(stage, work=work))
