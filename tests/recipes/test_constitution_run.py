"""The whole run on a tiny model: every stage, what is done again and why, what a killed one goes on from."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from constitution_worlds import run_and_die, tiny_recipe, write_world
from forks import exit_code_of
from matplotlib.figure import Figure
from safetensors.numpy import load_file
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.config import build_config
from tunesmith.errors import ConfigError, DataError, RunError
from tunesmith.feedback.judgements import Compared
from tunesmith.feedback.store import FeedbackStore
from tunesmith.recipes.constitution_curve import branch_stages, thinned
from tunesmith.recipes.constitution_run import run_constitution
from tunesmith.recipes.constitution_run_config import ConstitutionRunConfig
from tunesmith.recipes.constitution_run_facts import headline
from tunesmith.recipes.constitution_run_shop import Recipe, Workshop
from tunesmith.recipes.constitution_run_stages import build_stages
from tunesmith.recipes.stages import why_due
from tunesmith.runs import Run

CHAIN = ["prompts", "revise", "sft", "label", "prefer", "dpo", "evaluate"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, model_folder: Callable[[str], Path]) -> tuple[Path, Path]:
    """(folder of the inputs, the model's folder)."""
    folder = tmp_path_factory.mktemp("constitution") / "world"
    return folder, write_world(folder, model_folder("llama"))


@pytest.fixture(scope="module")
def finished(world: tuple[Path, Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the recipe, what came of it) of one run through all stages of the dpo chain."""
    recipe = tiny_recipe(*world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, stream, **how: stream.write(b"\x89PNG\r\n"))
        return recipe, run(recipe)


def run(recipe: dict[str, Any], **how: Any) -> dict[str, Any]:
    return run_constitution(build_config(ConstitutionRunConfig, recipe, place="test"), lambda _: None, **how)


def stages_of(recipe: dict[str, Any]) -> list[Recipe]:
    config = build_config(ConstitutionRunConfig, recipe, place="test")
    shop = Workshop(config=config, say=lambda _: None)
    main = build_stages(config, shop, "test")
    return [*main, *branch_stages(config, main, shop, "test")]


def due(recipe: dict[str, Any]) -> dict[str, str]:
    return {one.stage.name: why for one in stages_of(recipe) if (why := why_due(one.stage)) is not None}


def test_every_stage_leaves_what_the_next_one_reads(finished: tuple[dict[str, Any], dict[str, Any]]) -> None:
    recipe, facts = finished
    folder = Path(recipe["output_dir"])
    assert facts["did"] == CHAIN and facts["final_adapter"] == str(folder / "dpo")
    rows = [json.loads(line) for line in (folder / "revise" / "sft.jsonl").read_text().splitlines()]
    assert {row["provenance"]["from"] for row in rows} >= {"revision", "helpful"}
    # A critic that always refuses: the report says that all revisions do, and nothing else.
    revised = sum(row["provenance"]["from"] == "revision" for row in rows)
    assert facts["rows"]["revision"] == {"comply": 0, "partly": 0, "refuse": revised, "nonsense": 0}
    assert set(facts["rows"]["helpful"]) == set(facts["rows"]["revision"]) and facts["rows"]["helpful"]["refuse"] == 0
    # What is learnt from is neither measured nor seen in both phases.
    texts = {
        name: {
            json.loads(line)["prompt"][0]["content"] for line in (folder / "prompts" / name).read_text().splitlines()
        }
        for name in ("revise_harmful.jsonl", "revise_harmless.jsonl", "label.jsonl")
    }
    assert sum(map(len, texts.values())) == len(set.union(*texts.values())) == 16 and len(texts["label.jsonl"]) == 8
    harmless = (folder / "prompts" / "label_harmless.jsonl").read_text().splitlines()
    assert len(harmless) == 3 and set(harmless) < set((folder / "prompts" / "label.jsonl").read_text().splitlines())
    # The label stage asked the sft adapter, and dpo started from it.
    provenance = json.loads((folder / "dpo" / "tunesmith_provenance.json").read_text())
    draws = [json.loads(line) for line in (folder / "label" / "feedback.db.draws.jsonl").read_text().splitlines()]
    assert {row["adapter_digest"] for row in draws} == {provenance["reference_digest"]}
    assert (
        load_file(folder / "dpo" / "adapter_model.safetensors").keys()
        == load_file(folder / "sft" / "adapter_model.safetensors").keys()
    )


def test_the_report_says_what_was_measured(finished: tuple[dict[str, Any], dict[str, Any]]) -> None:
    recipe, facts = finished
    folder = Path(recipe["output_dir"])
    page, text = ((folder / name).read_text() for name in ("report.html", "report.md"))
    for heading in (
        "Harmful compliance and over-refusal", "What the answers are", "Helpfulness and creativity kept",
        "Win rate on harmless requests", "Three scenarios", "Every task, tested", "Which principle did what",
        "What the tuning learns from", "What it took",
    ):  # fmt: skip
        assert heading in page and heading in text, heading
    goal = facts["evaluation"]["goal"]
    assert list(goal) == ["sft", "dpo"] and goal["dpo"]["harm"]["num"] == 10 and goal["dpo"]["safe"]["num"] == 5
    assert [one["name"] for one in facts["stages"]] == CHAIN
    assert all(one["planned_seconds"] is not None and one["seconds"] >= 0 for one in facts["stages"])
    # Texts of models are shut until somebody opens them.
    assert page.count("<details>") == len(facts["evaluation"]["scenarios"]) + len(
        facts["evaluation"]["examples"]
    ) + len(facts["audit"])
    compared = {(one["task"], one["second"]) for one in facts["evaluation"]["comparisons"]}
    assert {("reference", "dpo"), ("creative", "sft"), ("scenarios", "dpo")} <= compared


def test_nothing_is_done_twice_and_what_changed_is_done_again(
    finished: tuple[dict[str, Any], dict[str, Any]], undrawn: None
) -> None:
    recipe, _ = finished
    results = Path(recipe["output_dir"]) / "evaluate" / "results.jsonl"
    before = results.read_bytes()
    assert run(recipe)["did"] == [] and due(recipe) == {}
    # A change in a stage's own keys makes that stage due, by name; what follows only if its files change.
    assert due({**recipe, "dpo": {**recipe["dpo"], "beta": 0.3}}) == {"dpo": "settings changed: beta"}
    assert due({**recipe, "constitution": "ours"}) == dict.fromkeys(
        ("revise", "label"), "settings changed: constitution"
    )
    # Fewer prompts are measured: which ones are kept out is worked out anew and comes to the same, so that no answer
    # but those of the last stage is looked up again, and none is asked.
    fewer = {**recipe, "evaluate": {**recipe["evaluate"], "advbench": 3}}
    assert run(fewer)["did"] == ["prompts", "evaluate"]
    assert results.read_bytes() == before
    assert run(recipe)["did"] == ["prompts", "evaluate"]
    # What lies there by other hands is noticed.
    pairs = Path(recipe["output_dir"]) / "prefer" / "pairs.jsonl"
    kept = pairs.read_text()
    pairs.write_text(kept + kept.splitlines()[0] + "\n")
    assert due(recipe) == {"dpo": "what it reads changed: rows"}
    pairs.unlink()
    assert due(recipe)["prefer"] == "pairs.jsonl is gone"
    pairs.write_text(kept)
    assert due(recipe) == {}
    # So are other rows in a public set, which no stage's keys tell of.
    asked = Path(recipe["evaluate"]["data_dir"]) / "xstest" / "prompts.csv"
    rows = asked.read_text()
    asked.write_text(rows.replace("lamps process", "lamps thread"))
    assert due(recipe) == dict.fromkeys(("prompts", "evaluate"), "settings changed: what is asked")
    asked.write_text(rows)
    assert due(recipe) == {}
    # A person's judgement makes pairs anew, and is never deleted with the labels.
    store = Path(recipe["output_dir"]) / "label" / "feedback.db"
    whole = store.read_bytes()
    with FeedbackStore.open(store) as opened:
        first = next(iter(opened.judgements()))
        opened.add_judgement(first.prompt_id, first.candidates, Compared("A"), annotator="ann")
    assert due(recipe) == {"prefer": "what it reads changed: judgements"}
    for _ in range(2):
        with pytest.raises(RunError, match="judgements of ann"):
            run(recipe, start_from="label")
    store.write_bytes(whole)
    run(recipe)
    assert due(recipe) == {}


def test_from_and_plan(finished: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    recipe, _ = finished
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(recipe))
    stamps = {p: p.stat().st_mtime_ns for p in Path(recipe["output_dir"]).rglob("*") if p.is_file()}
    done = CliRunner().invoke(app, ["constitution", "run", str(path), "--plan", "--from", "dpo", "--json"])
    assert done.exit_code == 0, done.output
    told = {one["stage"]: one for one in json.loads(done.stdout.splitlines()[-1])["plan"]}
    assert {name for name, one in told.items() if one["why"]} == {"dpo", "evaluate"}
    cost = told["dpo"]["cost"]
    assert cost["trained"] > 0 and cost["seconds"] > 0 and told["evaluate"]["cost"]["written"] > 0
    assert told["sft"]["cost"] is None
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    fewer = ["--skip", "label", "--skip", "prefer", "--skip", "dpo", "--json"]
    done = CliRunner().invoke(app, ["constitution", "run", str(path), "--plan", *fewer])
    told = {one["stage"]: one["why"] for one in json.loads(done.stdout.splitlines()[-1])["plan"]}
    # Nothing is kept back for a phase that is left out, so all prompts are revised.
    assert list(told) == ["prompts", "revise", "sft", "evaluate"] and told["prompts"] == "settings changed: labels"
    wrong = CliRunner().invoke(app, ["constitution", "run", str(path), "--from", "reward"])
    assert wrong.exit_code == 2 and "'reward' is no stage of this run" in wrong.output


def test_a_killed_run_goes_on_where_it_was(
    finished: tuple[dict[str, Any], dict[str, Any]], world: tuple[Path, Path], undrawn: None
) -> None:
    whole = Path(finished[0]["output_dir"])
    recipe = tiny_recipe(*world, output_dir=str(world[0] / "killed"))
    folder = Path(recipe["output_dir"])
    # In the second step of sft, whose first one has a checkpoint.
    assert exit_code_of(run_and_die, recipe, "2:step") == -9
    assert (folder / "sft" / "checkpoint-1").is_dir() and not (folder / "sft" / "stage.json").exists()
    assert due(recipe)["sft"] == "it was stopped on its way"
    with warnings.catch_warnings():
        # The folders' locks are taken over from a process that is gone.
        warnings.simplefilter("ignore")
        # Then while the label stage draws its tenth candidate.
        assert exit_code_of(run_and_die, recipe, "10:answer") == -9
        draws = (folder / "label" / "feedback.db.draws.jsonl").read_bytes()
        assert len(draws.splitlines()) == 9 and due(recipe)["label"] == "it was stopped on its way"
        facts = run(recipe)
    assert facts["did"] == ["label", "prefer", "dpo", "evaluate"]
    assert [one["name"] for one in facts["stages"] if one["resumed"]] == ["sft", "label"]
    # What was drawn was not drawn again, and all comes to what the run came to that nobody killed.
    assert (folder / "label" / "feedback.db.draws.jsonl").read_bytes().startswith(draws)
    for stage in ("sft", "dpo"):
        ours, theirs = (load_file(place / stage / "adapter_model.safetensors") for place in (folder, whole))
        assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours), stage
    lines = (folder / "evaluate" / "results.jsonl").read_bytes()
    keys = [json.loads(line)["key"] for line in lines.splitlines()]
    assert len(keys) == len(set(keys))
    # A branch of the same run: the base's answers are found, only the new adapter is asked.
    facts = run({**recipe, "mixing_shares": [0.0]})
    assert facts["did"] == ["mix@0", "sft@0", "evaluate@0"]
    (point,) = facts["curve"]
    assert point["share"] == 0 and point["rows"] > 0 and set(point["harm"]) == {"value", "low", "high"}
    rows = [json.loads(line) for line in (folder / "shares" / "0" / "revise" / "sft.jsonl").read_text().splitlines()]
    assert "helpful" not in {row["provenance"]["from"] for row in rows}
    added = (folder / "evaluate" / "results.jsonl").read_bytes()[len(lines) :].splitlines()
    assert {json.loads(line)["label"] for line in added} == {"sft"} and len(added) == 15


def test_a_ppo_run_with_controls_is_wired_as_told(world: tuple[Path, Path]) -> None:
    helpful = {"data": {"train": str(world[0] / "helpful.jsonl")}}
    recipe = tiny_recipe(*world, align="ppo", skip=[], helpful=helpful, controls=["random"])
    stages = {one.stage.name: one for one in stages_of(recipe)}
    folder = Path(recipe["output_dir"])
    chain = ["prompts", "helpful", "revise", "sft", "label", "prefer", "reward", "ppo", "evaluate"]
    assert list(stages) == [*chain, "revise@random", "sft@random", "evaluate@random"]
    assert stages["revise"].config.adapter == stages["sft"].config.adapter_name_or_path == str(folder / "helpful")
    assert stages["label"].config.adapters == (str(folder / "sft"),)
    assert stages["ppo"].config.sft_adapter == str(folder / "sft")
    assert [one.model for one in stages["ppo"].config.rewards] == [str(folder / "reward")]
    # An adapter that judges or criticises is read like any other.
    judged = tiny_recipe(*world, label={"judge_adapter": str(world[0])}, revise={"critic": str(world[1])})
    reads = {one.stage.name: one.stage.reads for one in stages_of(judged)}
    assert reads["label"]["judge"] == world[0] and reads["revise"]["critic"] == world[1]
    control = stages["revise@random"]
    assert control.config.critic == "random" and control.config.prompts == stages["revise"].config.prompts
    assert control.stage.folder == folder / "controls" / "random" / "revise"


def test_a_share_holds_where_helpful_rows_are_few() -> None:
    own = list(range(100))
    assert thinned(own, 10, 0.0, 0) == own and thinned(own, 100, 0.5, 0) == own
    few = thinned(own, 10, 0.5, 0)
    assert len(few) == 10 and few == sorted(few) and few != own[:10] and few != thinned(own, 10, 0.5, 1)
    assert len(thinned(own, 30, 0.25, 0)) == 90


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"skip": ["revision"]}, ConfigError, "revision"),
        ({"skip": []}, ConfigError, "helpful.data"),
        ({"prompts": None}, ConfigError, "prompts"),
        ({"sft": {"output_dir": "x"}}, ConfigError, "set by the run itself"),
        ({"dpo": {"data": {"train": "x.jsonl"}}}, ConfigError, "dpo.data.train: is set by the run itself"),
        ({"dpo": {"learning_rat": 1}}, ConfigError, "learning_rate"),
        ({"skip": ["helpful", "revise"]}, DataError, "Stage 'revise' makes it"),
        ({"revise": {"helpful_rows": "nowhere.jsonl", "helpful_share": 0.5}}, DataError, "nowhere.jsonl"),
        ({"mixing_shares": [1.0]}, ConfigError, "below 1"),
        ({"mixing_shares": [0.5], "revise": {"critic": "always-refuse"}}, ConfigError, "helpful_rows"),
        ({"constitution": "nowhere.yaml"}, ConfigError, "nowhere.yaml"),
        ({"revise": {"critic": "runs/nobody"}}, DataError, "runs/nobody (critic)"),
        ({"revise": {"model": "gpt2"}}, ConfigError, "Set model_name_or_path"),
    ],
)
def test_bad_recipes_are_told_before_anything_is_loaded(
    world: tuple[Path, Path], tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    recipe = tiny_recipe(*world, output_dir=str(tmp_path / "run"))
    with pytest.raises(error, match=re.escape(words)):
        run({**recipe, **change})
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_or_of_another_run_is_refused(finished: tuple[dict[str, Any], dict[str, Any]]) -> None:
    recipe, _ = finished
    config = build_config(ConstitutionRunConfig, recipe, place="test").model_dump(mode="json")
    with (
        Run.create(recipe["output_dir"], {"kind": "constitution run", **config}, resume=True),
        pytest.raises(RunError, match="is in use"),
    ):
        run(recipe)
    other = Path(recipe["output_dir"]).with_name("other")
    shutil.copytree(Path(recipe["output_dir"]) / "sft", other)
    with pytest.raises(RunError, match="another kind"):
        run({**recipe, "output_dir": str(other)})
    (Path(recipe["output_dir"]) / "sft" / "stage.json").write_text("{")
    with pytest.raises(RunError, match="is not the record of a stage"):
        run(recipe)


def test_rows_that_a_filter_leaves_out_cost_nothing(world: tuple[Path, Path], tmp_path: Path) -> None:
    rows, fewer = tmp_path / "rows.jsonl", tmp_path / "fewer.jsonl"
    lines = [json.dumps({"prompt": f"what is {i}?", "split": "train" if i < 3 else "held"}) + "\n" for i in range(9)]
    rows.write_text("".join(lines))
    fewer.write_text("".join(lines[:3]))
    told = []
    for path, where in ((rows, {"split": "train"}), (fewer, {}), (rows, {})):
        prompts = {**tiny_recipe(*world)["prompts"], "harmless": str(path), "harmless_where": where}
        recipe = tiny_recipe(*world, output_dir=str(tmp_path / "run"), align="none", prompts=prompts)
        plan = {one["stage"]: one["cost"] for one in run(recipe, plan_only=True)["plan"]}
        told.append(plan["revise"]["written"])
    assert told[0] == told[1] < told[2]


def test_the_headline_says_which_model_and_which_way() -> None:
    def share(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.2}

    side = {"before": share(0.2), "after": share(0.3), "difference": share(0.1), "num": 9, "relative_fall": share(-0.5)}
    dull = {"harm": share(0.5), "safe": share(0.4)}
    told = {"harm": side, "safe": side, "nonsense": dull, "verdict": {"met": False, "missed": ["nonsense"]}}
    lines = headline({"evaluation": {"final": "sft", "goal": {"sft": told}}})
    assert lines[0].startswith("Base → sft. ") and lines[0].endswith("up by 50.0 % [30.0, 60.0] of itself.")
    assert "+40.0 points [+30.0, +60.0] on the safe ones" in lines[2] and lines[3].endswith("missed in nonsense.")
    assert "no verdict" in headline({"evaluation": {"final": "base", "goal": {}}})[0]
