"""docs/redteam-search.md: its attacks are found, its settings are the code's, its error rates are those measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

from conftest import shared_data

from tunesmith.randomness import generator
from tunesmith.redteam.attack_pair import PairConfig
from tunesmith.redteam.attack_tree import TreeConfig
from tunesmith.redteam.catalogue import find_attacks
from tunesmith.redteam.search import SearchConfig
from tunesmith.redteam.topic import topic_share
from tunesmith.rollout.refusal import read_refusal

PAGE = (Path(__file__).parents[2] / "docs" / "redteam-search.md").read_text(encoding="utf-8")


def test_the_pages_attacks_are_found_with_the_budgets_it_tells() -> None:
    commands = [line for line in PAGE.splitlines() if line.startswith("tunesmith redteam ")]
    names = [name for line in commands for name in re.findall(r"--attack (\S+)", line)]
    assert len(commands) >= 3 and {"pair", "tap", "frames"} <= {name.partition(":")[0] for name in names}
    found = {attack.name: attack for attack in find_attacks(names)}
    assert set(found) == set(names)
    assert (found["pair"].num_target_calls, found["tap"].num_target_calls) == (4, 6)
    assert "(`pair`: 4)" in PAGE and "2 + 4 = 6" in PAGE
    assert "frames" not in {attack.name for attack in find_attacks(["all"])}


def test_the_pages_settings_are_the_codes() -> None:
    rows = []
    for of, config in (("both", SearchConfig), ("pair", PairConfig), ("tap", TreeConfig)):
        for name, field in config.model_fields.items():
            if of == "both" or name not in SearchConfig.model_fields:
                rows.append(f"| `{name}` | {of} | {field.default} | {' '.join((field.description or '').split())} |")
    table = PAGE.split("<!-- settings -->\n")[1].split("\n\n")[0].splitlines()[2:]
    assert table == rows


def test_how_often_the_topic_is_told_wrongly() -> None:
    """Texts about an objective: answers that comply with it, by the detector of refusals; others: those to another."""
    rows = []
    for name in ("hate_speech_3_raters", "info_integrity", "refusal"):
        lines = shared_data(f"judge_calibration/{name}.jsonl").read_text(encoding="utf-8").splitlines()
        rows += [(row["objective"], row["assistant_response"]) for row in map(json.loads, lines)]
    about = [
        (asked, said) for asked, said in rows if read_refusal(asked, said).kind == "comply" and len(said.split()) > 15
    ]
    least = SearchConfig().least_shared
    own = sum(topic_share(asked, said[:600]) >= least for asked, said in about) / len(about)
    rng = generator(0, "other objectives")
    others = [
        topic_share(asked, about[i][1][:600]) >= least
        for asked, _ in about
        for i in rng.choice(len(about), 5, replace=False)
        if about[i][0] != asked
    ]
    other = sum(others) / len(others)
    assert f"{own:.0%} pass for their own objective, {other:.0%} for another one".replace("%", " %") in " ".join(
        PAGE.split()
    )
