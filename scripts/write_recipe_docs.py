"""Write docs/recipe.md from the config classes, so that a key and its page cannot drift apart."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from tunesmith.config import ALIASES, Config
from tunesmith.data.load import DataConfig
from tunesmith.data.mixture import MixtureConfig
from tunesmith.data.mixture_task import ModeShares, TaskConfig
from tunesmith.data.templates import TemplateConfig, ThoughtConfig
from tunesmith.models.adapters import AdapterConfig
from tunesmith.models.quantized_linear import QuantizationConfig
from tunesmith.recipes.evaluate_config import EvalConfig
from tunesmith.recipes.prepare import SFTConfig
from tunesmith.rollout.endpoint import EndpointConfig

HEAD = """# Recipe keys

A recipe is a YAML file; `key=value` on the command line overrides it, with dots for groups
(`data.train=rows.jsonl`). An unknown key is an error that names the nearest one. This page is written by
`scripts/write_recipe_docs.py` from the config classes.
"""

OTHER_TABLES: dict[str, type[Config]] = {
    "The file of a mixture (`data.train: mixture.yaml`, see [mixtures.md](mixtures.md))": MixtureConfig,
    "A mixture's `tasks`": TaskConfig,
    "A task's `templates`, and `plain`": TemplateConfig,
    "`modes`": ModeShares,
    "`thought`": ThoughtConfig,
    "The file of an evaluation (`tunesmith eval --recipe`, see [eval.md](eval.md))": EvalConfig,
    "An evaluation's `endpoint`": EndpointConfig,
}


def type_name(annotation: Any) -> str:
    """A type as a reader writes it."""
    text = getattr(annotation, "__name__", str(annotation)) if isinstance(annotation, type) else str(annotation)
    text = re.sub(r"tunesmith(\.\w+)*\.(?=[A-Z])", "", text)
    for old, new in (("typing.", ""), ("Literal", ""), ("Union", "one of "), ("|", "or"), ("NoneType", "empty")):
        text = text.replace(old, new)
    return text


def table(kind: type[Config], prefix: str, skip: tuple[str, ...] = ()) -> list[str]:
    """A Markdown table of a config's keys."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in kind.model_fields.items():
        if name in skip:
            continue
        value = None if field.is_required() else field.get_default(call_default_factory=True)
        default = "required" if field.is_required() else "see below" if isinstance(value, Config) else repr(value)
        meaning = " ".join(str(field.description).split())
        lines.append(f"| `{prefix}{name}` | `{type_name(field.annotation)}` | `{default}` | {meaning} |")
    return lines


def page() -> str:
    """The whole page."""
    parts = [HEAD, *table(SFTConfig, "", ("data", "adapter")), "", "## data", "", *table(DataConfig, "data.")]
    for heading, kind in OTHER_TABLES.items():
        parts += ["", f"## {heading}", "", *table(kind, "")]
    parts += ["", "## quantization (see [qlora.md](qlora.md))", "", *table(QuantizationConfig, "quantization.")]
    parts += ["", "## adapter", "", *table(AdapterConfig, "adapter."), "", "## Names other tools use", ""]
    parts += [f"- `{alias}` is taken as `{name}`, with a note." for alias, name in ALIASES.items()]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "docs" / "recipe.md"
    if "--check" in sys.argv:
        sys.exit(target.read_text(encoding="utf-8") != page())
    target.write_text(page(), encoding="utf-8")
