"""``tunesmith data bootstrap`` as a user calls it: a server, wrong options, the next command, the docs' examples."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.data.load import DataConfig, load_data
from tunesmith.randomness import generator

DOCS = Path(__file__).parents[2] / "docs" / "data-bootstrap.md"
KEY = "sk-very-secret-2"
THINGS = ("river", "poem", "price", "letter", "bird", "rule", "city", "recipe", "dream", "tower", "storm", "coin")
SEEDS = [
    {"instruction": "Name a river in the given country.", "input": "Germany", "output": "The Elbe."},
    {"instruction": "Write a greeting.", "input": "", "output": "Good morning!"},
    {"instruction": "Classify the sentence as question or statement.", "input": "Who is it?", "output": "question"},
]


def answer_to(body: dict[str, Any]) -> str:
    """A chat model that is well behaved; what it says depends on the request alone."""
    asked = body["messages"][-1]["content"]
    rng = generator(0, "server", json.dumps(body))
    words = [str(rng.choice(THINGS)) for _ in range(4)]
    if "Answer yes or no" in asked:
        return "No"
    if "Write an example" in asked:
        return f"Input: {words[0]}\nOutput: {words[1]} {words[2]}"
    return f"Task: {words[0]} {words[1]} {words[2]} {words[3]} <b>"


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    bodies: list[dict[str, Any]] = []
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append(body)
            if body["model"] == "hang":
                over.wait(120)
            choice = {"message": {"role": "assistant", "content": answer_to(body)}, "finish_reason": "stop"}
            data = json.dumps({"choices": [choice], "usage": {"completion_tokens": 5}}).encode()
            self.send_response(200 if body["model"] == "m" else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1", bodies
    over.set()
    http.shutdown()
    http.server_close()


@pytest.fixture
def seeds(tmp_path: Path) -> str:
    path = tmp_path / "seeds.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in SEEDS))
    return str(path)


def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["data", "bootstrap", *words])


def test_rows_come_from_an_endpoint_and_are_paid_once(
    tmp_path: Path, seeds: str, server: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_API_KEY", KEY)
    url, bodies = server
    out = tmp_path / "rows"
    words = [seeds, "--num", "12", "--endpoint", url, "--endpoint-model", "m", "--output", str(out)]
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert "12 of 12 rows." in done.stdout and "next: read some rows" in done.stdout
    num_paid, first = len(bodies), (out / "data.jsonl").read_bytes()
    again = call(*words, "--json")
    assert again.exit_code == 0
    facts = json.loads(again.stdout)
    assert len(bodies) == num_paid == sum(facts["requests"]["found"].values())
    assert facts["requests"]["asked"] == {} and facts["rows"] == 12
    assert (out / "data.jsonl").read_bytes() == first
    assert {path.name for path in out.iterdir()} == {
        "data.jsonl", "rejected.jsonl", "requests.jsonl", "report.json", "report.html", "diversity.png", "recipe.yaml",
        "run.json",
    }  # fmt: skip
    assert not any(KEY.encode() in path.read_bytes() for path in out.iterdir())
    assert b"<b>" not in (out / "report.html").read_bytes()
    # What `tunesmith sft` reads: the next command is true.
    data = load_data(DataConfig(train=str(out / "data.jsonl"), validation_share=0.0))
    assert data.shape == "alpaca" and len(data.train) == 12 and data.ignored_columns == ["id", "lineage"]


def test_an_error_of_the_server_keeps_what_was_answered(
    tmp_path: Path, seeds: str, server: tuple[str, list[dict[str, Any]]]
) -> None:
    url, _ = server
    done = call(seeds, "--num", "3", "--endpoint", url, "--endpoint-model", "other", "--output", str(tmp_path / "rows"))
    assert done.exit_code == 2
    assert "status 404" in done.stderr and "the same command goes on" in done.stderr and "Traceback" not in done.output
    assert (tmp_path / "rows" / "data.jsonl").read_text() == ""


INTERRUPTED = """
import signal, sys
from tunesmith.cli.main import app
# A job in the background inherits that the signal is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
app(["data", "bootstrap", *sys.argv[1:]])
"""


def test_ctrl_c_does_not_wait_for_a_server_that_hangs(
    tmp_path: Path, seeds: str, server: tuple[str, list[dict[str, Any]]]
) -> None:
    url, bodies = server
    words = [seeds, "--endpoint", url, "--endpoint-model", "hang", "--output", str(tmp_path / "rows")]
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while len(bodies) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "the same command goes on" in said
    assert len(bodies) == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--endpoint", "http://localhost:1/v1"], "needs --endpoint-model"),
        (["--endpoint-model", "m"], "needs --endpoint."),
        (["--endpoint", "http://x/v1", "--endpoint-model", "m", "--model", "y"], "cannot go with --model"),
        (["--endpoint", "file:///etc/passwd", "--endpoint-model", "m"], "not an http or https address"),
        (["--scheme", "large"], "scheme"),
    ],
)
def test_wrong_options_are_told_before_anything_is_written(
    tmp_path: Path, seeds: str, words: list[str], says: str
) -> None:
    done = call(seeds, "--output", str(tmp_path / "rows"), *words)
    assert done.exit_code == 2
    assert says in done.stderr
    assert not (tmp_path / "rows").exists()


def test_wrong_seeds_are_told_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text('{"instruction": "Name a river.", "input": "", "output": ""}\n')
    done = call(str(path), "--output", str(tmp_path / "rows"))
    assert done.exit_code == 2
    assert f"{path}:1:output: the text is empty" in done.stderr
    assert call(str(tmp_path / "none.jsonl"), "--output", str(tmp_path / "rows")).exit_code == 2


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from tunesmith.cli.main import app\n"
        "try: app(['data', 'bootstrap', '--help'])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert "Example: tunesmith data bootstrap" in done.stdout


def test_the_examples_of_the_docs_are_commands_that_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = DOCS.read_text(encoding="utf-8").replace("\\\n", " ")
    examples = re.findall(r"^tunesmith (data bootstrap .*)$", text, re.MULTILINE)
    assert len(examples) >= 3
    monkeypatch.chdir(tmp_path)
    for example in examples:
        # The seeds are absent here: that is what each must stop at, not at a word it does not know.
        done = CliRunner().invoke(app, example.split("#")[0].split())
        assert done.exit_code == 2
        assert "no such file" in done.stderr, (example, done.output)
