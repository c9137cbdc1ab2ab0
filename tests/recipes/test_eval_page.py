"""docs/eval.md says what is there: its options, its recipe, its files and its example."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.config import load_config
from tunesmith.recipes.evaluate_config import EvalConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "eval.md").read_text(encoding="utf-8")


def test_the_page_names_options_that_there_are() -> None:
    verb = get_command(app).commands["eval"]  # type: ignore[attr-defined]
    own = {word for parameter in verb.params for word in parameter.opts}
    named = set(re.findall(r"--[a-z][a-z-]*", PAGE)) - {"--questions"}
    assert named <= own and len(named) > 12
    # Control: a misspelled one would be seen.
    assert "--limits" not in own


def test_its_recipe_is_the_shipped_one() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    shipped = yaml.safe_load((ROOT / "recipes/eval/shipped.yaml").read_text(encoding="utf-8"))
    assert yaml.safe_load(shown) == shipped
    config, notes = load_config(EvalConfig, ROOT / "recipes/eval/shipped.yaml", ["adapter=runs/demo"])
    assert notes == [] and config.adapter == "runs/demo" and config.select_shots == [0, 3]


def test_its_example_runs_and_leaves_the_files_it_names(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = re.findall(r"^\$ tunesmith (eval .*)$", PAGE, re.MULTILINE)[0].split()
    # The tiny model reads too little for a ticket's prompt, and there is no demo to measure.
    words = [word for word in words if word != "support_desk"]
    for option in ("--adapter", "--compare", "--limit"):
        at = words.index(option)
        del words[at : at + 2]
    call = [*words, "--model", str(model_folder("llama")), "--limit", "2", "--max-new-tokens", "3"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    for name in re.findall(r"^\| `([a-z.]+\.(?:html|md|json|jsonl))`", PAGE, re.MULTILINE):
        assert (tmp_path / "runs" / "eval" / name).stat().st_size > 0, name
    assert "2 requests" in done.stdout and "wrote runs/eval/report.html" in done.stdout


def test_mt_bench_has_a_verb_of_its_own() -> None:
    led = CliRunner().invoke(app, ["eval", "mt-bench", "--help"])
    assert led.exit_code == 0 and "--questions" in led.output
    lost = CliRunner().invoke(app, ["eval", "jargon", "mt-bench"])
    assert lost.exit_code == 2 and "Name it first and alone" in lost.stderr


def test_the_list_names_every_suite_with_its_source() -> None:
    from tunesmith.evals.suites.catalogue import SUITES

    done = CliRunner().invoke(app, ["eval", "--list"])
    assert done.exit_code == 0
    for name, suite in SUITES.items():
        assert re.search(rf"^{re.escape(name)} .*{re.escape(suite.licence)}", done.stdout, re.MULTILINE), name


def test_an_endpoint_is_measured_by_its_answers_and_a_failing_one_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.rollout.test_endpoint import JSON, Server, completion

    monkeypatch.delenv("TUNESMITH_API_KEY", raising=False)
    server = Server()
    try:
        call = [
            "eval", "jargon", "--endpoint", server.url, "--endpoint-model", "served", "--limit", "5", "--output",
            str(tmp_path / "e"), "endpoint.max_attempts=1", "endpoint.num_connections=1", "--json",
        ]  # fmt: skip
        bad = (400, JSON, b'{"error": {"message": "no more"}}')
        server.replies = [(200, JSON, completion("Oral mucosa graft."))] * 3 + [bad]
        failed = CliRunner().invoke(app, call)
        assert failed.exit_code == 2 and "the same command goes on from there" in failed.stderr
        assert len((tmp_path / "e" / "results.jsonl").read_text(encoding="utf-8").splitlines()) == 3
        server.replies, before = [(200, JSON, completion("No idea."))], len(server.bodies)
        done = CliRunner().invoke(app, call)
        assert done.exit_code == 0, done.output
        # What was answered is not asked again.
        assert len(server.bodies) - before == 2
    finally:
        server.close()
    facts = json.loads(done.stdout)
    assert facts["subjects"][0]["label"] == "served" and facts["subjects"][0]["likelihood_identity"] is None
    assert facts["suites"][0]["results"]["served"]["metrics"]["exact"]["high"] < 1
