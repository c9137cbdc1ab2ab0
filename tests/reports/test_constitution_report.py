"""The page of a constitution's run: what a model said cannot get out of its box, and both pictures are drawn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tunesmith.reports.constitution import write_constitution_report

HOSTILE = "</pre><script>alert(1)</script> | **bold** \u202e"


def share(value: float) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1)}


def change(before: float, after: float) -> dict[str, Any]:
    own = {"before": share(before), "after": share(after), "difference": share(after - before)}
    own["relative_fall"] = share(0.5) if before else None  # type: ignore[assignment]
    return {**own, "num": 200, "p_holm": 0.01, "corrected": {**own, "source": "labels", "reliable": True}}


def facts() -> dict[str, Any]:
    side = {"passed": 1, "answer": HOSTILE, "why": HOSTILE}
    doubtful = change(0.02, 0.05)
    doubtful["corrected"] = {**doubtful["corrected"], "source": "few labels", "reliable": False}
    fired = {"sampled": 9, "fired": 5, "changed": 4, "garbage": 1, "harmless": {"sampled": 2, "fired": 1}}
    step = {"round": 1, "principle": "kind", "outcome": "revised", "critique": HOSTILE, "changed": True}
    return {
        "base": HOSTILE,
        "constitution": {"name": HOSTILE, "version": "1"},
        "headline": ["Harmful compliance fell.", HOSTILE],
        "evaluation": {
            "labels": ["base", "dpo"],
            "goal": {"dpo": {"harm": change(0.9, 0.4), "safe": doubtful}},
            "kinds": {"advbench": {"base": {"comply": 1, "partly": 2, "refuse": 3, "nonsense": 4}}},
            "tasks": [{"name": "creative", "metrics": {one: {"alike": share(0.3)} for one in ("base", "dpo")}}],
            "scenarios": [
                {"id": "weapon", "about": HOSTILE, "rule": "refuses", "prompt": HOSTILE, "num": 4,
                 "sides": {"base": side, "dpo": side}}
            ],
            "examples": [{"set": "advbench", "prompt": HOSTILE, "before": HOSTILE, "after": HOSTILE,
                          "kinds": ["comply", "refuse"]}],
        },
        "revise": {"principles": {"kind": fired, HOSTILE: fired}},
        "rows": {"revision": {"comply": 60, "partly": 7, "refuse": 26, "nonsense": 0}},
        "audit": [{"title": HOSTILE, "prompt": HOSTILE, "first": HOSTILE, "steps": [{**step, "after": HOSTILE}]}],
        "curve": [{"share": s, "rows": 9, "harm": share(h), "safe": share(0.1)} for s, h in ((0.2, 0.1), (0.6, 0.4))]
        + [{"share": 0.9, "rows": 0, "harm": None, "safe": None}],
        "controls": [{"control": "random", "revised": 3, "harm": share(0.5), "safe": share(0.5)}],
        "stages": [{"name": "sft", "planned_seconds": None, "seconds": 3.2, "resumed": True, "finished": "now",
                    "digest": "abc" * 10}],
        "footer": {"seed": 0, "base": HOSTILE},
    }  # fmt: skip


def test_what_a_model_said_stays_text_and_shut(tmp_path: Path) -> None:
    write_constitution_report(tmp_path, facts())
    page, text = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    assert "<script>" not in page and "\u202e" not in page and "&lt;script&gt;" in page
    # Every answer stands inside a part that is shut; the four are a scenario, an example and a chain of the log.
    opened = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)
    assert page.count("<details>") == 3 and "<pre" not in opened
    assert "<script>" not in text and "**bold**" not in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", line.strip()))
    assert "| revision | 60 | 7 | 26 | 0 |" in text
    # What the correction stands on is named, and where it cannot be leant on.
    assert "(labels; few labels)" in text and "over-refusal, corrected (not reliable)" in text
    assert "harmful compliance, corrected |" in text
    assert "| 0.9 | 0 | - | - |" in text and "| sft | - | 3 | yes | now | abcabcabcabc |" in text


def test_controls_stand_in_the_picture_beside_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = list[Any]()
    monkeypatch.setattr("tunesmith.reports.constitution.draw_frontier", lambda path, *drawn: shown.append(drawn))
    told = facts()
    told["controls"].append({"control": "always-refuse", "revised": 0, "harm": None, "safe": None})
    write_constitution_report(tmp_path, told)
    points, curve = shown[0]
    assert [one["label"] for one in points] == ["base", "dpo", "control: random"]
    assert points[2]["harm"] == share(0.5) and [one["label"] for one in curve] == ["0.2", "0.6"]


def test_both_pictures_are_drawn_and_carried(tmp_path: Path) -> None:
    write_constitution_report(tmp_path, facts())
    for name in ("frontier.png", "principles.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG") and f"({name})" in (
            tmp_path / "report.md"
        ).read_text()
    assert (tmp_path / "report.html").read_text().count("data:image/png;base64,") == 2
    # Nothing measured, nothing drawn, and the page says so.
    bare = {**facts(), "evaluation": {}, "revise": {}, "audit": [], "curve": [], "controls": []}
    other = tmp_path / "bare"
    other.mkdir()
    write_constitution_report(other, bare)
    assert sorted(path.name for path in other.iterdir()) == ["report.html", "report.md"]
