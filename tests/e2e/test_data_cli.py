"""The data verbs as a user calls them: outputs, files, exit codes, wrong calls, and every example of their pages."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tunesmith.cli.main import app

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "src/tunesmith/data/examples/hospital_reports.jsonl"


def call(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["data", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def clean(count: int) -> list[Any]:
    draws = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
    return [
        {"prompt": f"{draws[i % 10]} {draws[i // 10]}?", "completion": f"{draws[i // 10]} it is"} for i in range(count)
    ]


def test_exit_codes_tell_clean_from_warnings_from_faults(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", clean(6))
    assert call("check", path)[0] == 0
    code, out, _ = call("check", write(tmp_path / "b.jsonl", [*clean(6), clean(1)[0]]))
    assert code == 1 and "1 rows are exact copies" in out and "result: warnings (exit code 1)" in out
    code, out, _ = call("check", write(tmp_path / "c.jsonl", [*clean(6), "{broken"]))
    assert code == 2 and f"{tmp_path}/c.jsonl:7" in out and "result: faults (exit code 2)" in out
    code, out, err = call("check", str(tmp_path / "none.jsonl"))
    assert code == 2 and "result" not in out and "error: " in err
    code, _, err = call("check", path, "--near-threshold", "7")
    assert code == 2 and "near_threshold" in err
    code, _, err = call("check", path, "--drop-duplicates")
    assert code == 2 and "--fix" in err


def test_the_example_shows_what_the_check_is_for(tmp_path: Path) -> None:
    code, out, _ = call("check", str(EXAMPLE), "--json", "--output-dir", str(tmp_path / "out"))
    report = json.loads(out)
    assert code == report["exit_code"] == 2
    assert report["faults"][0]["places"] == [f"{EXAMPLE}:13:completion"]
    assert (report["duplicates"]["num_copies"], report["duplicates"]["num_near"]) == (1, 1)
    assert {kind: found["count"] for kind, found in report["pii"].items()} == {
        "record": 16, "date": 5, "address": 2, "email": 2, "phone": 4, "id": 1, "card": 1, "iban": 1,
    }  # fmt: skip
    assert len(report["odd_characters"]) == 2 and report["classes"] == {}
    assert not report["names_looked_for"]
    assert (tmp_path / "out/lengths.png").exists()
    assert json.loads((tmp_path / "out/check.json").read_text())["rows"] == 13


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--picture", "rows.jsonl"), "ends in .png"),
        (("--picture", "made.png"), "is there already"),
        (("--fix", "made.jsonl"), "is there already"),
        (("--fix", "new.jsonl", "--redact", "./new.jsonl"), "as fix does"),
        (("--fix", "new.jsonl", "--redact", "new.jsonl.rejected.jsonl", "--overwrite"), "as redact does"),
        (("--redact", "valid.jsonl", "--valid", "valid.jsonl", "--overwrite"), "is the file that is read"),
        (("--fix", "new.jsonl", "--valid", "new.jsonl.rejected.jsonl", "--overwrite"), "is the file that is read"),
        (("--output-dir", "made.jsonl"), "cannot be made"),
    ],
)
def test_nothing_that_is_there_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("rows.jsonl", "valid.jsonl", "made.jsonl", "made.png", "new.jsonl.rejected.jsonl")
    before = {name: write(tmp_path / name, clean(5)) for name in names}
    texts = {name: Path(path).read_bytes() for name, path in before.items()}
    code, out, err = call("check", "rows.jsonl", "--no-near", *options)
    assert code == 2 and says in err and not out
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == texts


def test_a_report_never_takes_the_place_of_its_rows(tmp_path: Path) -> None:
    (tmp_path / "check.json").write_text(json.dumps(clean(5)))
    code, _, err = call("check", str(tmp_path / "check.json"), "--no-near", "--output-dir", str(tmp_path))
    assert code == 2 and "is the file that is read" in err
    assert json.loads((tmp_path / "check.json").read_text()) == clean(5)


def test_fix_and_redact_then_check_again(tmp_path: Path) -> None:
    fixed, redacted = str(tmp_path / "fixed.jsonl"), str(tmp_path / "redacted.jsonl")
    code, out, _ = call("check", str(EXAMPLE), "--fix", fixed, "--drop-duplicates")
    assert code == 2 and "11 rows pass, 2 do not" in out
    rejected = [json.loads(line) for line in Path(f"{fixed}.rejected.jsonl").read_text().splitlines()]
    assert [row["cause"] for row in rejected] == ["the row is a copy of an earlier one.", "the text is empty."]
    code, out, _ = call("check", fixed, "--redact", redacted, "--json")
    assert code == 1 and json.loads(out)["counts"]["redacted"]["email"] == 1
    text = Path(redacted).read_text()
    assert "jane.doe" not in text and "555-0132" not in text and "4111" not in text
    assert text.count("[EMAIL_1]") == 2 and text.count("[PHONE_1]") == 3
    assert json.loads(call("check", redacted, "--json")[1])["pii"] == {}


def test_tokens_of_a_model_and_rows_it_cannot_take(tmp_path: Path, model_folder: Callable[[str], Path]) -> None:
    rows = [*clean(8), {"prompt": "long", "completion": "x" * 300}]
    path = write(tmp_path / "a.jsonl", rows)
    code, out, _ = call(
        "check", path, "--model", str(model_folder("llama")), "--json", "--fix", str(tmp_path / "f.jsonl")
    )
    report = json.loads(out)
    assert code == 2 and report["faults"][0]["cause"] == "the row is longer than 256 tokens."
    assert report["tokens"]["rows"] == 8 and report["tokens"]["end_of_turn_share"] == 1.0
    assert report["lengths"]["unit"] == "tokens" and report["lengths"]["max"] > 256
    assert len((tmp_path / "f.jsonl").read_text().splitlines()) == 8
    assert "longer than" in (tmp_path / "f.jsonl.rejected.jsonl").read_text()


def test_a_folders_own_validation_file_is_compared(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", clean(8))
    write(tmp_path / "valid.jsonl", clean(9)[7:])
    report = json.loads(call("check", str(tmp_path), "--json")[1])
    assert report["duplicates"]["num_leaks"] == 1
    assert report["duplicates"]["leaks"] == [[f"{tmp_path}/valid.jsonl:1", f"{tmp_path}/train.jsonl:8"]]


def test_unbalanced_classes_are_warned_of(tmp_path: Path) -> None:
    rows = [{"text": f"text number {i} is {i * i}", "label": "spam" if i % 10 == 0 else "ham"} for i in range(100)]
    report = json.loads(call("check", write(tmp_path / "a.jsonl", rows), "--no-near", "--json")[1])
    assert report["classes"] == {"label": {"ham": 90, "spam": 10}}
    assert "the classes of 'label' are unbalanced." in report["warnings"]
    even = [{**row, "label": "ab"[i % 2]} for i, row in enumerate(rows)]
    assert json.loads(call("check", write(tmp_path / "b.jsonl", even), "--no-near", "--json")[1])["warnings"] == []


def test_split_writes_three_files_and_overwrites_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", clean(40))
    code, out, _ = call("split", path, str(tmp_path / "parts"), "--json")
    assert code == 0
    assert [Path(f).name for f in json.loads(out)["files"]] == ["train.jsonl", "validation.jsonl", "test.jsonl"]
    assert list(json.loads(out)["files"].values()) == [32, 4, 4]
    lines = [line for part in sorted((tmp_path / "parts").iterdir()) for line in part.read_text().splitlines()]
    assert sorted(lines) == sorted(Path(path).read_text().splitlines())
    code, _, err = call("split", path, str(tmp_path / "parts"))
    assert code == 2 and "is there already" in err
    code, _, err = call("split", path, str(tmp_path / "other"), "--group-by", "nobody")
    assert code == 2 and "the column that group_by names is missing" in err and not (tmp_path / "other").exists()
    code, _, err = call("split", path, str(tmp_path / "other"), "--validation", "0.6", "--test", "0.4")
    assert code == 2 and "no row for training" in err


def test_show_in_marks_and_as_json(tmp_path: Path, model_folder: Callable[[str], Path]) -> None:
    model = str(model_folder("llama"))
    path = write(tmp_path / "a.jsonl", clean(5))
    code, out, _ = call("show", path, "-n", "2", "--row", "2", "--model", model)
    assert code == 0 and out.count("⟪") == 3 and f"{path}:2" in out and f"{path}:4" not in out
    assert "\x1b" not in out
    assert len(json.loads(call("show", path, "--model", model, "--json")[1])["rows"]) == 3
    code, _, err = call("show", path, "--row", "6", "--model", model)
    assert code == 2 and "there is no row 6" in err


def test_help_has_an_example_and_needs_no_torch() -> None:
    for verb in ("check", "show", "split"):
        assert f"tunesmith data {verb}" in re.sub(r"\s+", " ", call(verb, "--help")[1])
    code = "import sys, tunesmith.cli.main, tunesmith.recipes.check_text as _; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_ctrl_c_ends_a_check_cleanly(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("w") as stream:
        for i in range(400_000):
            stream.write(f'{{"prompt": "question {i}", "completion": "answer {i}"}}\n')
    command = [
        sys.executable,
        "-m",
        "tunesmith.cli.main",
        "data",
        "check",
        str(path),
        "--fix",
        str(tmp_path / "f.jsonl"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    time.sleep(5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped." in err and "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def examples() -> list[Any]:
    """The commands of the pages, one page after another since a command may use what an earlier one wrote."""
    out = []
    for page in ("data-check", "data-show", "data-split"):
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        commands = re.findall(r"^\$? ?(tunesmith data .*?)(?:  +#.*)?$", text, re.MULTILINE)
        assert commands, page
        out.append(pytest.param(commands, id=page, marks=pytest.mark.slow))
    return out


@pytest.mark.parametrize("commands", examples())
def test_every_example_of_the_pages_runs(commands: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "src").symlink_to(ROOT / "src")
    shared = ROOT.parent / "shared"
    if not shared.exists():
        pytest.skip("../shared/data is absent")
    (tmp_path / "shared").symlink_to(shared)
    monkeypatch.chdir(checkout)
    for command in commands:
        code, _, err = call(*shlex.split(command)[2:])
        assert code in (0, 1, 2) and "error: " not in err, f"{command}: {err}"
