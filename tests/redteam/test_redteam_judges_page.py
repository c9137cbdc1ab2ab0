"""docs/redteam-judges.md: its example runs and says what the page shows; its table is that of the filed errors."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
from pathlib import Path
from typing import Any

from tunesmith.redteam.judge_errors import error_from

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "redteam-judges.md").read_text(encoding="utf-8")
FILED = json.loads((ROOT / "src/tunesmith/redteam/judge_errors.json").read_text(encoding="utf-8"))


def script() -> Any:
    spec = importlib.util.spec_from_file_location("write", ROOT / "scripts" / "write_redteam_judges.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_says_what_is_shown() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (shown,) = re.findall(r"```output\n(.*?)```", PAGE, re.DOTALL)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "docs/redteam-judges.md", "exec"), {})
    assert out.getvalue() == shown


def test_the_table_is_that_of_the_filed_errors(tmp_path: Path) -> None:
    assert script().with_table(PAGE, FILED) == PAGE
    for digest, kept in FILED.items():
        (tmp_path / f"{digest}.json").write_text(json.dumps(kept), encoding="utf-8")
        for told in kept["measured"].values():
            assert error_from(told).as_dict() == told, "figures for the reader are those of the counts"
    # An agreement of `judge calibrate` lies in the same folder and is no error of a red-team judge.
    (tmp_path / "other.json").write_text('{"measured": {"a": {"main": "kappa", "num": 1}}}', encoding="utf-8")
    assert script().gathered(tmp_path) == FILED
