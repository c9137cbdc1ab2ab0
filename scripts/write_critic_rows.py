"""Write rows that train a critic from a constitution's demonstrations.

python scripts/write_critic_rows.py ours OUT.jsonl. A demonstration gives its critique; one with a fault gives its
revision too, as an answer without. ``--principles`` keeps those of some rules.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tunesmith.constitution.audit import turns_of
from tunesmith.constitution.principles import Constitution, load_constitution
from tunesmith.constitution.wording import NOTHING, Turns, critic_row
from tunesmith.records import Message


def rows_of(constitution: Constitution, principles: set[str]) -> list[Turns]:
    """A conversation a row, the verdict being the first word of its last turn; no principles: all of them."""
    out = list[Turns]()
    for rule in constitution.principles:
        for one in rule.examples if not principles or rule.id in principles else ():
            prompt = (Message(role="user", content=one.prompt),)
            out.append(critic_row("turns", "opening", prompt, one.answer, rule, one.critique, found=one.fault))
            if one.fault:
                out.append(critic_row("turns", "opening", prompt, one.revision, rule, NOTHING, found=False))
    return out


def main() -> None:
    """Read and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("constitution")
    parser.add_argument("out", type=Path)
    parser.add_argument("--principles", nargs="*", default=[])
    told = parser.parse_args()
    rows = rows_of(load_constitution(told.constitution), set(told.principles))
    lines = [json.dumps({"messages": turns_of(row)}, ensure_ascii=False) + "\n" for row in rows]
    told.out.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
