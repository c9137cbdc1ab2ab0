"""The whole card on a tiny model: written, resumed, paired, refused; and a page that says what the figures are."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
from card_subjects import trained_classifier
from conftest import build_tokenizer, shared_data
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.errors import ConfigError
from tunesmith.evals.card import efficiency
from tunesmith.evals.card.measure import Judgement
from tunesmith.recipes.card import CardConfig, run_card
from tunesmith.reports.card import dimension_scores


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model that reads 2048 bytes, and two adapters on it, the first of them still as it was made."""
    import torch
    import transformers as t

    from tunesmith.models.adapters import AdapterConfig, add_adapter, save_role
    from tunesmith.models.load import build_base
    from tunesmith.models.resolve import resolve_model

    folder = tmp_path_factory.mktemp("card")
    torch.manual_seed(0)
    config = t.LlamaConfig(
        vocab_size=272, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=2048, bos_token_id=None, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    model = t.LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.mul_(4.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(folder / "base")
    build_tokenizer().save_pretrained(folder / "base")
    base = build_base(resolve_model(str(folder / "base")), torch.device("cpu"), torch.float32)
    for name in ("same", "other"):
        role = add_adapter(base, name, AdapterConfig(r=4), seed=0)
        if name == "other":
            with torch.no_grad():
                for index, parameter in enumerate(role.parameters.values()):
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
        save_role(base, role, folder / name)
    return {name: folder / name for name in ("base", "same", "other")}


@pytest.fixture
def settings(tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(efficiency, "NEW_TOKENS", 4)
    (tmp_path / "out").mkdir()
    (tmp_path / "one").mkdir()
    for folder in ("out", "one"):
        shutil.copy(trained_classifier(), tmp_path / folder)
    data = shared_data("true_false_facts/facts.jsonl").parents[1]
    return {
        "model_name_or_path": str(tiny["base"]), "data_dir": str(data), "limit": 120,
        "output_dir": str(tmp_path / "out"),
        "choice_suites": ["true_false_facts", "copa"], "form_suites": ["true_false_facts"],
        "generated_suites": ["jargon"],
    }  # fmt: skip


def test_a_card_is_written_and_goes_on_where_it_stopped(
    settings: dict[str, Any], tiny: dict[str, Path], tmp_path: Path
) -> None:
    said: list[str] = []
    facts = run_card(CardConfig(**settings, adapter=str(tiny["other"])), said.append)
    out = tmp_path / "out"
    assert {"card.json", "card.html", "card.md", "card.png", "calibration.png", "toxicity.npz"} <= {
        path.name for path in out.iterdir()
    }
    assert any("requests to 2 in all" in line for line in said)
    assert facts == json.loads((out / "card.json").read_text()) and facts["labels"] == ["base", "other"]
    words = {row["verdict"] for row in facts["rows"]}
    assert words <= {"better", "worse", "no difference found", "at chance"}
    dimensions = {row["dimension"] for row in facts["rows"]}
    wanted = {"accuracy", "calibration", "robustness", "fairness", "bias", "toxicity", "efficiency"}
    assert dimensions == wanted
    for row in facts["rows"]:
        for key in ("first", "second", "difference"):
            limits = row[key]
            assert limits["low"] <= limits["high"] and all(map(math.isfinite, limits.values())), row
    page = (out / "card.html").read_text()
    assert "HateCheck" in page and "Holm" in page and all(row["name"] in page for row in facts["rows"])
    lines = (out / "results.jsonl").read_text().splitlines()
    # Half of the answers lost: the rest is kept, and the figures are the same.
    (out / "results.jsonl").write_text("\n".join(lines[: len(lines) // 2]) + "\n")
    again = run_card(CardConfig(**settings, adapter=str(tiny["other"])), said.append)
    assert 0 < again["asked_now"]["num_requests"] < facts["asked_now"]["num_requests"]
    assert len((out / "results.jsonl").read_text().splitlines()) == len(lines)
    figures = [[row for row in one["rows"] if row["dimension"] != "efficiency"] for one in (facts, again)]
    assert figures[0] == figures[1]


def test_an_adapter_that_does_nothing_differs_nowhere(
    settings: dict[str, Any], tiny: dict[str, Path], tmp_path: Path
) -> None:
    facts = run_card(CardConfig(**settings, adapter=str(tiny["same"])), lambda _: None)
    for row in facts["rows"]:
        if row["dimension"] == "efficiency":
            continue
        assert row["first"] == row["second"] and row["difference"]["value"] == 0 and row["p"] == 1.0, row
        assert row["verdict"] in ("no difference found", "at chance")
    one, two = (dimension_scores(facts["rows"], which) for which in ("first", "second"))
    assert {name: one[name] for name in one if name != "efficiency"} == {
        name: two[name] for name in two if name != "efficiency"
    }
    assert all(0 <= score <= 1 for score in (*one.values(), *two.values()))


def test_the_verb_measures_one_model_and_refuses_what_it_cannot_do(
    settings: dict[str, Any], tiny: dict[str, Path], tmp_path: Path
) -> None:
    called = [
        "card", "--model", settings["model_name_or_path"], "--data", settings["data_dir"], "--limit", "100", "--suite",
        "true_false_facts", "--form-suite", "true_false_facts", "--generated-suite", "jargon", "--output",
        str(tmp_path / "one"),
    ]  # fmt: skip
    done = CliRunner().invoke(app, called)
    assert done.exit_code == 0, done.output
    assert "card.html" in done.output and "BBQ bias score, ambiguous" in done.output
    rows = json.loads((tmp_path / "one" / "card.json").read_text())["rows"]
    assert all(row["second"] is None and row["p"] is None for row in rows)
    refused = {
        # Nothing is left to ask of what has been answered, so that this one begins anew.
        ("--max-minutes", "0.000001", "--results", str(tmp_path / "new.jsonl")): "may take",
        ("--compare", "base"): "nothing to compare",
        ("--adapter", str(tmp_path)): "no folder of an adapter",
        ("--adapter", "base"): "'base' is no adapter",
        ("--limit", "5"): "limit",
        ("--suite", "true_false_fcts"): "true_false_facts",
        ("--suite", "jargon"): "not answered by a choice",
    }
    for options, said in refused.items():
        failed = CliRunner().invoke(app, [*called, *options])
        assert failed.exit_code == 2 and said in failed.output, failed.output
    with pytest.raises(ConfigError, match="nothing to compare"):
        run_card(CardConfig(**settings, compare="base"), lambda _: None)


def test_energy_is_read_where_there_is_a_counter_and_else_said_absent(tmp_path: Path) -> None:
    assert efficiency.read_joules(tmp_path) is None
    for name, value in (("intel-rapl:0", "2500000"), ("intel-rapl:0:1", "99"), ("intel-rapl:1", "500000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(value)
    assert efficiency.read_joules(tmp_path) == 3.0
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("")
    assert efficiency.read_joules(tmp_path) is None
    speed = efficiency.Speed(
        first_token_ms=(10.0, 11.0, 10.5), one_row_rate=(30.0, 31.0, 30.5), many_rows_rate=(90.0, 91.0, 95.0), joules=()
    )
    assert [row.name for row in efficiency.efficiency_rows(speed, speed)] == [
        "ms to the first token",
        "tokens a second, one answer",
        "tokens a second, 8 at once",
    ]
    assert all(row.p == 1.0 for row in efficiency.efficiency_rows(speed, speed))
    slower = efficiency.Speed(
        first_token_ms=(20.0, 21.0, 20.6), one_row_rate=(15.0, 15.4, 15.2), many_rows_rate=(45.0, 45.1, 47.0), joules=()
    )
    assert all(row.p is not None and row.p < 0.01 for row in efficiency.efficiency_rows(speed, slower))
    # A counter that began anew in another turn of each: what is left is paired turn by turn, and both are there.
    one, two = (
        efficiency.Speed(first_token_ms=(), one_row_rate=(), many_rows_rate=(), joules=joules)
        for joules in ((1.0, None, 3.0, 4.0), (2.0, 9.0, None, 5.0))
    )
    (joules,) = efficiency.efficiency_rows(one, two)
    assert joules.num_items == 2 and joules.difference is not None and joules.difference.value == 1.0
    assert joules.second is not None and joules.second.value == 3.5


def test_the_page_calls_the_verb_as_it_is_and_explains_every_word(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "card.md").read_text(encoding="utf-8")
    seen: list[CardConfig] = []

    def remember(config: CardConfig, say: Any) -> dict[str, Any]:
        seen.append(config)
        return {"rows": [], "labels": [], "seconds": 0.0}

    monkeypatch.setattr("tunesmith.recipes.card.run_card", remember)
    commands = re.findall(r"^\$ tunesmith (card.*)$", page, re.MULTILINE)
    assert commands
    for command in commands:
        done = CliRunner().invoke(app, shlex.split(command))
        assert done.exit_code == 0, done.output
    assert (seen[0].adapter, seen[0].output_dir) == ("runs/demo", "runs/card")
    named = set(re.findall(r"`(--[a-z-]+)`", page))
    help_text = CliRunner().invoke(app, ["card", "--help"], env={"COLUMNS": "200"}).output
    assert named and all(option in help_text for option in named)
    assert all(word in page for word in get_args(Judgement))
