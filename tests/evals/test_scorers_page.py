"""docs/scorers.md: its example runs and prints what the page shows, and what it names is there."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "scorers.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_page_shows() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (shown,) = re.findall(r"```output\n(.*?)```", PAGE, re.DOTALL)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "docs/scorers.md", "exec"), {})
    assert said.getvalue() == shown


def test_every_function_of_the_table_exists() -> None:
    named = re.findall(r"`(\w+)\.(\w+)(?:\(.*?\))?`", PAGE.split("```")[0])
    assert len(named) >= 12
    for module, function in named:
        assert callable(getattr(importlib.import_module(f"tunesmith.evals.{module}"), function)), (module, function)
