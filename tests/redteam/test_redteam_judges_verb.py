"""``tunesmith redteam judges`` on labelled rows written here, the harm classifier, and judges by their names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tunesmith.cli.redteam_judges import judges
from tunesmith.config import build_config
from tunesmith.errors import ConfigError
from tunesmith.models.load import ModelConfig
from tunesmith.recipes.redteam_judge_open import RedteamJudgeSettings, judge_names, open_judge, open_named_judge
from tunesmith.redteam.goals import Goal
from tunesmith.redteam.judge_errors import errors_by_kind
from tunesmith.redteam.judge_harm import open_harm_judge
from tunesmith.redteam.judgement import Case

REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "Sure, here is how: first open the box, then look inside."
FOUL, KIND = "you are utter trash you stupid clown", "what a lovely morning for a walk"


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Rows of each public set, whose labels say what the answers do; one refusal people call compliance."""
    folder = tmp_path / "data"
    labels = {REFUSAL: "2_full_refusal", ANSWER: "1_full_compliance"}
    for name in ("completions_gpt4", "completions_mistralinstruct"):
        rows = []
        for i in range(1, 17):
            answer = REFUSAL if i % 4 < 2 else ANSWER
            kind = "contrast_homonyms" if i > 8 else "homonyms"
            label = labels[ANSWER] if i == 16 else labels[answer]
            rows.append(
                {"id": f"v2-{i}", "type": kind, "prompt": f"Q {i}?", "completion": answer, "final_label": label}
            )
        write(folder / f"xstest/{name}.jsonl", rows)  # type: ignore[arg-type]
    write(
        folder / "judge_calibration/refusal.jsonl",
        [
            {
                "objective": f"Q {i}?",
                "assistant_response": REFUSAL if i % 4 < 2 else ANSWER,
                "human_score": int(i % 4 < 2),
            }
            for i in range(8)
        ],
    )
    for name in ("hate_speech_3_raters", "info_integrity"):
        rows = [
            {"objective": f"O {i // 2}", "assistant_response": ANSWER if i % 2 else REFUSAL, "human_score_1": i % 2}
            for i in range(8)
        ]
        write(folder / f"judge_calibration/{name}.jsonl", rows)  # type: ignore[arg-type]
    tweets = [{"class": f"{1 + i % 2}", "text": f"{KIND if i % 2 else FOUL} {i}"} for i in range(120)]
    write(folder / "hate_offensive/tweets.jsonl", tweets)  # type: ignore[arg-type]
    prose = [{"output": f"The old mill stands by the river, and number {i} of its wheels turns."} for i in range(20)]
    write(folder / "oasst_pairs/pairs_en.jsonl", prose)  # type: ignore[arg-type]
    cases = [
        {"test_case": f"{KIND if i % 2 else FOUL} {i}", "label_gold": "non-hateful" if i % 2 else "hateful",
         "templ_id": f"{i}", "functionality": "x"}
        for i in range(8)
    ]  # fmt: skip
    write(folder / "hatecheck/cases.jsonl", cases)  # type: ignore[arg-type]
    return folder


def test_the_verb_measures_and_files(data: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(judges)
    folder = tmp_path / "filed"
    command = ["--judge", "detector", "--judge", "harm", "--data", str(data), "--calibrations", str(folder)]
    ran = CliRunner().invoke(app, [*command, "--json"])
    assert ran.exit_code == 0, ran.output
    detector, harm = json.loads(ran.stdout)["judges"]
    by_source = {one["source"]: one for one in detector["measured"]}
    unsafe = by_source["XSTest, test half, unsafe prompts"]
    # Replies to prompts 10, 12, 14 and 16 of two models; of 16 people say that it complied.
    assert (unsafe["found"], unsafe["passed"]) == ([4, 6], [2, 2])
    # Both models answered alike: no more than the prompts are independent.
    assert (unsafe["num_found"], unsafe["num_passed"]) == (2.0, 1.0)
    assert {"tweets and prose, test part", "HateCheck"} <= {one["source"] for one in harm["measured"]}
    assert [one["found"] for one in harm["measured"] if one["source"] == "HateCheck"] == [[4, 4]]
    goals = [Goal(id=kind, request="r", category="c", source="s", kind=kind) for kind in ("harmful", "toxic")]  # type: ignore[arg-type]
    settings = RedteamJudgeSettings(data_dir=str(data), calibrations=str(folder))
    judge, notes = open_judge(settings, goals, ModelConfig())
    assert not notes
    known = errors_by_kind(judge, folder)
    foul = next(one for one in harm["measured"] if one["source"] == "tweets and prose, test part")
    assert list(known["toxic"].sensitivity) == foul["found"]
    # Prose stands there short and long, which is one text.
    assert known["toxic"].specificity[1] == foul["num_passed"] < foul["passed"][1]
    assert known["harmful"].source == "XSTest, test half, unsafe prompts"
    shown = CliRunner().invoke(app, [*command, "--source", "HateCheck"])
    assert "HateCheck (test), 8 answers: balanced accuracy 100.0 %" in shown.stdout
    assert "no set has a name like that" in shown.stdout, "the detector is not asked about texts alone"


def test_refusals_and_nonsense_are_no_success_of_bait(data: Path, tmp_path: Path) -> None:
    judge = open_harm_judge(str(data), str(tmp_path / "kept"))
    goal = Goal(id="g", request="Go on.", category="toxicity", source="s", kind="toxic")
    answers = [f"Well, {FOUL}.", f"It was {KIND}.", f"I'm sorry, but I can't say {FOUL}.", f"{FOUL} " * 20]
    found = [said for _, said in judge.judge([Case(goal=goal, prompt="Go on.", answer=answer) for answer in answers])]
    assert [one.success for one in found] == [True, False, False, False]
    assert [one.kind for one in found] == ["comply", "comply", "refuse", "nonsense"]
    assert found[0].score > 0.5 > found[1].score and found[2].score == 0.0
    again = open_harm_judge(str(data), str(tmp_path / "kept"))
    assert again.identity == judge.identity
    write(data / "oasst_pairs/pairs_en.jsonl", [{"output": "Another row makes another classifier."}])
    assert open_harm_judge(str(data), str(tmp_path / "kept")).identity != judge.identity


def test_judges_are_named_and_composed() -> None:
    assert judge_names("detector") == (("detector",), "all")
    assert judge_names("detector+rubric") == (("detector", "rubric"), "all")
    assert judge_names("rubric > detector") == (("rubric", "detector"), "first")
    assert judge_names("detector|harm") == (("detector", "harm"), "any")
    for told, why in (("detectr", "is no judge"), ("detector+rubric|harm", "mixes"), ("rubric+rubric", "twice")):
        with pytest.raises(ConfigError, match=why):
            build_config(RedteamJudgeSettings, {"judge": told}, place="test")
    with pytest.raises(ConfigError, match="needs judge_model"):
        build_config(RedteamJudgeSettings, {"judge": "rubric", "judge_url": "http://localhost:1/v1"}, place="test")


@pytest.mark.parametrize(("url", "paced"), [("http://localhost:1/v1", False), ("http://192.0.2.1/v1", True)])
def test_a_judge_that_is_not_this_machine_is_paced(url: str, paced: bool) -> None:
    told = {"judge": "rubric", "judge_url": url, "judge_model": "m"}
    settings = build_config(RedteamJudgeSettings, told, place="test")
    _, notes = open_named_judge(settings, ModelConfig())
    assert ("at most 60 a minute" in " ".join(notes)) == paced
