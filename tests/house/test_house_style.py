"""The house style that a machine can hold."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_MAIN_LINES = 400, 60, 120
# What a machine leaks: absolute paths of a home or work folder, and package index addresses.
LEAK = re.compile(r"(?<![\w.])/(?:work|farm|root|home)/|simple/?['\"\s]*$|index-url\s*=")


def tracked_files() -> list[Path]:
    """Text files git tracks, or all but the environment where there is no git."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout:
        return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]
    return [p for p in ROOT.rglob("*") if p.is_file() and ".venv" not in p.parts]


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def long_functions(tree: ast.Module) -> list[str]:
    out = []
    for node in functions(tree):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > (MAX_MAIN_LINES if node.name == "main" else MAX_FUNCTION_LINES):
            out.append(f"{node.name}: {lines} lines")
    return out


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT / "src").as_posix())
def test_source_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= MAX_FILE_LINES
    assert long_functions(tree) == []
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text)
    if path.name == "__init__.py":
        assert text == ""
        return
    scopes = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    for node in [n for scope in scopes for n in scope.body if isinstance(n, ast.FunctionDef)]:
        # The two halves of an autograd function are explained at the function that calls it.
        if (
            node.name not in ("forward", "backward")
            and not node.name.startswith("_")
            and (node.end_lineno or 0) - node.lineno > 8
        ):
            assert ast.get_docstring(node), f"{node.name} says nothing of itself"


def test_a_long_function_is_noticed() -> None:
    body = "\n".join(f"    x = {i}" for i in range(MAX_FUNCTION_LINES))
    assert long_functions(ast.parse(f"def f():\n{body}\n")) == ["f: 61 lines"]


def test_nothing_of_a_machine_is_written_down() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path == Path(__file__):
            continue
        found += [f"{path.relative_to(ROOT)}:{n}" for n, line in enumerate(text.splitlines(), 1) if LEAK.search(line)]
    assert found == []
    assert LEAK.search("see /root/x")


def test_the_papers_of_the_house_are_there() -> None:
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "docs/recipe.md", "constraints.txt"):
        assert (ROOT / name).stat().st_size > 200, name


def test_torch_is_never_pulled_with_cuda_unasked() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("install_torch", ROOT / "scripts" / "install_torch.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.plan("Linux", False, None, False, "2.13.0") == [["torch==2.13.0+cpu"]]
    assert module.plan("Linux", True, None, False, "2.13.0") == [["torch==2.13.0"]]
    assert module.plan("Linux", False, None, True, "2.13.0") == [["torch==2.13.0"]]
    assert module.plan("Darwin", False, None, False, "2.13.0") == [["torch==2.13.0"]]
    attempts = module.plan("Linux", False, "INDEX", False, "2.13.0")
    assert attempts == [["torch==2.13.0+cpu"], ["torch==2.13.0+cpu", "--index-url", "INDEX"]]
