"""Write the tables of goals and attacks in docs/redteam-attacks.md from the catalogues, so that none is missing there.

Usage: python scripts/write_redteam_docs.py [FOLDER OF THE PUBLIC SETS], else as the suites find it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from tunesmith.evals.suite import SuiteConfig, data_folder
from tunesmith.redteam.catalogue import ATTACKS, FILE_ATTACKS
from tunesmith.redteam.goal_sets import CANARIES, GOAL_SETS, load_goals

PAGE = Path(__file__).parents[1] / "docs" / "redteam-attacks.md"
END = "<!-- end -->"


def goal_table(data_dir: str) -> str:
    """A row a set, with how many goals and categories the folder's files give."""
    lines = [
        "| goals | kind | number | categories | rows from | licence | what is asked |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, known in GOAL_SETS.items():
        goals = load_goals([f"{name}:1:0" if name == CANARIES else name], data_dir=data_dir)
        number = "as told" if name == CANARIES else len(goals)
        categories = len({goal.category for goal in goals})
        cells = (name, known.kind or "all", number, categories, known.source, known.licence, known.about)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def attack_table() -> str:
    """A row an attack, those that read a file last."""
    lines = ["| attack | family | calls | what it does | idea |", "|---|---|---|---|---|"]
    for one in ATTACKS.values():
        calls = "/".join(map(str, (one.num_target_calls, one.num_attacker_calls, one.num_judge_calls)))
        lines.append(f"| {one.name} | {one.family} | {calls} | {one.about} | {one.source or 'ours'} |")
    lines += [
        f"| {file.usage} | {file.family} | 1/0/0 | {file.about} | {file.source or 'ours'} |"
        for file in FILE_ATTACKS.values()
    ]
    return "\n".join(lines) + "\n"


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    """The page with what stands between ``<!-- NAME -->`` and the next end made anew."""
    for name, table in tables.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        if not mark:
            raise SystemExit(f"error: {PAGE} has no place <!-- {name} -->.")
        text = before + mark + table + END + rest.partition(END)[2]
    return text


def main(folder: str | None) -> None:
    """Write the page."""
    found = data_folder(SuiteConfig(data_dir=folder))
    if found is None:
        raise SystemExit("error: no folder of the public sets was found. Name it.")
    tables = {"goals": goal_table(str(found)), "attacks": attack_table()}
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
