"""Write the table of keys in docs/ppo.md from the config classes, so that a key and its page cannot drift apart."""

from __future__ import annotations

import sys
from pathlib import Path

from tunesmith.models.load import ModelConfig
from tunesmith.recipes.ppo_config import PPOConfig, PromptConfig
from tunesmith.rollout.reward_open import SourceConfig
from tunesmith.training.guards import GuardConfig

sys.path.insert(0, str(Path(__file__).parent))
from write_recipe_docs import table

BEGIN, END = "<!-- keys -->\n", "<!-- end -->"
PAGE = Path(__file__).parents[1] / "docs" / "ppo.md"


def with_keys(text: str) -> str:
    """The page with its table of keys made anew."""
    groups = ("data", "rewards", "guards")
    lines = table(PPOConfig, "", (*ModelConfig.model_fields, *groups))
    for name, kind in (("data.", PromptConfig), ("rewards[].", SourceConfig), ("guards.", GuardConfig)):
        lines += table(kind, name)[2:]
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_keys(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
