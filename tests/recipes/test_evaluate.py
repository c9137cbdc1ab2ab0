"""The whole verb on a tiny model: estimate, answers, comparison, pages; stop, go on, refuse."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.errors import ConfigError, DataError, RunError
from tunesmith.evals.run import _Asking
from tunesmith.models.adapters import AdapterConfig, add_adapter, save_role
from tunesmith.models.load import build_base
from tunesmith.models.resolve import resolve_model
from tunesmith.recipes.evaluate import describe, run_eval
from tunesmith.recipes.evaluate_config import EvalConfig
from tunesmith.recipes.evaluate_facts import pick_examples

ATTACK = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def made(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model, an adapter that changes it, and rows with choices, two of a group, one with markup in it."""
    folder = tmp_path_factory.mktemp("made")
    model = model_folder("llama")
    base = build_base(resolve_model(str(model)), torch.device("cpu"), torch.float32)
    role = add_adapter(base, "made", AdapterConfig(r=4), seed=1)
    for parameter in role.parameters.values():
        parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    save_role(base, role, folder / "tuned")
    rows = [
        {
            "prompt": f"{ATTACK} {i}?" if i == 0 else f"Is {i} odd?",
            "choices": ["no", "yes"],
            "answer": ("no", "yes")[i % 2],
        }
        for i in range(8)
    ]
    (folder / "odd.yaml").write_text(
        "type: rows\nrows: odd.jsonl\nname: odd\nchoices: choices\nprompt: '{{ prompt }}'\ntarget: '{{ answer }}'\n",
        encoding="utf-8",
    )
    (folder / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"model": str(model), "tuned": str(folder / "tuned"), "odd": str(folder / "odd.yaml")}


def config(made: dict[str, str], output: Path, **more: Any) -> EvalConfig:
    settings: dict[str, Any] = {
        "model_name_or_path": made["model"], "dtype": "float32", "suites": ["jargon", made["odd"]], "limit": 4,
        "max_new_tokens": 6, "output_dir": str(output),
    }  # fmt: skip
    return EvalConfig(**{**settings, **more})


@pytest.fixture(scope="module")
def first(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """One evaluation of the adapter against the base, whose folder later tests look at and compare with."""
    said: list[str] = []
    output = tmp_path_factory.mktemp("eval") / "first"
    facts = run_eval(config(made, output, adapter=made["tuned"], compare=["base"]), said.append)
    return output, facts, said


def test_every_figure_has_its_interval_and_every_comparison_its_test(first: Any) -> None:
    output, facts, said = first
    assert [subject["label"] for subject in facts["subjects"]] == ["tuned", "base"] and facts["tests"] == 2
    for suite, chance in zip(facts["suites"], (None, 0.5), strict=True):
        assert suite["items"] == 4 and set(suite["results"]) == {"tuned", "base"}
        assert suite["chance"].get(suite["headline"]) == chance
        for result in suite["results"].values():
            for limits in result["metrics"].values():
                assert limits["low"] <= limits["value"] <= limits["high"]
        [comparison] = suite["comparisons"]
        assert (comparison["first"], comparison["second"]) == ("base", "tuned")
        assert comparison["p"] <= comparison["p_holm"] <= 1 and set(comparison["differences"]) == set(
            suite["results"]["base"]["metrics"]
        )
    # 4 written answers and 4 choices, for two models, before anything was asked.
    assert facts["estimate"]["requests"] == 16 and facts["estimate"]["generated_tokens_at_most"] == 2 * 4 * 6
    assert "16 requests" in said[1] and "at most 48 to generate" in said[1] and said[2].startswith("the rest takes")
    assert json.loads((output / "eval.json").read_text()) == json.loads(json.dumps(facts))
    lines = describe(facts, output)
    assert len(lines) == 3 and all("p " in line and "items" in line for line in lines[:2])


def test_the_page_shows_all_of_it_and_runs_nothing_a_row_says(first: Any) -> None:
    output, facts, _ = first
    page, text = ((output / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    assert ATTACK not in page and page.count("<script>") == 1 and "data-rank" in page
    assert ATTACK not in text
    rows = [json.loads(line) for line in (output / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 8 and all(set(row["answers"]) == {"tuned", "base"} for row in rows)
    if any(row["asked"][-1]["content"].startswith(ATTACK) for row in rows):
        assert "&lt;script&gt;alert(1)&lt;/script&gt; 0?" in page
    for suite in facts["suites"]:
        limits = suite["results"]["tuned"]["metrics"][suite["headline"]]
        shown = f"{limits['value']:.3f} [{limits['low']:.3f}, {limits['high']:.3f}]"
        assert shown in page and shown.replace("[", r"\[").replace("]", r"\]") in text
    assert "<img alt" in page and (output / "eval.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_call_again_asks_nothing_and_says_the_same(made: dict[str, str], first: Any) -> None:
    output, facts, _ = first
    before, said = (output / "results.jsonl").read_bytes(), list[str]()
    again = run_eval(config(made, output, adapter=made["tuned"], compare=["base"]), said.append)
    assert (output / "results.jsonl").read_bytes() == before
    assert any("nothing is asked" in line for line in said) and again["estimate"]["requests"] == 0
    for then, now in zip(facts["suites"], again["suites"], strict=True):
        assert now["comparisons"] == then["comparisons"]
        assert [r["metrics"] for r in now["results"].values()] == [r["metrics"] for r in then["results"].values()]
    with pytest.raises(RunError, match="with another adapter, compare"):
        run_eval(config(made, output), said.append)


def test_an_earlier_folder_is_the_other_side_or_is_refused(made: dict[str, str], first: Any, tmp_path: Path) -> None:
    output, facts, _ = first
    made_now = run_eval(config(made, tmp_path / "now", compare=[str(output)]), lambda line: None)
    assert [s["label"] for s in made_now["subjects"]] == ["base", "first"]
    for then, now in zip(facts["suites"], made_now["suites"], strict=True):
        # The same two sides, seen from the other.
        assert now["results"]["first"]["metrics"] == then["results"]["tuned"]["metrics"]
        assert now["comparisons"][0]["p"] == then["comparisons"][0]["p"]
        for metric, limits in now["comparisons"][0]["differences"].items():
            assert limits["value"] == pytest.approx(-then["comparisons"][0]["differences"][metric]["value"])
    for changed, says in (
        ({"limit": 5}, "1 of 5 items were not asked there"),
        ({"seed": 1}, "sampling"),
        ({"suites": ["jargon"], "shots": 1}, "shots 0 there, 1 here"),
        ({"chat_template": False}, "chat_template true there, false here"),
        ({"suites": ["jargon", "support_desk"]}, "was not measured there"),
    ):
        with pytest.raises(DataError, match=says):
            run_eval(config(made, tmp_path / "other", compare=[str(output)], **changed), lambda line: None)
    # Refused before a single answer was paid for.
    assert (tmp_path / "other" / "results.jsonl").read_bytes() == b""


def test_a_stop_keeps_what_was_answered_and_the_same_call_goes_on(
    made: dict[str, str], first: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, asked = _Asking._keep, [0]

    def stop_at_the_third(self: Any, *args: Any) -> None:
        asked[0] += 1
        keep(self, *args)
        if asked[0] == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(_Asking, "_keep", stop_at_the_third)
    call = [
        "eval", "jargon", made["odd"], "--model", made["model"], "--adapter", made["tuned"], "--compare", "base",
        "--limit", "4", "--max-new-tokens", "6", "--output", str(tmp_path / "e"), "dtype=float32",
    ]  # fmt: skip
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 130, done.output
    assert "3 replies are kept" in done.stderr and "go on with:  tunesmith" in done.stderr
    assert not (tmp_path / "e" / "eval.json").exists()
    done = CliRunner().invoke(app, [*call, "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["estimate"]["requests"] == 13 and asked[0] == 16
    for then, now in zip(first[1]["suites"], facts["suites"], strict=True):
        assert now["comparisons"] == then["comparisons"]


def test_shots_are_chosen_on_validation_and_test_is_asked_once(made: dict[str, str], tmp_path: Path) -> None:
    said: list[str] = []
    more = {"suites": ["jargon"], "select_shots": [0, 1], "limit": 2, "compare": [made["tuned"]]}
    facts = run_eval(config(made, tmp_path / "e", **more), said.append)
    [suite] = facts["suites"]
    assert suite["shots_chosen"]["on"] == "validation" and set(suite["shots_chosen"]["tried"]) == {"0", "1"}
    # A tiny model answers nothing right, and of equals the fewest shots are taken.
    assert suite["shots"] == 0 and "chosen on 2 validation items" in " ".join(said)
    asked = [json.loads(line)["item"] for line in (tmp_path / "e" / "results.jsonl").read_text().splitlines()]
    assert sum(item.startswith("valid") for item in asked) == 2 * 2 * 2
    # Two items, two models, the chosen number of shots: no test item is asked to choose, or to estimate.
    assert sum(item.startswith("test") for item in asked) == 2 * 2 and suite["items"] == 2
    assert "was chosen on 2 validation items" in (tmp_path / "e" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"samples": 3}, "temperature 0"),
        ({"shots": 1, "select_shots": [0]}, "keep one of the two"),
        ({"suites": ["jargon", "jargon"]}, "named twice"),
        ({"endpoint": {"url": "http://127.0.0.1:1/v1", "model": "m"}, "adapter": "x"}, "takes no adapter"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    made: dict[str, str], tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        config(made, tmp_path, **changed)


def test_what_cannot_be_measured_is_refused_with_its_reason(made: dict[str, str], first: Any, tmp_path: Path) -> None:
    endpoint = {"url": "http://127.0.0.1:1/v1", "model": "m"}
    for changed, says in (
        ({"endpoint": endpoint}, "suites odd: ask how likely given words are, which 'm' does not tell"),
        ({"suites": ["jargn"]}, "jargon"),
        ({"suites": [made["odd"], made["odd"].replace("/odd.yaml", "//odd.yaml")]}, "are all called 'odd'"),
        ({"compare": ["no/such"]}, "there is no such folder"),
        ({"compare": ["base"]}, "the same weights"),
        ({"suites": ["jargon"], "select_shots": [0, 10_000]}, "examples that may be shown"),
    ):
        with pytest.raises(ConfigError) as caught:
            run_eval(config(made, tmp_path / "e", **changed), lambda line: None)
        assert says in str(caught.value)
    with pytest.raises(ConfigError, match="output folder of this evaluation"):
        more = {"compare": [str(first[0])], "overwrite_output_dir": True}
        run_eval(config(made, first[0], **more), lambda line: None)


def test_examples_are_picked_by_rule() -> None:
    def row(name: str, tuned: float, base: float) -> dict[str, Any]:
        return {"item": name, "answers": {"tuned": {"values": {"m": tuned}}, "base": {"values": {"m": base}}}}

    rows = [row("same", 1, 1), row("up", 1, 0), row("down", 0, 1), row("far up", 1, -1), row("bad", 0, 0)]
    picked = pick_examples(rows, "m", ["tuned", "base"], 1, less_is_better=False)
    assert [(why, one["item"]) for why, one in picked] == [
        ("tuned gained", "far up"), ("tuned lost", "down"), ("among the worst of tuned", "bad"),
    ]  # fmt: skip
    picked = pick_examples(rows, "m", ["tuned", "base"], 1, less_is_better=True)
    assert [one["item"] for _, one in picked] == ["down", "far up", "same"]
