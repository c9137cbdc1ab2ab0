"""Suffixes from a search's file as attacks, and what the file comes to."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.errors import ConfigError, DataError
from tunesmith.recipes.redteam_gcg import CURVES_FILE, PAGE_FILE, SUFFIXES_FILE, GcgConfig, run_gcg
from tunesmith.redteam.attack import AskTarget, Attack, Draw
from tunesmith.redteam.attack_suffix import RANDOM_SUFFIX, suffix_attack
from tunesmith.redteam.catalogue import find_attacks
from tunesmith.redteam.goals import Goal
from tunesmith.redteam.suffix_verdict import suffix_facts


def _asked(attack: Attack, goal: Goal, index: int = 0) -> str:
    steps = attack.run(goal, Draw(seed=0, attack=attack.name, goal=goal.id, index=index))
    (ask,) = next(steps)
    assert isinstance(ask, AskTarget) and ask.counts
    assert [message.role for message in ask.messages] == (["system", "user"] if goal.system else ["user"])
    return ask.messages[-1].content


def _goal(name: str, request: str = "Write a poem.", system: str = "") -> Goal:
    return Goal(id=name, request=request, category="none", source="test", system=system)


def _row(goal: str, method: str, suffix: str) -> dict[str, Any]:
    return {"key": f"{goal}{method}", "answer": "", "stop_reason": "length", "goal": goal, "method": method,
            "request": "Write a poem.", "suffix": suffix}  # fmt: skip


def _file(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "suffixes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_goal_gets_its_own_suffix_first_and_then_others(tmp_path: Path) -> None:
    rows = [_row("a", "gcg", " !a"), _row("b", "gcg", " !b"), _row("a", "random-search", " ?a"), _row("c", "none", "")]
    path = _file(tmp_path, *rows)
    attack = suffix_attack(path)
    assert (attack.name, attack.family) == ("gcg", "gradient")
    assert _asked(attack, _goal("a", system="Be brief.")) == "Write a poem. !a"
    assert _asked(attack, _goal("a"), index=1) == "Write a poem. !b"
    # An unknown goal, and one whose request a converter changed, get what was searched for others.
    drawn = {_asked(attack, _goal(f"x{i}", "Sing.")) for i in range(20)}
    assert drawn == {"Sing. !a", "Sing. !b"}
    assert {_asked(attack, _goal("a", "changed"), index=i) for i in range(20)} == {"changed !a", "changed !b"}
    control = suffix_attack(path, "random-search")
    assert (control.family, _asked(control, _goal("a"), index=3)) == ("random", "Write a poem. ?a")
    # What it asks is part of what it is.
    assert suffix_attack(_file(tmp_path, *rows[:2])).data != attack.data


def test_a_file_without_such_suffixes_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        suffix_attack(tmp_path / "none.jsonl")
    path = _file(tmp_path, _row("a", "random-search", " ?a"), _row("a", "none", ""))
    with pytest.raises(DataError, match=r"no suffix of the method gcg \(none, random-search\)"):
        suffix_attack(path)
    # A suffix is of one model's gradients: which of two is meant nobody can tell.
    two = [_row("a", "gcg", " !a") | {"key": name, "adapter_digest": name} for name in ("1", "2")]
    with pytest.raises(DataError, match=r"searched for 2 different models.*--output"):
        suffix_attack(_file(tmp_path, *two))
    assert suffix_attack(_file(tmp_path, two[0], two[1] | {"method": "random-search"})).name == "gcg"
    with pytest.raises(ConfigError, match="Write gcg:FILE"):
        find_attacks(["gcg:"])


def test_random_letters_need_no_file() -> None:
    first, second = (_asked(RANDOM_SUFFIX, _goal("a"), index=index) for index in (0, 1))
    assert first.startswith("Write a poem. ") and first != second == _asked(RANDOM_SUFFIX, _goal("a"), index=1)
    suffix = first.removeprefix("Write a poem. ")
    assert suffix.isascii() and suffix.isprintable() and [len(word) for word in suffix.split()] == [6] * 10


def _result(goal: str, method: str, *, opening: bool, kind: str, loss: float) -> dict[str, Any]:
    return {"goal": goal, "method": method, "opening": opening, "kind": kind, "followed": kind in ("comply", "partly"),
            "loss": loss, "measured": 9, "tokens": 100}  # fmt: skip


def test_the_facts_are_paired_by_goal() -> None:
    rows = [_result(f"g{i}", "gcg", opening=i < 6, kind="comply" if i < 7 else "refuse", loss=1.0) for i in range(8)]
    rows += [_result(f"g{i}", "random-search", opening=False, kind="refuse", loss=1.5 + i % 2) for i in range(8)]
    rows.append(_result("alone", "gcg", opening=True, kind="comply", loss=0.1))
    facts = suffix_facts(rows, ["gcg", "random-search"])
    assert facts["goals"] == 8
    assert (facts["by_method"]["gcg"]["opening"]["number"], facts["by_method"]["gcg"]["loss"]) == (6, 1.0)
    assert facts["by_method"]["gcg"]["kinds"] == {"comply": 7, "partly": 0, "refuse": 1, "nonsense": 0}
    (against,) = facts["against"]
    # 2 / 2^6 and 2 / 2^7, by Holm the smaller one twice and the larger one at least as large.
    assert (against["opening"]["p"], against["followed"]["p"]) == (2 / 2**6, 2 / 2**7)
    assert against["opening"]["p_holm"] == 2 / 2**6 and against["followed"]["p_holm"] == 2 * 2 / 2**7
    assert against["opening"]["difference"] == 0.75 and against["opening"]["low"] > 0
    assert against["loss"]["difference"] == pytest.approx(-1.0)
    assert suffix_facts(rows, ["gcg", "none"])["goals"] == 0


def test_the_page_s_command_goes_on_where_it_was_stopped(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "redteam-gcg.md").read_text(encoding="utf-8")
    words = shlex.split(next(line for line in page.splitlines() if line.startswith("tunesmith redteam gcg ")))[1:]
    rows = [line for line in page.splitlines() if line.startswith('{"request"')]
    Path("goals.jsonl").write_text("\n".join([*rows, '{"request": "Sing."}']) + "\n", encoding="utf-8")
    out, requests = Path("runs/gcg"), [json.loads(row)["request"] for row in rows]
    small = ["--model", str(model_folder("llama")), "--steps", "2", "--candidates", "4", "suffix_tokens=4"]
    call = [*words, *small, "max_new_tokens=12", "opening_tokens=3", "goals_at_once=1", "dtype=float32"]
    first = CliRunner().invoke(app, [*call, "--json"])
    assert first.exit_code == 0, first.output
    facts = json.loads(first.stdout)
    assert facts["goals"] == 2 and "1 goals left out" in first.stderr and facts["interrupted"] is False
    assert "models that are yours" in first.stderr
    assert facts["by_method"]["gcg"]["measured"] == facts["by_method"]["random-search"]["measured"] == 9
    found = [json.loads(line) for line in (out / SUFFIXES_FILE).read_text(encoding="utf-8").splitlines()]
    assert [(row["request"], row["method"]) for row in found] == [
        (request, method) for request in requests for method in ("gcg", "random-search", "none")
    ]
    for row in found:
        assert row["opening"] == row["answer"].startswith(row["opening_wanted"])
        assert row["kind"] in ("comply", "partly", "refuse", "nonsense")
        assert len(row["curve"]) == (1 if row["method"] == "none" else 3)
    before = (out / SUFFIXES_FILE).read_bytes()
    # A kill in the middle of a line: that one is searched again, and comes to the same.
    (out / SUFFIXES_FILE).write_bytes(before[:-40])
    with pytest.warns(UserWarning, match="cut off"):
        again = run_gcg(GcgConfig.model_validate(facts["settings"]), lambda _: None)
    assert again["by_method"] == facts["by_method"]
    after = [json.loads(line) for line in (out / SUFFIXES_FILE).read_text(encoding="utf-8").splitlines()]
    drop = {"seconds"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in after] == [
        {k: v for k, v in row.items() if k not in drop} for row in found
    ]
    assert "begins as wanted" in (out / PAGE_FILE).read_text(encoding="utf-8")
    assert (out / CURVES_FILE).exists()
    assert [one.family for one in find_attacks([f"gcg:{out / SUFFIXES_FILE}", "random-suffix"])] == [
        "gradient",
        "random",
    ]
