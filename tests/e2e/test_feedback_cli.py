"""``tunesmith feedback`` as a user runs it; the examples of its page are run and compared word for word."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.data.preferences import PreferenceDataConfig, load_preferences
from tunesmith.feedback.prefer import PreferConfig, prefer
from tunesmith.feedback.store import FeedbackStore
from tunesmith.feedback.transfer import import_files
from tunesmith.recipes.feedback_prefer import FeedbackPreferConfig
from tunesmith.records import Message

PAGE = (Path(__file__).parents[2] / "docs" / "feedback.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tunesmith(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def run_the_page() -> int:
    """Write the files of the page and run its commands in their order; gives the number of commands."""
    commands = 0
    for kind, name, body in re.findall(r"^```(json|console|python) ?(\S*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        if kind == "json":
            Path(name).write_text(body, encoding="utf-8")
        for example in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:] if kind == "console" else ():
            command, _, expected = example.partition("\n")
            program, *arguments = shlex.split(command)
            assert program == "tunesmith"
            assert tunesmith(*arguments).output == expected
            commands += 1
    return commands


def test_the_examples_of_the_page_say_what_it_shows() -> None:
    assert run_the_page() == 5


def test_the_python_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(code, "docs/feedback.md", "exec"), {})
    assert capsys.readouterr().out == "[('rating', Rated(rating=5))]\n"


def test_the_page_names_every_setting() -> None:
    settings = set(FeedbackPreferConfig.model_fields) - {"store", "output_dir", "overwrite"}
    assert {name for name in settings if f"`{name}`" not in PAGE and not re.search(rf"`{name}[ =]", PAGE)} == set()


def test_reward_and_dpo_read_the_pairs_as_the_groups_they_are() -> None:
    run_the_page()
    loaded = load_preferences(PreferenceDataConfig(train="preferences/pairs.jsonl", validation_share=0))
    with FeedbackStore.open("feedback.db") as store:
        groups = prefer(store, PreferConfig()).groups()

    def meaning(group: object) -> object:
        said = [[(m.role, m.content) for m in answer] for answer in group.answers]  # type: ignore[attr-defined]
        pairs = {(str(said[p.better]), str(said[p.worse]), p.weight, p.margin) for p in group.pairs}  # type: ignore[attr-defined]
        return [(m.role, m.content) for m in group.prompt], sorted(pairs)  # type: ignore[attr-defined]

    assert [meaning(group) for group in loaded.train] == [meaning(group) for group in groups]
    assert loaded.contradictions.conflicts == 0
    alone = load_preferences(
        PreferenceDataConfig(train="preferences/unpaired.jsonl", validation_share=0), needs="grades"
    )
    assert [group.ratings for group in alone.train] == [(1.0,)]


def test_json_and_exit_codes() -> None:
    run_the_page()
    report = json.loads(tunesmith("feedback", "prefer", "again", "--store", "feedback.db", "--json").stdout)
    assert (report["pairs"], report["conflicts"], report["singles"]) == (3, 1, 1)
    assert report["files"]["again/pairs.jsonl"] == 3
    kept = json.loads(Path("again/prefer.json").read_text(encoding="utf-8"))
    assert kept["settings"]["rating_weight"] == 0.5 and kept["pairs"] == 3
    done = json.loads(tunesmith("feedback", "import", "ratings.jsonl", "--store", "feedback.db", "--json").stdout)
    assert (done["kinds"], done["already_there"]) == ({}, 2)
    files = json.loads(tunesmith("feedback", "export", "out", "--store", "feedback.db", "--json").stdout)["files"]
    assert files["out/candidates.jsonl"] == 3
    refused = tunesmith("feedback", "prefer", "again", "--store", "feedback.db")
    assert (refused.exit_code, refused.stdout) == (2, "") and "the file exists" in refused.stderr
    assert tunesmith("feedback", "prefer", "again", "--store", "feedback.db", "--overwrite").exit_code == 0


def test_overwriting_leaves_no_file_of_the_earlier_call() -> None:
    run_the_page()
    done = tunesmith("feedback", "prefer", "preferences", "--store", "feedback.db", "ranking_weight=0", "--overwrite")
    assert done.exit_code == 0 and not Path("preferences/conflicts.jsonl").exists()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("feedback prefer out --store gone.db", "gone.db: there is no feedback store."),
        ("feedback prefer out --store rows.jsonl", "rows.jsonl: is no SQLite file."),
        ("feedback prefer out --store empty.db", "empty.db: the store holds no judgement that stands."),
        ("feedback prefer out --store empty.db rating_wait=1", "unknown key. Fix: Did you mean 'rating_weight'?"),
        ("feedback import gone.jsonl --store x.db", "gone.jsonl: no such file or folder."),
        ("feedback import rows.jsonl --store x.db --shape opinion", "--shape: 'opinion' is not known."),
        ("feedback import rows.jsonl --store x.db --on-bad-row ignore", "--on-bad-row: 'ignore' is not known."),
        ("feedback import rows.jsonl --store x.db --question note", "--question note: is not understood."),
        ("feedback import rows.jsonl --store x.db", "rows.jsonl: 40 faults in 40 rows; nothing was imported."),
        ("feedback export out --store gone.db", "gone.db: there is no feedback store."),
    ],
)
def test_wrong_calls_end_in_one_paragraph(command: str, says: str) -> None:
    Path("rows.jsonl").write_text('{"text": "no feedback at all"}\n' * 40, encoding="utf-8")
    FeedbackStore.open("empty.db", create=True).close()
    done = tunesmith(*shlex.split(command))
    assert done.exit_code == 2
    assert says in done.stderr and "Traceback" not in done.output
    assert {path.name for path in Path().iterdir()} == {"rows.jsonl", "empty.db"}, "a refused import leaves no store"


def test_a_first_import_gives_way_to_a_store_made_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.recipes import feedback_transfer as module

    def slowly(store: Any, *rest: Any) -> Any:
        if store.path.name != "x.db":
            with FeedbackStore.open("x.db", create=True) as other:
                other.add_prompt([Message(role="user", content="theirs")])
        return import_files(store, *rest)

    monkeypatch.setattr(module, "import_files", slowly)
    Path("rows.jsonl").write_text('{"prompt": "ours", "completion": "yes", "label": true}\n', encoding="utf-8")
    assert tunesmith("feedback", "import", "rows.jsonl", "--store", "x.db").exit_code == 0
    with FeedbackStore.open("x.db") as store:
        assert {prompt.messages[0].content for prompt in store.prompts()} == {"theirs", "ours"}
    assert {path.name for path in Path().iterdir()} == {"rows.jsonl", "x.db"}


def test_no_pair_says_why_and_what_to_do() -> None:
    rows = [
        {"prompt": "Hi", "completion": "Hello.", "label": True},
        {"prompt": "Bye", "completion": "Go.", "rating": 3},
        {"prompt": "Bye", "completion": "See you!", "rating": 3},
    ]
    for name, some in (("thumbs.jsonl", rows[:1]), ("ratings.jsonl", rows[1:])):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    assert tunesmith("feedback", "import", "ratings.jsonl", "--store", "even.db").exit_code == 0
    said = tunesmith("feedback", "prefer", "even", "--store", "even.db").stdout
    assert "no pair: no two answers of one prompt stand in an order" in said
    assert "next: tunesmith feedback label --store even.db" in said and "dpo" not in said
    assert tunesmith("feedback", "import", "thumbs.jsonl", "--store", "one.db").exit_code == 0
    said = tunesmith("feedback", "prefer", "one", "--store", "one.db").stdout
    assert "next: tunesmith dpo recipes/kto.yaml data.train=one/unpaired.jsonl" in said
    assert "or: tunesmith feedback label --store one.db" in said


def test_a_column_of_a_file_cannot_act_on_the_terminal() -> None:
    from tunesmith.feedback.transfer import Imported
    from tunesmith.recipes.feedback_transfer import describe_import

    done = Imported(files=["rows.jsonl"], ignored_columns=["\x1b[2Jcleared"])
    assert "not carried: \\x1b[2Jcleared" in describe_import(done, Path("feedback.db"))


@pytest.mark.parametrize("verb", ["sample", "label", "agreement", "import", "export", "prefer"])
def test_every_verb_names_its_store_the_same_way(verb: str) -> None:
    assert "--store" in tunesmith("feedback", verb, "--help").stdout
