"""Write the table of keys in docs/classify.md from the config classes, so that key and page cannot drift apart."""

from __future__ import annotations

import sys
from pathlib import Path

from tunesmith.data.labelled import LabelledDataConfig
from tunesmith.recipes.classify_prepare import ClassifyConfig
from tunesmith.recipes.prepare import SFTConfig

sys.path.insert(0, str(Path(__file__).parent))
from write_recipe_docs import table

BEGIN, END = "<!-- keys -->\n", "<!-- end -->"
PAGE = Path(__file__).parents[1] / "docs" / "classify.md"
# Keys that mean something else here than in SFT.
OWN = ("output_dir", "max_length", "over_length")


def with_keys(text: str) -> str:
    """The page with its table of keys made anew."""
    shared = tuple(name for name in SFTConfig.model_fields if name not in OWN)
    lines = [*table(ClassifyConfig, "", shared), *table(LabelledDataConfig, "data.")[2:]]
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_keys(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
