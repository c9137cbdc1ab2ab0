"""Programs that are run: what passes, what each limit stops, and that nothing outlives its test."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tunesmith.errors import ConfigError, DataError
from tunesmith.evals.python_run import RunLimits, extract_program, python_tests, run_python
from tunesmith.evals.task import Item, Reply, Request
from tunesmith.records import Verdict

LIMITS = RunLimits(seconds=3.0, memory_mib=256, file_mib=1, num_processes=200, output_bytes=2000)
TESTS = "assert add(2, 3) == 5\nassert add(-1, 1) == 0"


def said(text: str, **metadata: str) -> Verdict:
    item = Item(id="a", messages=(), target="", metadata={"tests": TESTS, **metadata})
    score = python_tests(allow_execution=True, limits=LIMITS)
    return score(item, Reply(request=Request(item=item, messages=()), text=text))


def test_nothing_runs_unless_it_is_switched_on() -> None:
    with pytest.raises(ConfigError, match=r"allow_execution: .*no sandbox"):
        python_tests()


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("def add(a, b):\n    return a + b", 1),
        ("Sure:\n```python\ndef add(a, b):\n    return a + b\n```\nIt adds.", 1),
        ("def add(a, b):\n    return a - b", 0),
        ("def add(a, b)\n    return a + b", 0),
        ("import sys\nsys.exit(0)", 0),
        ("import os\nos._exit(0)", 0),
        ("add = None\nraise SystemExit", 0),
        ("\ud800", 0),
    ],
)
def test_a_program_passes_when_all_of_its_tests_have_run(text: str, passes: int) -> None:
    verdict = said(text)
    assert verdict.values == {"passes": float(passes)}
    assert bool(verdict.explanation) != bool(passes)


def test_the_head_of_a_function_stands_before_its_body() -> None:
    assert said("    return a + b", before="def add(a, b):").values == {"passes": 1.0}


def test_an_endless_program_is_stopped_and_its_children_with_it(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    program = f"""
import os, time
if os.fork() == 0:
    time.sleep(1.5)
    open({str(mark)!r}, "w").write("alive")
while True:
    pass
"""
    start = time.monotonic()
    run = run_python(program, RunLimits(seconds=0.6))
    assert run.status == "timeout" and time.monotonic() - start < 3
    time.sleep(max(0.0, start + 2.2 - time.monotonic()))
    assert not mark.exists(), "a child of the program went on"


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        ("x = bytearray(2**30)", "MemoryError"),
        ("open('big', 'wb').write(b'0' * 2**22)", "File too large"),
        ("print('x' * 2**22, flush=True)", "x" * 1000),
        ("files = [open(__file__) for _ in range(100)]", "Too many open files"),
        ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33 + 1))", "Error"),
        ("import os\nassert not set(os.environ) - {'LC_CTYPE'}\nassert False, 'empty'", "AssertionError: empty"),
        ("import sys\nassert sys.stdin.read() == ''\nassert False, 'end of input'", "end of input"),
    ],
)  # fmt: skip
def test_each_limit_binds(program: str, fault: str) -> None:
    if "RLIMIT_AS" in program and os.geteuid() == 0:
        pytest.skip("an administrator may raise a limit again")
    run = run_python(program, LIMITS)
    assert run.status == "failed" and fault in run.output[-1500:]
    assert len(run.output) <= LIMITS.output_bytes


def test_the_last_block_is_the_program() -> None:
    assert extract_program("```python\na\n```\nbetter:\n```py\nb\n```") == "b\n"
    assert extract_program("x = 1") == "x = 1"
    assert extract_program("```\nx\n```") == "x\n"


def test_a_backslash_at_the_end_swallows_no_test_and_an_item_without_tests_is_an_error() -> None:
    assert said("if False: \\", tests="assert False").values == {"passes": 0.0}
    for tests in ("", None):
        with pytest.raises(DataError, match="item a: no tests"):
            said("pass", tests=tests)  # type: ignore[arg-type]
