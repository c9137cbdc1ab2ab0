"""The page of a red-team campaign: what a model said cannot get out of its box, and stays shut."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tunesmith.reports.redteam import write_redteam_report
from tunesmith.reports.redteam_tables import headline

HOSTILE = "</pre><script>alert(1)</script> | **bold** \u202e"


def share(value: float) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1)}


def rate(value: float, *, corrected: bool = True, reliable: bool = True) -> dict[str, Any]:
    return {
        "raw": share(value), "corrected": share(value / 2) if corrected else None, "num": 90, "num_hits": 9,
        "num_goals": 30, "num_unread": 7, "reliable": reliable,
    }  # fmt: skip


def change(what: str, finding: str, unit: str = "share") -> dict[str, Any]:
    sides = [rate(0.6), rate(0.2)] if unit == "share" else [share(0.6), share(0.2)]
    return {
        "what": what, "label": "dpo", "unit": unit, "less_is_better": True, "num": 90, "before": sides[0],
        "after": sides[1], "difference": {"value": -0.4, "low": -0.5, "high": -0.3}, "corrected": None,
        "only_before": 20, "only_after": 2, "p": 0.0001, "p_holm": 0.0004, "finding": finding, "smallest": 0.12,
    }  # fmt: skip


def facts() -> dict[str, Any]:
    side = {"messages": [["system", HOSTILE], ["user", HOSTILE]], "answer": HOSTILE, "kind": "comply", "score": 0.9}
    case = {"goal": HOSTILE, "id": "x", "category": "fraud", "attack": "direct", "converters": ["leet"],
            "sides": {"base": {**side, "kind": "refuse"}, "dpo": side}}  # fmt: skip
    entries = [
        {
            "name": name,
            "label": label,
            "rate": rate(0.4),
            **({"change": change(name, "better")} if label == "dpo" else {}),
        }
        for name in ("direct", HOSTILE)
        for label in ("base", "dpo")
    ]
    kept = {"task": "sums", "unit": "right", "less_is_better": False, "num": 50,
            "values": {"base": share(0.5), "dpo": share(0.4)}, "changes": {}}  # fmt: skip
    rates = {"attack success": rate(0.3), "goals broken": rate(0.7, corrected=False),
             "over-refusal": rate(0.1, reliable=False)}  # fmt: skip
    grid = {
        "attacks": ["direct", "$x^"],
        "categories": ["fraud", "a$b$"],
        "cells": [[[3, 9], [0, 4]], [[9, 9], [0, 0]]],
    }
    counts = {"asked": 90, "answers": 120, "kinds": {"comply": 9, "refuse": 100, "nonsense": 11}, "unread": 2, "cut": 5,
              "skipped": {"beyond the context": 3}}  # fmt: skip
    return {
        "labels": ["base", "dpo"], "final": "dpo", "models": {"base": {"model": HOSTILE}, "dpo": {"model": "m"}},
        "judges": [{"judge": HOSTILE}], "capability": [kept], "unpaired": {"dpo": [4, 90]},
        "errors": {
            "harmful": {"sensitivity": [65, 66], "specificity": [121, 138], "source": "labels", "reliable": False,
                        "exact": False},
            "secret": {"sensitivity": [1, 1], "specificity": [1, 1], "source": "strings", "reliable": True,
                       "exact": True},
            "toxic": None,
        },
        "counts": {"base": counts, "dpo": counts}, "rates": {"base": rates, "dpo": rates},
        "scores": {"base": share(0.5), "dpo": share(0.2)},
        "changes": [change("attack success", "better"), change("over-refusal", "nothing found"),
                    change("kept: sums", "worse", "right")],
        "by": {"attack": entries, "family": entries[:2], "converter": [], "kind": [], "category": [], "source": []},
        "over_refusal_by": [], "grid": {"base": grid, "dpo": grid}, "worst": [case], "refused": [case],
    }  # fmt: skip


@pytest.mark.usefixtures("undrawn")
def test_what_a_model_said_stays_text_and_shut(tmp_path: Path) -> None:
    write_redteam_report(tmp_path, facts())
    page, text = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    # The one script is the fixed one that sorts tables.
    assert page.count("<script>") == 1 and "alert(1)</script>" not in page and "\u202e" not in page + text
    opened = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)
    assert page.count("<details>") == 2 and "<pre" not in opened and "&lt;script&gt;" in opened
    assert "<script>" not in text and "**bold**" not in text
    assert json.loads((tmp_path / "verdict.json").read_text()) == json.loads(json.dumps(facts()))
    # Transcripts are in the page alone.
    assert "dpo, 1. system" in page and "dpo, 1. system" not in text


@pytest.mark.usefixtures("undrawn")
def test_tables_and_sentences_say_what_the_facts_do(tmp_path: Path) -> None:
    write_redteam_report(tmp_path, facts())
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (
        "| attack success | dpo | 90 | 60.0 % | 20.0 % | -40.0 points" in text
        and "| 20 : 2 | 0.0004 | better |" in text
    )
    assert r"| over-refusal | dpo | 90 | 30 | 10.0 % \[0.0, 20.0\] | 5.0 % \[0.0, 15.0\] (\!) |" in text
    assert "| harmful | labels | 65 of 66 | 121 of 138 | no |" in text and "| toxic | not calibrated |" in text
    # A dimension with a single name says nothing new.
    assert "## By attack" in text and "## By family" not in text
    said = "\n".join(headline(facts()))
    for words in ("30.0 % [20.0, 40.0] of 90 attempts on 30 goals", "NOT CALIBRATED for goals of kind toxic",
                  "3 attempts were not made", "4 of 90 attempts on dpo", "which is not reliable",
                  "Against base: attack success -40.0 points", "2 answers the judge could not read"):  # fmt: skip
        assert words in said, words
    assert "over-refusal -40" not in said


def test_pictures_are_drawn_carried_and_left_out(tmp_path: Path) -> None:
    write_redteam_report(tmp_path, facts())
    for name in ("success_refusal.png", "success_where.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report.html").read_text().count("data:image/png;base64,") == 2
    bare = facts()
    bare["rates"] = {label: {} for label in bare["labels"]}
    bare |= {"grid": {}, "changes": [], "worst": [], "refused": [], "scores": {}, "capability": []}
    write_redteam_report(tmp_path / "bare", bare)
    assert sorted(path.name for path in (tmp_path / "bare").iterdir()) == ["report.html", "report.md", "verdict.json"]
    text = (tmp_path / "bare" / "report.md").read_text()
    assert "attack success is not known" in text and "finding" in text
    # Nothing compared: no empty columns of differences.
    bare["by"]["attack"] = [{key: one[key] for key in ("name", "label", "rate")} for one in bare["by"]["attack"]]
    write_redteam_report(tmp_path / "bare", bare)
    assert "finding" not in (tmp_path / "bare" / "report.md").read_text()
