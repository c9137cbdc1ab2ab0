"""Python answers by running them against tests, in a child process with limits.

This is **no sandbox**. The limits stop accidents: endless loops, a full memory, a full disk, a flood of output. The
program still has the rights of the user who runs it: it can read files and reach the network. Run answers of models
you do not trust in a virtual machine or a container; nothing here runs unless it is switched on by name.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunesmith.errors import ConfigError, DataError
from tunesmith.evals.task import Item, Reply, Scorer
from tunesmith.records import Verdict

_LOOK_EVERY_SECONDS = 0.01
_MIB = 2**20
# Runs in the child before the program: the limits hold for all it does, and cannot be raised again. The word that
# says the program came to its end is read before and written behind, so leaving early is not passing.
_LAUNCHER = """
import json, resource, runpy, sys
limits, word = json.loads(sys.argv[1]), sys.stdin.readline()
for name, value in limits.items():
    number = getattr(resource, name, None)
    if number is not None:
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))
program, end = sys.argv[2], open(sys.argv[3], "w")
sys.argv = [program]
runpy.run_path(program, run_name="__main__")
end.write(word)
end.close()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """What a program may use. num_processes counts all of the user's, and does not bind an administrator (root)."""

    seconds: float = 5.0
    memory_mib: int = 512
    file_mib: int = 4
    num_processes: int = 64
    num_open_files: int = 64
    output_bytes: int = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRun:
    """How a program ended: passed (all of it ran), failed (an error or an early exit), timeout; and what it wrote."""

    status: Literal["passed", "failed", "timeout"]
    output: str
    seconds: float


def python_tests(*, allow_execution: bool = False, limits: RunLimits = RunLimits()) -> Scorer:
    """Run a reply's program followed by the item's tests (metadata ``tests``): it passes when all of it runs through.

    The program is the reply's last ```python block, else the whole text; metadata ``before`` (a function's head, say)
    stands before it. Value (0 or 1): passes. Limits are no sandbox, see above: allow_execution must be said. Raises
    ConfigError without it and where the system knows no such limits, DataError for an item without tests.
    """
    if not allow_execution:
        raise ConfigError(
            "allow_execution",
            "this task runs programs a model wrote, with your rights: the limits on them are no sandbox.",
            "Set it to true, best in a container or a virtual machine.",
        )
    if os.name != "posix":
        raise ConfigError("allow_execution", "this system has no limits for processes.", "Use Linux or macOS.")

    def score(item: Item, reply: Reply) -> Verdict:
        before, tests = item.metadata.get("before") or "", item.metadata.get("tests")
        if not isinstance(tests, str) or not tests.strip() or not isinstance(before, str):
            raise DataError(f"item {item.id}", "no tests, or they are no text.", "Give metadata.tests statements.")
        # An empty line between: a backslash at the end of a reply must not swallow the first test.
        run = run_python("\n\n".join([before, extract_program(reply.text), tests]), limits)
        explanation = "" if run.status == "passed" else f"{run.status}: {run.output[-500:].strip()}"
        details = {"status": run.status, "seconds": run.seconds}
        return Verdict(values={"passes": float(run.status == "passed")}, explanation=explanation, details=details)

    return score


def extract_program(text: str) -> str:
    """The last fenced block of a reply, else all of it as it stands."""
    blocks: list[str] = re.findall(r"^```[^\S\n]*(?:python3?|py)?[^\S\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return blocks[-1] if blocks else text


def run_python(program: str, limits: RunLimits) -> ProgramRun:
    """Run a program in a folder of its own with an empty environment; all it started ends with it."""
    with tempfile.TemporaryDirectory(prefix="tunesmith-run-", ignore_cleanup_errors=True) as top:
        folder = Path(top)
        (folder / "work").mkdir()
        source, end, output = folder / "program.py", folder / "end", folder / "output"
        # A text that is no UTF-8 becomes a program that fails, as it should.
        source.write_bytes(program.encode("utf-8", "surrogatepass"))
        word, start = secrets.token_hex(8), time.monotonic()
        command = [sys.executable, "-I", "-B", "-c", _LAUNCHER, _limits(limits), str(source), str(end)]
        with output.open("wb") as sink:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=folder / "work",
                env={},
                start_new_session=True,
            )
            in_time = _wait(child, word, start + limits.seconds)
        seconds = time.monotonic() - start
        whole = in_time and child.returncode == 0 and end.exists() and end.read_text(errors="replace") == word
        with output.open("rb") as stream:
            stream.seek(max(0, output.stat().st_size - limits.output_bytes))
            said = stream.read(limits.output_bytes).decode("utf-8", "replace")
    status: Literal["passed", "failed", "timeout"] = "timeout" if not in_time else "passed" if whole else "failed"
    return ProgramRun(status=status, output=said, seconds=seconds)


def _wait(child: subprocess.Popen[bytes], word: str, deadline: float) -> bool:
    """Whether the child ended in time; its whole process group is killed either way."""
    assert child.stdin is not None
    try:
        with child.stdin as stream:
            stream.write(word.encode())
    except BrokenPipeError:
        in_time = True
    try:
        # Not reaped yet: until then its number, which is the group's, cannot belong to somebody else.
        while not (ended := os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
            if time.monotonic() > deadline:
                break
            time.sleep(_LOOK_EVERY_SECONDS)
        in_time = ended is not None
    finally:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            in_time = True
        child.wait()
    return in_time


def _limits(limits: RunLimits) -> str:
    memory, file = limits.memory_mib * _MIB, limits.file_mib * _MIB
    return json.dumps(
        {
            "RLIMIT_AS": memory,
            "RLIMIT_CPU": int(limits.seconds) + 1,
            "RLIMIT_FSIZE": file,
            "RLIMIT_NPROC": limits.num_processes,
            "RLIMIT_NOFILE": limits.num_open_files,
            "RLIMIT_CORE": 0,
        }
    )
