"""Keys from a terminal: what ends the wait for one gives the terminal back."""

from __future__ import annotations

import os
import pty
import signal
import sys
import termios
from collections.abc import Iterator

import pytest

from tunesmith.cli.keys import keys


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """A pseudo terminal in the place of standard input: the ends of the person and of the program."""
    person, program = pty.openpty()
    with os.fdopen(program, closefd=True) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        yield person, program
    os.close(person)


def is_cooked(descriptor: int) -> bool:
    """Whether the terminal gives whole lines and prints what is typed."""
    flags = termios.tcgetattr(descriptor)[3]
    return bool(flags & termios.ICANON) and bool(flags & termios.ECHO)


def test_sigterm_gives_the_terminal_back_before_the_process_ends(terminal: tuple[int, int]) -> None:
    person, program = terminal
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, keys() as read:
        os.write(person, b"a")
        assert read() == "a" and not is_cooked(program)
        os.kill(os.getpid(), signal.SIGTERM)
        read()
    assert ended.value.code == 128 + signal.SIGTERM
    assert is_cooked(program) and signal.getsignal(signal.SIGTERM) is before
