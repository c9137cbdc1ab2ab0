"""Every family against transformers + PEFT: loss, gradients, answers; and the page that says so."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from parity_models import FAMILIES, measure

PAGE = Path(__file__).parents[2] / "docs" / "design" / "parity.md"
FAST = ("llama", "mistral", "qwen2", "qwen3")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_computes_what_transformers_and_peft_do(family: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        # Of both libraries, about each other.
        warnings.simplefilter("ignore")
        found = measure(family, tmp_path)
    assert (found.path == "fast") == (family in FAST)
    assert found.loss < 1e-5
    assert found.gradients < 1e-4
    assert found.same_answers
    # In bf16 we may be as far from fp32 as transformers is, and a little more by chance.
    assert found.bf16_ours < max(0.01, 3 * found.bf16_theirs)
    assert found.control > 1e-3
    row = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {family} |"))
    assert ("| fast |" in row) == (found.path == "fast") and ("in one call" in row) == found.one_call
