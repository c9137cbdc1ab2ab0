"""``feedback sample``, ``label`` and ``agreement`` as a user calls them: a server, a terminal, the docs' examples."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.feedback.judgements import Compared, Edited, Flagged, Rated
from tunesmith.feedback.queue import plan_queue
from tunesmith.feedback.store import FeedbackStore
from tunesmith.randomness import generator
from tunesmith.records import Message

ROOT = Path(__file__).parents[2]
KEY = "sk-very-secret-3"


def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["feedback", *words])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "f.db"
    with FeedbackStore.open(path, create=True) as held:
        for p in range(6):
            prompt = held.add_prompt([Message(role="user", content=f"prompt {p}")])
            for c in range(2):
                held.add_candidate(prompt, f"answer {c} to {p}\x1b[31m")
    return path


# Label ----------------------------------------------------------------------------------------------------------------


class Terminal:
    """The real command on a pseudo terminal; ``until`` reads what it shows."""

    def __init__(self, *words: str, **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(self.master)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tunesmith.cli.main", "feedback", "label", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: _take_terminal(slave),
            env={**{k: v for k, v in os.environ.items() if k not in ("VISUAL", "EDITOR")}, **environment},
        )
        os.close(slave)
        self.shown = ""

    def until(self, text: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} was not shown, but {self.shown!r}"
            try:
                self.shown += os.read(self.master, 4096).decode()
            except OSError:
                raise AssertionError(f"the command ended: {self.shown!r}") from None
        self.shown = self.shown.partition(text)[2]

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def end(self) -> int:
        after = termios.tcgetattr(self.master)
        code = self.process.wait(60)
        assert after[3] & termios.ICANON and after[3] & termios.ECHO, "the terminal is as it was"
        os.close(self.master)
        return code


def _take_terminal(descriptor: int) -> None:
    import fcntl

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


def test_labelling_on_a_terminal(store: Path) -> None:
    terminal = Terminal("--store", str(store), "--annotator", "anna", "--kind", "comparison", "--repeat-share", "0")
    terminal.until("comparison 1 of 6")
    terminal.until("\\x1b[31m")
    terminal.press("a")
    terminal.until("comparison 2 of 6, anna: 1 judged now")
    terminal.press("\x1b[A")
    terminal.until("is no key here.")
    terminal.press("u")
    terminal.until("undone; judge it again.")
    terminal.press("bt")
    terminal.until("comparison 3 of 6")
    terminal.press("\x03")
    terminal.until("2 judged and saved")
    terminal.until("next:  tunesmith feedback label --store")
    assert terminal.end() == 0
    with FeedbackStore.open(store) as held:
        assert [one.value for one in held.judgements()] == [Compared("B"), Compared("tie")]
        assert held.counts().withdrawn == 1
        asked = plan_queue(held, "comparison", "anna", repeat_share=0)
        assert [tuple(c.id for c in item.candidates) for item in asked[:2]] == [j.candidates for j in held.judgements()]


def test_killing_the_labeller_loses_nothing(store: Path) -> None:
    terminal = Terminal("--store", str(store), "--annotator", "anna", "--kind", "rating")
    terminal.until("rating 1 of")
    terminal.press("54")
    terminal.until("2 judged now")
    terminal.process.send_signal(signal.SIGKILL)
    terminal.process.wait(60)
    with FeedbackStore.open(store) as held:
        assert [one.value for one in held.judgements()] == [Rated(5), Rated(4)]


def test_the_editor_gets_the_terminal_and_its_text_is_kept(store: Path, tmp_path: Path) -> None:
    script = tmp_path / "editor.py"
    script.write_text("import sys\nopen(sys.argv[1], 'a').write(' ' + input('more? ') + '\\n')\n")
    editor = f"{shlex.quote(sys.executable)} {shlex.quote(str(script))}"
    terminal = Terminal("--store", str(store), "--annotator", "ben", "--kind", "edit", EDITOR=editor)
    terminal.until("edit 1 of")
    terminal.press("e")
    terminal.until("more? ")
    # A whole line, as a program that knows nothing of keys reads it.
    terminal.press("kind\x7fd words\n")
    terminal.until("1 judged now")
    terminal.press("q")
    terminal.until("1 judged and saved")
    assert terminal.end() == 0
    with FeedbackStore.open(store) as held:
        (one,) = held.judgements()
        assert isinstance(one.value, Edited) and one.value.corrected[-1].content.endswith("\x1b[31m kind words")


def test_keys_may_come_from_a_pipe(store: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith.cli.main", "feedback", "label", "--store", str(store), "--annotator", "anna",
         "--kind", "flag", "--json"],
        input=b"n1ftoo short\n" + "fé\n".encode(), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["judged"] == 4
    with FeedbackStore.open(store) as held:
        reasons = [one.value.reason for one in held.judgements() if isinstance(one.value, Flagged)]
    assert reasons == ["", "rude", "too short", "é"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--annotator", "a", "--kind", "poem"], "no kind of judgement"),
        (["--annotator", " "], "the name is empty"),
    ],
)
def test_what_cannot_be_labelled_is_told(store: Path, words: list[str], says: str) -> None:
    done = call("label", "--store", str(store), *words)
    assert done.exit_code == 2 and says in done.stderr


def test_a_store_without_candidates_names_the_command_that_draws_some(tmp_path: Path) -> None:
    with FeedbackStore.open(tmp_path / "f.db", create=True) as held:
        held.add_candidate(held.add_prompt([Message(role="user", content="p")]), "only one")
    done = call("label", "--store", str(tmp_path / "f.db"), "--annotator", "a")
    assert done.exit_code == 2 and "no prompt has two candidates" in done.stderr and "feedback sample" in done.stderr
    assert call("label", "--store", str(tmp_path / "none.db"), "--annotator", "a").exit_code == 2


# Agreement ------------------------------------------------------------------------------------------------------------


def test_agreement_of_scripted_annotators(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    with FeedbackStore.open(path, create=True) as held:
        for p in range(60):
            prompt = held.add_prompt([Message(role="user", content=f"prompt {p}")])
            ids = [held.add_candidate(prompt, f"{c} to {p}") for c in "xy"]
            better = ids[int(generator(0, "gold", p).integers(2))]
            first: dict[str, str] = {}
            for name, right in (("anna", 0.95), ("ben", 0.95), ("cleo", 0.9), ("dora <b>", 0.5)):
                rng = generator(1, name, p)
                shown = ids if rng.random() < 0.5 else ids[::-1]
                said = better if rng.random() < right else ids[1 - ids.index(better)]
                value = Compared("A" if shown[0] == said else "B")
                first[name] = held.add_judgement(prompt, shown, value, annotator=name)
            if p < 10:
                again = Compared("A" if p else "tie")
                same = next(c for c in held.judgements(annotator="anna") if c.id == first["anna"])
                shown = list(same.candidates)
                value = same.value if p else again
                held.add_judgement(prompt, shown, value, annotator="anna", asked_again_of=first["anna"])
    done = call("agreement", "--store", str(path), "--json")
    assert done.exit_code == 0, done.output
    (kind,) = json.loads(done.stdout)["kinds"]
    assert kind["items"] == 60 and kind["left_out"] == {"repetition": 10}
    apart = {one["name"]: one["stands_apart"] for one in kind["annotators"]}
    assert apart == {"anna": False, "ben": False, "cleo": False, "dora <b>": True}
    anna = next(one for one in kind["annotators"] if one["name"] == "anna")
    assert anna["repeats"] == 10 and anna["self_agreement"]["value"] == 0.9
    # 0.95 and 0.95 on two fair categories: alpha tends to (2 * 0.95 - 1) ** 2 = 0.81.
    pair = next(one for one in kind["cohen_kappa"] if one["annotators"] == ["anna", "ben"])
    assert pair["low"] < 0.81 < pair["high"] and pair["items"] == 60
    text = call("agreement", "--store", str(path)).stdout
    assert "Krippendorff's alpha (nominal)" in text and "(!) dora <b> disagrees with people who agree" in text


def test_agreement_of_one_annotator_says_so(store: Path) -> None:
    assert "no judgement that can be compared" in call("agreement", "--store", str(store)).stderr
    with FeedbackStore.open(store) as held:
        one = next(held.candidates())
        held.add_judgement(one.prompt_id, [one.id], Rated(4), annotator="anna")
    text = call("agreement", "--store", str(store)).stdout
    assert "undefined: no item was judged by two annotators" in text and "nan" not in text.lower()


# Sample ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append(body)
            words = generator(0, "server", json.dumps(body)).integers(1000, size=6)
            message = {"role": "assistant", "content": " ".join(map(str, words))}
            data = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
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
    http.shutdown()
    http.server_close()


def test_candidates_come_from_an_endpoint_and_are_paid_once(
    tmp_path: Path, server: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_API_KEY", KEY)
    url, bodies = server
    prompts, path = tmp_path / "p.txt", tmp_path / "f.db"
    prompts.write_text("one\ntwo\none\n")
    words = ["sample", str(prompts), "--store", str(path), "--endpoint", url, "--endpoint-model", "m"]
    plan = call(*words, "--plan")
    assert "2 prompts x 4 candidates = 8 answers, 0 drawn before; 8 to draw" in plan.stdout and not bodies
    assert "1 prompts repeat an earlier one" in plan.stdout
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert "8 of 8 candidates of 2 prompts" in done.stdout and "next:  tunesmith feedback label --store" in done.stdout
    assert sorted(body["temperature"] for body in bodies) == [0.3, 0.3, 0.6, 0.6, 0.9, 0.9, 1.2, 1.2]
    assert len({body["seed"] for body in bodies}) == 8
    again = call(*words, "--json")
    assert json.loads(again.stdout)["drawn"] == 0 and len(bodies) == 8
    assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.iterdir())
    failed = call(*words[:-1], "other")
    assert failed.exit_code == 2 and "404" in failed.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--temperatures", "0.5,hot"], "temperatures"),
        (["--temperatures", "0"], "above 0"),
        (["--endpoint", "http://x/v1"], "needs --endpoint-model"),
        (["--column", "promt=q"], "Did you mean 'prompt'"),
        (["--on-bad-row", "maybe"], "on_bad_row"),
    ],
)
def test_wrong_options_are_told_before_anything_is_loaded(tmp_path: Path, words: list[str], says: str) -> None:
    (tmp_path / "p.txt").write_text("one\n")
    done = call("sample", str(tmp_path / "p.txt"), "--store", str(tmp_path / "f.db"), *words)
    assert done.exit_code == 2 and says in done.stderr, done.output
    assert not (tmp_path / "f.db").exists()


def test_faulty_prompts_name_the_option_that_drops_them(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": ""}\n{"text": "b"}\n')
    done = call("sample", str(path), "--store", str(tmp_path / "f.db"))
    assert done.exit_code == 2 and "2 of 3 rows are faulty" in done.stderr and "--on-bad-row drop" in done.stderr


@pytest.mark.parametrize("page", ["feedback-sample", "feedback-label"])
def test_the_examples_of_the_docs_are_commands_that_parse(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    examples = re.findall(r"^tunesmith (feedback .*)$", text, re.MULTILINE)
    assert len(examples) >= 3
    monkeypatch.chdir(tmp_path)
    for example in examples:
        # Prompts and store are absent here: that is what each must stop at, not at a word it does not know.
        done = CliRunner().invoke(app, shlex.split(example.split("#")[0]))
        assert done.exit_code == 2 and re.search("no such|there is no|does not exist", done.stderr), (
            example,
            done.stderr,
        )
