"""`data mix`, plan and sft over a mixture, and the instructions experiment, on a tiny model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.data.examples.mixture_tasks import FOLDER

ROOT = Path(__file__).parents[2]
MIXTURE = FOLDER / "mixture.yaml"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def tiny(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """The tiny model with room for a chat, its tokens being letters."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for path in model_folder("llama").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    return folder


def test_mix_writes_rows_with_lineage_that_read_back_as_they_were(tmp_path: Path, tiny: Path) -> None:
    from tunesmith.data.load import DataConfig, load_data

    out, held = tmp_path / "mixed.jsonl", tmp_path / "held.jsonl"
    done = run("data", "mix", MIXTURE, out, "--limit", "50", "--validation", held, "--model", tiny)
    assert done.exit_code == 0, done.output
    for piece in (
        "sentiment",
        "held out",
        "few-shot",
        "tokens",
        f"wrote {out}: 50 rows",
        f"data.validation={held}",
    ):
        assert piece in done.output
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["mixture"]["index"] for row in written] == list(range(50))
    mixed = load_data(DataConfig(train=str(MIXTURE), limit=50))
    again = load_data(DataConfig(train=str(out), validation_share=0))
    assert [record.messages for record in again.train] == [record.messages for record in mixed.train]
    for row in written:
        file, _, line = row["mixture"]["source"].rpartition(":")
        source = json.loads(Path(file).read_text().splitlines()[int(line) - 1])
        assert any(str(value) in row["messages"][-1]["content"] for value in source.values())
    assert len(held.read_text().splitlines()) == len(load_data(DataConfig(train=str(MIXTURE))).validation)
    as_json = json.loads(
        run("data", "mix", MIXTURE, out, "--limit", "50", "--overwrite", "--model", tiny, "--json").output
    )
    assert sum(task["examples"] for task in as_json["tasks"]) == 50 and as_json["files"] == {str(out): 50}
    assert sum(task["tokens"] for task in as_json["tasks"]) > 5000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere.yaml", "x.jsonl"), "no such mixture"),
        (("README.md", "x.jsonl"), "is no mixture"),
        ((str(MIXTURE), "README.md"), "written as .jsonl"),
        ((str(MIXTURE), "x.csv"), "written as .jsonl"),
        ((str(MIXTURE), "no/folder/x.jsonl"), "is not there"),
        ((str(MIXTURE), "x.jsonl", "--validation", "x.jsonl"), "Name two files"),
        ((str(MIXTURE), "x.jsonl", "--validation", "docs/../x.jsonl"), "Name two files"),
    ],
)
def test_mix_with_wrong_files(arguments: tuple[str, ...], says: str) -> None:
    done = run("data", "mix", *arguments)
    assert done.exit_code == 2 and says in done.stderr and "Fix:" in done.stderr


@pytest.mark.parametrize("place", ["rows.jsonl", "far/test.jsonl"])
def test_mix_never_overwrites_what_it_reads(tmp_path: Path, place: str) -> None:
    (tmp_path / "far").mkdir()
    rows = "".join(json.dumps({"q": f"q{i}", "a": f"a{i}"}) + "\n" for i in range(9))
    for name in ("rows.jsonl", "far/test.jsonl"):
        (tmp_path / name).write_text(rows)
    task = {
        "name": "t",
        "source": "rows.jsonl",
        "test": "far",
        "templates": [{"input": "{{ q }}", "target": "{{ a }}"}],
    }
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({"tasks": [task]}))
    out = tmp_path / place
    done = run("data", "mix", tmp_path / "m.yaml", out, "--overwrite")
    assert done.exit_code == 2 and "is a file that the mixture reads" in done.stderr and out.read_text() == rows
    assert run("data", "mix", tmp_path / "m.yaml", tmp_path / "far/new.jsonl").exit_code == 0
    assert not Path("x.jsonl").exists()


def test_a_failing_row_leaves_no_file(tmp_path: Path) -> None:
    tree = yaml.safe_load(MIXTURE.read_text())
    tree["tasks"][0]["templates"][0]["input"] = "{{ revue }}"
    for task in tree["tasks"]:
        task["source"] = str(FOLDER / task["source"])
        task.pop("test", None)
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(tree))
    done = run("data", "mix", tmp_path / "bad.yaml", tmp_path / "out.jsonl")
    assert done.exit_code == 2 and "reads the field 'revue'" in done.stderr and "200 of" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def recipe(tmp_path: Path, model: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model_name_or_path: {model}\noutput_dir: {tmp_path / 'run'}\ndtype: float32\nmicro_batch_tokens: 4096\n"
        f"data:\n  train: {MIXTURE}\n  limit: 24\n  validation_limit: 6\nadapter:\n  r: 4\nlearning_rate: 1.0e-3\n"
    )
    return path


@pytest.mark.slow
def test_plan_and_sft_report_rows_and_tokens_a_task(tmp_path: Path, tiny: Path) -> None:
    path = recipe(tmp_path, tiny)
    plan = json.loads(run("plan", path, "--json").output)
    tasks = plan["rows"]["tasks"]
    assert plan["rows"]["shape"] == "mixture" and sum(task["examples"] for task in tasks) == 24
    assert sum(task["tokens"] for task in tasks) == plan["training"]["tokens"]
    assert "booking_code" in run("plan", path).output
    assert run("sft", path).exit_code == 0
    noted = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert noted["tasks"] == tasks and noted["digest"] == plan["rows"]["digest"]


@pytest.mark.slow
def test_instructions_experiment_end_to_end(tmp_path: Path, tiny: Path) -> None:
    out = tmp_path / "experiment"
    command = ("experiment", "instructions", recipe(tmp_path, tiny), "--rows", "2", "--output-dir", out, "--json")
    done = run(*command)
    assert done.exit_code == 0, done.output
    result = json.loads(done.output.splitlines()[-1])
    entries = {entry["task"]: entry for entry in result["metrics"]["exact"]}
    assert entries["all seen tasks"]["rows"] == 12 and entries["all held-out tasks"]["rows"] == 6
    for entry in entries.values():
        for label, test in entry["tests"].items():
            assert test["holm_p"] >= test["p"] and 0 <= entry[label][1] <= entry[label][2] <= 1
    assert json.loads((out / "results.json").read_text())["metrics"] == result["metrics"]
    page = (out / "report.html").read_text()
    assert "all held-out tasks *" in page and "booking_code: asked" in page
    # The arms saw the same rows in the same order, worded differently, and can be trained again from their files.
    from tunesmith.data.load import DataConfig, load_data

    arms = {name: load_data(DataConfig(train=str(out / f"{name}.yaml"), validation_share=0)).train for name in (
        "instructions", "task_name", "bare")}  # fmt: skip
    drawn = {name: [(d.task.name, d.row_id) for d in map(arm.draw, range(24))] for name, arm in arms.items()}  # type: ignore[union-attr]
    assert drawn["instructions"] == drawn["task_name"] == drawn["bare"]
    asked = {name: [record.messages[0].content for record in arm[:24]] for name, arm in arms.items()}  # type: ignore[union-attr]
    targets = {name: [record.messages[-1].content for record in arm[:24]] for name, arm in arms.items()}  # type: ignore[union-attr]
    assert targets["instructions"] == targets["task_name"] == targets["bare"]
    for bare, named, instructed in zip(asked["bare"], asked["task_name"], asked["instructions"], strict=True):
        assert named.endswith(bare) and named.startswith("[") and instructed not in (bare, named)


def test_an_experiment_needs_a_mixture_with_held_out_tasks(tmp_path: Path) -> None:
    done = run("experiment", "instructions", ROOT / "recipes" / "chat.yaml", "--output-dir", tmp_path / "x")
    assert done.exit_code == 2 and "is no mixture" in done.stderr
    tree = yaml.safe_load(MIXTURE.read_text())
    tree["held_out"] = []
    for task in tree["tasks"]:
        task["source"] = str(FOLDER / task["source"])
        task.pop("test", None)
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(tree))
    done = run(
        "experiment", "instructions", ROOT / "recipes" / "mixture.yaml", f"data.train={tmp_path / 'all.yaml'}",
        "--output-dir", tmp_path / "x",
    )  # fmt: skip
    assert done.exit_code == 2 and "names no task to measure on" in done.stderr


def test_the_page_shows_what_is_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "mixtures.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w*)\n(.*?)```", page, re.DOTALL)
    # The file of the page is a mixture, and reads the rows it describes.
    (tmp_path / "tasks.yaml").write_text(next(text for kind, text in blocks if kind == "yaml"))
    moods = [{"text": f"It was {i}.", "comment": f"Stay {i}.", "label": "good" if i % 2 else "bad"} for i in range(30)]
    sums = [{"question": f"{i} + 1?", "answer": str(i + 1), "why": f"{i + 1} follows {i}."} for i in range(20)]
    for name, rows in (("reviews", moods), ("hotel", moods), ("sums", sums)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("data", "mix", tmp_path / "tasks.yaml", tmp_path / "out.jsonl")
    assert done.exit_code == 0, done.output
    # The table of the page is what the verb prints, tokens aside: they are another tokenizer's.
    monkeypatch.chdir(ROOT)
    shipped = "src/tunesmith/data/examples/mixture/mixture.yaml"
    assert f"tunesmith data mix {shipped} mixed.jsonl --model smollm2-135m-instruct" in page
    printed = run("data", "mix", shipped, tmp_path / "mixed.jsonl").output.splitlines()[:10]
    table = next(text for _, text in blocks if text.startswith("task ")).splitlines()
    without_tokens = [
        " ".join(re.sub(r"(\d\.\d\d +)\d+ ", r"\1", line).replace("tokens", "").split()) for line in table
    ]
    for line, expected in zip(printed, without_tokens, strict=False):
        assert " ".join(line.split()).replace(" -", "") == expected.replace(" -", "")


def test_every_number_stands_under_its_own_heading() -> None:
    from tunesmith.recipes.instructions import CONDITIONS, SUBJECT, _cells, _columns

    # As they were measured, which is another order than they are shown in.
    labels = [SUBJECT, *reversed([label for label in CONDITIONS if label != SUBJECT])]
    entry: dict[str, Any] = {"task": "t", "held_out": True, "rows": 9, "tests": {}}
    for number, label in enumerate(labels, 1):
        entry[label] = [number / 100, 0, 1]
        if label != SUBJECT:
            entry["tests"][label] = {"only_it": number, "only_instructions": 0, "p": 0.5, "holm_p": 0.5}
    shown = dict(zip(_columns(), _cells(entry), strict=True))
    for number, label in enumerate(labels, 1):
        assert shown[label].startswith(f"{number} % ")
        assert label == SUBJECT or shown[f"p against {label}"] == f"0.5 ({number} : 0)"
