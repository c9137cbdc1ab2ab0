"""The command that is proposed next does what was begun: the same rows, the same settings, in any shell."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.cli.shared import as_called


def test_overrides_are_carried_on_but_for_the_folder_of_a_resumed_run() -> None:
    overrides = ["data.train=my rows.jsonl", "output_dir=runs/a", "overwrite_output_dir=true", "seed=3"]
    planned = as_called(Path("a b.yaml"), overrides, keep_folder=True)
    assert shlex.split(planned) == ["a b.yaml", *overrides]
    assert shlex.split(as_called(Path("r.yaml"), overrides)) == ["r.yaml", "data.train=my rows.jsonl", "seed=3"]
    assert as_called(Path("r.yaml"), None) == "r.yaml"


def test_converted_rows_are_validated_on_themselves(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "o ut.jsonl"
    source.write_text(json.dumps({"prompt": "p", "completion": "c"}) + "\n")
    done = CliRunner().invoke(app, ["data", "convert", str(source), str(out), "--to", "messages"])
    proposed = shlex.split(done.output.rpartition("next: ")[2])
    assert proposed == ["tunesmith", "plan", "recipes/chat.yaml", f"data.train={out}", "data.validation=null"]
