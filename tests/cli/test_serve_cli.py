"""``tunesmith serve``: it says where it answers, answers, and ends cleanly with Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.recipes.serve import served_names

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")


def ask(port: int, path: str, body: dict[str, object] | None = None) -> dict[str, object]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/{path}", data=data)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        return dict(json.load(answer))


def test_the_verb_serves_until_ctrl_c(model_folder: Callable[[str], Path]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    heard: list[dict[str, object]] = []
    # As docs/serve.md asks, but of a tiny model.
    found = re.search(r"-d '(\{.*?\})'", PAGE, re.DOTALL)
    assert found is not None
    body = {**json.loads(found[1]), "model": model_folder("llama").name, "max_tokens": 3}

    def client() -> None:
        try:
            until = time.monotonic() + 60
            while not heard and time.monotonic() < until:
                try:
                    heard.append(ask(port, "models"))
                except urllib.error.URLError:
                    time.sleep(0.05)
            heard.append(ask(port, "chat/completions", body))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=client)
    thread.start()
    done = CliRunner().invoke(app, ["serve", "--model", str(model_folder("llama")), "--port", str(port)])
    thread.join()
    assert done.exit_code == 0, done.output
    assert f"serving at http://127.0.0.1:{port}/v1" in done.output and "requests answered: 1." in done.output
    assert heard[0]["object"] == "list" and heard[1]["object"] == "chat.completion"
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_weight_that_is_none_and_a_missing_model_are_told() -> None:
    done = CliRunner().invoke(app, ["serve", "--model", "no/such-folder-here", "--port", "0"])
    assert done.exit_code == 2 and "Fix:" in done.output
    done = CliRunner().invoke(app, ["serve", "--weights", "quarter"])
    assert done.exit_code == 2


def test_adapters_go_by_their_folders() -> None:
    assert served_names("hub/base", ["runs/demo"]) == {"demo": "runs/demo", "base": ""}
    assert served_names("base", ["a/demo", "b/demo", "c/base", "d/x/"]) == {
        "a/demo": "a/demo", "b/demo": "b/demo", "c/base": "c/base", "x": "d/x/", "base": "",
    }  # fmt: skip
