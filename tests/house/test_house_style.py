"""The house style that a machine can hold."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
OTHERS = sorted(path for name in ("tests", "scripts") for path in (ROOT / name).rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_MAIN_LINES = 400, 60, 120
# What a machine leaks: absolute paths of a home, work or wheel folder, and addresses of package indexes.
LEAK = re.compile(
    r"(?<![\w.~])/(?:work|farm|root|home|Users|opt)/|://[^\s'\"]*(?:/simple\b|/whl\b|pypi|pythonhosted)|index-url\s*=\s*\S*://"
)


def tracked_files() -> list[Path]:
    """Text files git tracks, or all but the environment where there is no git."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
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


def swallowing_handlers(tree: ast.Module) -> list[int]:
    """Lines of handlers that catch everything and do nothing."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")))
        and all(isinstance(line, ast.Pass | ast.Continue) for line in node.body)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT / "src").as_posix())
def test_source_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= MAX_FILE_LINES
    assert long_functions(tree) == []
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text)
    assert swallowing_handlers(tree) == []
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


def test_a_swallowed_exception_is_noticed() -> None:
    tree = ast.parse("try:\n    x()\nexcept Exception:\n    pass\ntry:\n    x()\nexcept ValueError:\n    pass\n")
    assert swallowing_handlers(tree) == [3]


def test_tests_and_scripts_are_short_files_too() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8").count("\n") for path in OTHERS}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


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
    for leak in (
        "see /root/x",
        "pip --find-links=/opt/wheels",
        "https://a.b/simple/",
        "--index-url=http://c.d/whl/cpu",
    ):
        assert LEAK.search(leak), leak
    for fine in ("as simple", "TORCH_INDEX_URL=<an index>", "../work/x", "https://example.org/page", "~/home/x"):
        assert not LEAK.search(fine), fine


def test_the_papers_of_the_house_are_there() -> None:
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "docs/recipe.md", "constraints.txt"):
        assert (ROOT / name).stat().st_size > 200, name
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence and "END OF TERMS AND CONDITIONS" in licence
