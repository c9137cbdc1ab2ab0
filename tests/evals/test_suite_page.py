"""The page of suites says what the code does: its table, its scorers, and the YAML it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import SHARED, shared_data
from tests.evals.suite_models import replies_by, values_by
from tunesmith.evals.suite import SuiteConfig
from tunesmith.evals.suites.catalogue import SUITES, find_suite
from tunesmith.evals.suites.rows_scorers import SCORERS

PAGE = (Path(__file__).parents[2] / "docs" / "eval-suites.md").read_text(encoding="utf-8")


def table(first_column: str) -> list[list[str]]:
    lines = PAGE[PAGE.index(f"| {first_column} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_pages_table_is_the_catalogue() -> None:
    shared_data("gsm8k/test.jsonl")
    rows = []
    for name, suite in SUITES.items():
        config = SuiteConfig(data_dir=str(SHARED))
        test = suite.build(config)
        validation = suite.build(config.model_copy(update={"split": "validation"}))
        chance = f"{test.chance[suite.headline]:.3f}" if suite.headline in test.chance else ""
        sizes = f"{len(test.items)} / {len(validation.items)}"
        row = [name, suite.version, suite.answers, suite.shots, suite.headline, chance, sizes, suite.licence]
        rows.append([str(cell) for cell in row])
    assert table("suite") == rows


def test_the_page_names_every_scorer() -> None:
    assert [row[0] for row in table("scorer")] == list(SCORERS)


def test_the_pages_yaml_is_a_suite(tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    (tmp_path / "my.yaml").write_text(found[1], encoding="utf-8")
    teams = ["billing", "delivery", "returns"]
    for file in ("tickets", "train", "valid"):
        rows = [{"body": f"{file} {i}", "team": teams[i % 3], "customer": f"c{i % 2}"} for i in range(6)]
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = find_suite(str(tmp_path / "my.yaml"))
    task = suite.build(SuiteConfig())
    assert values_by(lambda item: [-9.0 + 8 * (choice == item.target) for choice in item.choices], task)["acc"] == 1.0
    (reply, *_) = replies_by(lambda item: [-1.0] * 3, task)
    assert len(reply.request.messages) == 5 and "billing, delivery, returns" in reply.request.messages[-1].content
    assert task.chance["acc"] == pytest.approx(1 / 3) and {item.group for item in task.items} == {"c0", "c1"}
