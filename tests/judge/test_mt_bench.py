"""MT-Bench on a tiny model: two turns, both modes, resume, and no score without the judge's agreement."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import shared_data
from judge_server import JudgeServer, roomy_model
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.config import build_config
from tunesmith.errors import ConfigError, DataError, RunError
from tunesmith.evals.judge import Said, ruling
from tunesmith.evals.mt_bench import (
    TEMPERATURES,
    answer_all,
    contests_of,
    grade_mean,
    graded,
    graded_turns,
    load_questions,
    table,
)
from tunesmith.evals.rubrics import GRADE
from tunesmith.evals.subject import Subject
from tunesmith.models.load import ModelConfig
from tunesmith.recipes.judge_open import JudgeSettings, open_judge
from tunesmith.recipes.mt_bench import MTBenchConfig, run_mt_bench
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Written
from tunesmith.runs import hold_file

QUESTIONS = [
    {"question_id": 1, "category": "writing", "turns": ["Write a line.", "Now shorter."]},
    {"question_id": 2, "category": "writing", "turns": ["Write a rhyme.", "Now longer."]},
    {"question_id": 3, "category": "math", "turns": ["What is 1 + 1?", "And half of it?"], "reference": ["2", "1"]},
]
REFERENCES = [{"question_id": 3, "choices": [{"turns": ["It is 2.", "It is 1."]}]}]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


class Parrot:
    """Writes what it is asked and at what temperature; counts."""

    identity = {"model": "parrot"}

    def __init__(self) -> None:
        self.asked: list[tuple[float, Asked]] = []

    def write(self, asked: list[Asked], sampling: Sampling) -> Iterator[tuple[int, Written]]:
        for i, one in enumerate(asked):
            self.asked.append((sampling.temperature, one))
            yield i, Written(text=f"{one.messages[-1].content} indeed", stop_reason="length")


def test_the_real_questions_are_read_with_their_references() -> None:
    source = str(shared_data("mt_bench/question.jsonl"))
    loaded = load_questions(source, str(shared_data("mt_bench/reference_answer_gpt4.jsonl")))
    assert len(loaded.questions) == 80 and {len(q.turns) for q in loaded.questions} == {2}
    assert {q.category for q in loaded.questions} == set(TEMPERATURES)
    assert sum(any(q.reference) for q in loaded.questions) == 30 and loaded.notes == ()
    eight = load_questions(source, limit=8)
    assert [q.category for q in eight.questions] == list(dict.fromkeys(q.category for q in loaded.questions))
    assert "8 of 80 questions" in eight.notes[-1]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"question_id": 1}, "same id"),
        ({"category": ""}, "category is missing"),
        ({"turns": []}, "empty turn or none"),
        ({"turns": "one"}, "no list of texts"),
        ({"question_id": None}, "missing or null"),
    ],
)
def test_faulty_questions_are_named(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        load_questions(write(tmp_path / "q.jsonl", [QUESTIONS[0], QUESTIONS[1] | changed]))
    assert ":2" in str(caught.value)
    with pytest.raises(DataError, match="no question 3"):
        load_questions(write(tmp_path / "q.jsonl", QUESTIONS[:2]), write(tmp_path / "r.jsonl", REFERENCES))
    with pytest.raises(DataError, match="an earlier reference has the same id"):
        load_questions(write(tmp_path / "q.jsonl", QUESTIONS), write(tmp_path / "r.jsonl", [*REFERENCES, *REFERENCES]))


def test_turns_follow_each_other_and_nothing_is_answered_twice(tmp_path: Path) -> None:
    questions = load_questions(write(tmp_path / "q.jsonl", QUESTIONS)).questions
    parrot = Parrot()
    subject = Subject(label="parrot", writer=parrot, likelihood=None)
    path = tmp_path / "a.jsonl"
    talks, num_cut = answer_all(questions, subject, ResultsFile(path), max_new_tokens=5, seed=0)
    assert [turn.role for turn in talks[0]] == ["user", "assistant"] * 2 and num_cut == 6
    assert talks[0][3].content == "Now shorter. indeed"
    second = [asked for _, asked in parrot.asked if len(asked.messages) == 3]
    assert len(second) == 3 and second[1].messages[1].content.endswith("indeed")
    assert {asked.messages[0].content: heat for heat, asked in parrot.asked}["What is 1 + 1?"] == 0.0
    assert {heat for heat, _ in parrot.asked} == {0.0, 0.7}
    assert len({asked.row_id for _, asked in parrot.asked}) == 6
    again, _ = answer_all(questions, subject, ResultsFile(path), max_new_tokens=5, seed=0)
    assert again == talks and len(parrot.asked) == 6
    answer_all(questions, subject, ResultsFile(path), max_new_tokens=6, seed=0)
    assert len(parrot.asked) == 12


def test_a_judge_sees_the_conversation_up_to_the_turn_and_the_right_answers() -> None:
    question = load_questions(str(shared_data("mt_bench/question.jsonl"))).questions[40]
    talk = tuple(turn for q in question.turns for turn in _pair(q))
    (_, one, first), (_, two, second) = graded_turns([question], [talk])
    assert (one, len(first.shown[0])) == (1, 2) and (two, len(second.shown[0])) == (2, 4)
    assert len(contests_of([question], ("a", "b"), [talk], [talk])) == 2


def _pair(text: str) -> tuple[Any, Any]:
    from tunesmith.records import Message

    return Message(role="user", content=text), Message(role="assistant", content="Yes.")


def test_means_by_category_and_turn_with_bounds(tmp_path: Path) -> None:
    questions = load_questions(write(tmp_path / "q.jsonl", QUESTIONS)).questions
    talks = [tuple(turn for text in q.turns for turn in _pair(text)) for q in questions]
    turns = graded_turns(questions, talks)
    rulings = [ruling(GRADE, Said(text=text)) for text in ("[[4]]", "[[6]]", "[[8]]", "?", "[[1]]", "[[3]]")]
    result = table(graded(turns, rulings), grade_mean)
    assert result["all"]["value"] == pytest.approx(22 / 5) and result["all"]["num_unparsed"] == 1
    assert (result["all"]["least"], result["all"]["most"]) == (pytest.approx(23 / 6), pytest.approx(32 / 6))
    assert result["turns"]["2"]["value"] == 4.5 and result["categories"]["math"]["all"]["value"] == 2
    assert (result["categories"]["math"]["all"]["low"], result["categories"]["math"]["all"]["high"]) == (1, 10)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setenv("TUNESMITH_API_KEY", "sk-judge-secret")
    one = JudgeServer()
    yield one
    one.close()


def test_a_whole_evaluation_with_a_server_as_model_and_judge(server: JudgeServer, tmp_path: Path) -> None:
    """The judge prefers whoever stands second, and sees the reference where there is one."""

    def verdict(messages: list[dict[str, str]]) -> tuple[int, str]:
        text = messages[-1]["content"]
        if "Which of the two" in text:
            return 200, "The later the better. [[B]]"
        return 200, "[[9]]" if "How good is" in text else f"My answer to: {text}"

    server.verdict = verdict
    config = MTBenchConfig(
        questions=write(tmp_path / "q.jsonl", QUESTIONS),
        references=write(tmp_path / "r.jsonl", REFERENCES),
        endpoint={"url": server.url, "model": "player"},
        model_name_or_path=roomy_model(tmp_path / "model"),
        compare="base",
        judge=server.url,
        judge_model="judge",
        max_new_tokens=8,
        output_dir=str(tmp_path / "out"),
        calibrations=str(tmp_path / "judges"),
    )
    said: list[str] = []
    facts = run_mt_bench(config, said.append)
    assert facts["models"] == ["player", "base"]
    assert facts["judge"]["agreement"] == {"grade": "not calibrated", "pair": "not calibrated"}
    assert facts["grades"]["player"]["all"]["value"] == 9 and facts["grade_difference"]["all"]["value"] == 0
    pairs = facts["pairs"]
    assert pairs["win_rate"]["all"]["value"] == 0.5 and (pairs["won"], pairs["lost"]) == (0, 0)
    assert pairs["manners"]["reversed_to_second"] == 6 and pairs["manners"]["prefers_first"]["value"] == 0
    assert any("12 answers" in note and "12 grades and 12 comparisons" in note for note in said)
    judged = [b["messages"][-1]["content"] for b in server.bodies if b["model"] == "judge"]
    assert sum("It is 2." in text for text in judged) == 2 * 2 + 2 * 2
    assert not any("What is 1 + 1?" in t and "It is 2." not in t for t in judged)
    num = len(server.bodies)
    again = run_mt_bench(config, said.append)
    assert len(server.bodies) == num
    different = ("seconds",)
    assert {k: v for k, v in again.items() if k not in different} == {
        k: v for k, v in facts.items() if k not in different
    }
    page = (tmp_path / "out" / "mt_bench.html").read_text()
    assert page.count("not calibrated") >= 2 and "My answer to: Write a line." in page + json.dumps(facts)
    done = CliRunner().invoke(app, ["judge", "stats", str(tmp_path / "out" / "pairs.jsonl")])
    assert done.exit_code == 0 and "0.0 % [" in done.output and "6 to the second" in done.output


def test_the_command_grades_with_the_local_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = roomy_model(tmp_path / "model")
    write(tmp_path / "q.jsonl", QUESTIONS[:1])
    call = ["mt-bench", "--questions", "q.jsonl", "--model", model, "--max-new-tokens", "4"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert "(not calibrated)" in done.output and "may like its own words" in done.output
    graded_by_people = [{"prompt": "Hi", "answer": f"{n}", "human_score": n} for n in (1, 5, 9)]
    write(tmp_path / "grades.jsonl", graded_by_people)
    done = CliRunner().invoke(app, ["judge", "calibrate", "grades.jsonl", "--rubric", "grade", "--model", model])
    assert done.exit_code == 0, done.output
    assert "mean absolute error" in done.output
    done = CliRunner().invoke(app, call)
    assert "(agreement with people: mean absolute error" in done.output and "not calibrated" not in done.output


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    common: dict[str, Any] = {"questions": write(tmp_path / "q.jsonl", QUESTIONS)}
    for settings, said in (
        ({"mode": "pair"}, "pairs need two models"),
        ({"judge": "oracle"}, "judge is local, person, detector, or an address"),
        ({"judge": "http://localhost:1/v1"}, "needs judge_model"),
        ({"judge": "person", "annotator": " "}, "annotator is empty"),
        ({"adapter": "a", "endpoint": {"url": "http://localhost:1/v1", "model": "m"}}, "takes no adapter"),
    ):
        with pytest.raises(ConfigError, match=said):
            build_config(MTBenchConfig, common | settings, place="test")
    with pytest.raises(ConfigError, match="nobody at a keyboard"):
        open_judge(JudgeSettings(judge="person"), ModelConfig())
    with pytest.raises(ConfigError, match="same weights"):
        model = roomy_model(tmp_path / "model")
        run_mt_bench(MTBenchConfig(**common, model_name_or_path=model, compare="base"), lambda _: None)


def test_a_folder_of_other_models_is_kept_and_its_answers_are_held(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    settings: dict[str, Any] = {"questions": write(tmp_path / "q.jsonl", QUESTIONS), "output_dir": str(folder)}
    asked = MTBenchConfig(**settings | {"adapter": "other"}).asked()
    (folder / "mt_bench.json").write_text(json.dumps({"asked": asked}))
    with pytest.raises(RunError, match="with another adapter"):
        run_mt_bench(MTBenchConfig(**settings), lambda _: None)
    # More questions and another mode go on with the same result.
    assert MTBenchConfig(**settings, limit=3, mode="grade").asked() == MTBenchConfig(**settings).asked()
    with hold_file(folder / "answers.jsonl"), pytest.raises(RunError, match="in use"):
        run_mt_bench(MTBenchConfig(**settings, overwrite_output_dir=True), lambda _: None)
