"""The loop with a writer that speaks from a script: exact rows, nothing lost or asked twice, resume after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bootstrap_writers import EndlessWriter, ScriptedWriter, write_seeds

from tunesmith.errors import RunError
from tunesmith.recipes.bootstrap import make_rows
from tunesmith.recipes.bootstrap_ask import Asker
from tunesmith.recipes.bootstrap_config import BootstrapConfig
from tunesmith.recipes.bootstrap_show import last_lines, make_report
from tunesmith.recipes.bootstrap_stages import Made
from tunesmith.reports.bootstrap import draw_diversity
from tunesmith.rollout.writer import Writer

SCRIPT: dict[tuple[str, int], Any] = {
    ("instruction", 0): "Task: List three trees of the country.",
    ("instruction", 1): "Describe the picture.",
    ("instruction", 2): "List three trees of the land.",
    ("instruction", 3): ("Tell a story that never", "length"),
    ("instruction", 4): "Judge whether the review is good or bad.",
    ("instruction", 5): "Explain how bread is made.",
    ("classification", 0): "No",
    ("classification", 4): "Yes, it is",
    ("classification", 5): "Hm",
    (
        "instance",
        0,
    ): "Input: Chile\nOutput: Lenga, coihue, alerce.\nInput: Chile\nOutput: Lenga\nInput: Iran\nOutput: Oak",
    ("instance", 4): "Label: good\nInput: I loved it.\nLabel: bad\nInput: A waste.\nLabel: good\nInput: Fine!",
    ("instance", 5): "One mixes flour and water.",
}


def config(tmp_path: Path, writer: Writer, **changes: Any) -> BootstrapConfig:
    settings = {"num": 3, "requests_at_once": 6, "max_idle_requests": 6, "max_instances": 5, "num_shown": 4} | changes
    return BootstrapConfig(
        seeds=write_seeds(tmp_path),
        output_dir=str(tmp_path / "out"),
        writer=dict(writer.identity),
        **settings,
    )


def run(tmp_path: Path, writer: Writer, **changes: Any) -> tuple[Made, Asker]:
    with make_rows(config(tmp_path, writer, **changes), writer) as (made, asker, _):
        return made, asker


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_and_reasons_are_exactly_these(tmp_path: Path) -> None:
    writer = ScriptedWriter(SCRIPT)
    run(tmp_path, writer)
    rows = lines(tmp_path / "out" / "data.jsonl")
    assert [(row["id"], row["instruction"], row["input"], row["output"]) for row in rows] == [
        ("made_000000_0", "List three trees of the country.", "Iran", "Oak"),
        ("made_000004_0", "Judge whether the review is good or bad.", "I loved it.", "good"),
        ("made_000004_1", "Judge whether the review is good or bad.", "A waste.", "bad"),
    ]
    lineage = rows[1]["lineage"]
    keys = {(row["stage"], row["step"]): row["key"] for row in lines(tmp_path / "out" / "requests.jsonl")}
    assert sorted(lineage.pop("shown")) == ["s0", "s1", "s2", "s3"]
    assert lineage == {
        "step": 4,
        "is_classification": True,
        "kind_by": "writer",
        "requests": {"instruction": keys["instruction", 4], "instance": keys["instance", 4]},
        # "the ... is" of "Say whether the sentence is a question.": whether, the, is.
        "nearest": {"id": "s3", "rouge_l": round(2 * 3 / (8 + 7), 4)},
        "writer": dict(writer.identity),
    }
    rejected = lines(tmp_path / "out" / "rejected.jsonl")
    assert [(row["stage"], row["step"], row["reason"], row.get("output")) for row in rejected] == [
        ("instruction", 1, "blocked_word", None),
        ("instruction", 2, "similar", None),
        ("instruction", 3, "cut_off", None),
        ("instance", 5, "unparseable", None),
        ("instance", 0, "conflict", "Lenga, coihue, alerce."),
        ("instance", 0, "conflict", "Lenga"),
        ("instance", 4, "beyond_num", "good"),
    ]
    # Five of six and of six words in order.
    assert rejected[1]["nearest"] == {"id": "made_000000", "rouge_l": round(10 / 12, 4)}
    assert rejected[3]["answer"] == SCRIPT["instance", 5]


def test_more_rows_are_asked_for_later_and_nothing_twice(tmp_path: Path) -> None:
    run(tmp_path, ScriptedWriter(SCRIPT), num=2)
    assert len(lines(tmp_path / "out" / "data.jsonl")) == 2
    again = ScriptedWriter({})
    made, asker = run(tmp_path, again, num=3)
    assert again.asked == [] and asker.num_asked.total() == 0 and asker.num_found.total() == 12
    assert len(made.rows) == 3


def test_it_stops_when_nothing_new_comes(tmp_path: Path) -> None:
    script = {("instruction", step): "Name a river in the given country." for step in range(400)}
    made, _ = run(tmp_path, ScriptedWriter(script), max_idle_requests=20)
    assert (made.stopped, made.rows, len(made.rejected)) == ("idle", [], 24)
    assert (tmp_path / "out" / "data.jsonl").read_text() == ""


def test_the_small_scheme_asks_the_task_itself(tmp_path: Path) -> None:
    script = {
        ("instruction", 0): "List three trees of the country.",
        ("instruction", 1): "Judge whether the review is good or bad.",
        ("instance", 0): "Input: Chile\nand then nothing",
        ("instance", 1): "Label: good\nInput: I loved it.",
        ("answer", 0): "Lenga.",
    }
    writer = ScriptedWriter(script)
    made, _ = run(tmp_path, writer, scheme="small", requests_at_once=2, num=2)
    assert [(row["input"], row["output"]) for row in made.rows] == [
        ("Chile\nand then nothing", "Lenga."),
        ("I loved it.", "good"),
    ]
    assert [m.content for m in writer.seen[-1].messages] == [
        "List three trees of the country.\n\nChile\nand then nothing"
    ]
    assert made.rows[0]["lineage"]["kind_by"] == "rule"


def test_every_answer_is_a_row_or_a_reason(tmp_path: Path) -> None:
    writer = EndlessWriter()
    made, asker = run(tmp_path, writer, num=40, max_idle_requests=100)
    assert made.stopped == "num" and len(made.rows) == 40
    told = {row["lineage"]["requests"]["instruction"] for row in made.rows}
    rejected_by_step = {row["step"] for row in made.rejected}
    instructions = [row for row in lines(tmp_path / "out" / "requests.jsonl") if row["stage"] == "instruction"]
    assert asker.num_asked["instruction"] == len(instructions) == made.num_instruction_requests
    assert [row["step"] for row in instructions if row["key"] not in told and row["step"] not in rejected_by_step] == []
    assert {row["reason"] for row in made.rejected} >= {"blocked_word", "similar", "cut_off", "unparseable"}
    # Machine-made tasks were shown once there were some.
    assert any(name.startswith("made_") for row in made.rows for name in row["lineage"]["shown"])


FILES = ("data.jsonl", "rejected.jsonl")
KILLED = """
import os, signal, sys
from pathlib import Path
from bootstrap_writers import EndlessWriter
from test_bootstrap_loop import run
class Killed(EndlessWriter):
    def fail(self):
        os.kill(os.getpid(), signal.SIGKILL)
run(Path(sys.argv[1]), Killed(fail_after=int(sys.argv[2])), num=30)
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("fail_after", [3, 27, 61])
def test_killed_and_run_again_equals_uninterrupted(tmp_path: Path, fail_after: int) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    run(tmp_path / "whole", EndlessWriter(), num=30)
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(fail_after)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    requests = tmp_path / "killed" / "out" / "requests.jsonl"
    with requests.open("a") as stream:
        stream.write('{"key": "torn", "ans')
    num_kept = len(requests.read_text().splitlines()) - 1
    assert num_kept == fail_after
    writer = EndlessWriter()
    with pytest.warns(UserWarning) as warned:
        _, asker = run(tmp_path / "killed", writer, num=30)
    assert any("cut off" in str(one.message) for one in warned)
    assert asker.num_found.total() == num_kept
    for name in FILES:
        assert (tmp_path / "killed" / "out" / name).read_bytes() == (tmp_path / "whole" / "out" / name).read_bytes()


def test_ctrl_c_keeps_what_there_is_and_says_how_to_go_on(tmp_path: Path) -> None:
    writer = EndlessWriter(fail_after=60)
    settings = config(tmp_path, writer, num=30)
    with make_rows(settings, writer) as (made, asker, seeds):
        facts = make_report(settings, made, asker, seeds, 1.0)
    assert made.stopped == "interrupted"
    assert 0 < len(lines(tmp_path / "out" / "data.jsonl")) == len(made.rows) < 30
    assert "the same command goes on" in last_lines(settings, facts)[0]


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path, ScriptedWriter(SCRIPT))
    with pytest.raises(RunError, match=r"other settings \(temperature\)"):
        run(tmp_path, ScriptedWriter(SCRIPT), temperature=0.1)
    write_seeds(tmp_path)
    run(tmp_path, ScriptedWriter(SCRIPT))


def test_the_report_counts_what_the_files_hold(tmp_path: Path) -> None:
    writer = ScriptedWriter(SCRIPT)
    settings = config(tmp_path, writer)
    with make_rows(settings, writer) as (made, asker, seeds):
        facts = make_report(settings, made, asker, seeds, 1.0)
    assert facts == json.loads((tmp_path / "out" / "report.json").read_text())
    assert facts["yield"]["instruction"] == {
        "answers": 6,
        "rejected": {"blocked_word": 1, "cut_off": 1, "similar": 1},
    }
    assert facts["yield"]["instance"]["rejected"] == {"conflict": 2, "beyond_num": 1, "unparseable": 1}
    assert facts["kinds"]["unreadable_answers"] == 1
    assert facts["kinds"]["rule_agrees_with_seeds"] == "3 of 4"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "List three trees of the country." in page and "unparseable" in page and "data:image/png" in page
    assert (tmp_path / "out" / "diversity.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_takes_words_of_any_script(tmp_path: Path) -> None:
    words = {"写 诗": 2, "$x$ _y": 1, "\u0000": 1, "": 1}
    facts = {
        "rouge_l_to_nearest_seed": {"counts": [0, 2, 0], "bin_width": 0.1},
        "first_words": words,
        "num_first_words": len(words),
    }
    draw_diversity(tmp_path / "p.png", facts)
    assert (tmp_path / "p.png").stat().st_size > 2000
