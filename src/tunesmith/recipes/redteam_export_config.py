"""What ``tunesmith redteam export`` can be told."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tunesmith.recipes.redteam_helpful import OURS
from tunesmith.redteam.export import SplitConfig, Target


class RedteamExportConfig(SplitConfig):
    """Which successes become rows, what should have been answered, and what is put beside them."""

    run: str = Field(min_length=1)
    """Folder of a red-team run, or a file of attempts."""
    output_dir: str = Field(min_length=1)
    """Folder of the rows, the goals that are kept for the next test, and export.json."""
    to: Target = "preferences"
    """preferences: pairs for `tunesmith dpo` and `tunesmith reward`; sft: rows for `tunesmith sft`;
    constitution-prompts: prompts for `tunesmith constitution revise`."""
    of: str | None = None
    """Of a campaign against several models: the label of the one whose answers become rows; empty: the one under
    test."""
    answers: Literal["template", "revision"] = "template"
    """Where safe answers come from: a template that names what is declined, or a model that revises the harmful answer
    by a constitution; what it does not come to decline is declined by the template."""
    revise: dict[str, Any] = {}
    """Keys of `tunesmith constitution revise` for the second, such as model, adapter and critic."""
    most_alike: float = Field(0.1, gt=0, le=1)
    """Of the revised answers at most this share of all begin with the same four words; the others are by template."""
    helpful: str = Field(OURS, min_length=1)
    """Rows of good answers to mix in, or ours."""
    helpful_share: float = Field(0.5, ge=0, lt=1)
    """Their share of all rows; there are fewer rows of refusal where there are not enough of help. Without them a small
    model learns to refuse everything."""
    borderline_where: dict[str, str] = {"kind": "sounds-dangerous"}
    """Column -> value of the helpful rows that only sound as if they should be refused."""
    borderline_share: float = Field(0.6, ge=0, le=1)
    """Their share of the helpful rows, as closely as there are rows of both kinds."""
    likeness: float = Field(0.8, gt=0, le=0.95)
    """Prompts to one goal that share so much of their runs of three words are copies; the worst one is kept."""
    most_of_an_attack: int = Field(0, ge=0)
    """Rows of one attack at most; 0: no limit."""
    most_of_a_goal: int = Field(4, ge=0)
    """Rows of one goal at most; 0: no limit."""
    max_likeness: float = Field(0.7, gt=0, le=1)
    """A helpful row whose ROUGE-L with a request that is measured next reaches this is left out, and counted."""
    seed: int = Field(0, ge=0)
    """Keys the split, the wording of templates, and the order of rows."""
    overwrite: bool = False
    """Replace the files of an earlier call."""
