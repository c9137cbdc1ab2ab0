"""Keys as they are pressed: one character at a time, without Enter; from a pipe just as well as from a terminal."""

from __future__ import annotations

import codecs
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

# A terminal sends an arrow key as Escape and letters behind it at once; a person needs longer.
_SEQUENCE_SECONDS = 0.05


@contextmanager
def keys() -> Iterator[Callable[[], str]]:
    """A function that waits for a key: a character, a whole escape sequence, or nothing at the end of the input."""
    if sys.platform == "win32":
        import msvcrt

        yield msvcrt.getwch
        return
    descriptor = sys.stdin.fileno()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def more() -> bool:
        return bool(select.select([descriptor], [], [], _SEQUENCE_SECONDS)[0])

    def read() -> str:
        key = ""
        while not key:
            data = os.read(descriptor, 1)
            if not data:
                return ""
            key = decoder.decode(data)
        while key.startswith("\x1b") and more():
            data = os.read(descriptor, 1)
            if not data:
                break
            key += decoder.decode(data)
            # The last character of a sequence is a letter or ~; [ and O open one.
            if len(key) > 2 and (key[-1].isalpha() or key[-1] == "~"):
                break
        return key

    with _unwinding_sigterm(), one_by_one(descriptor):
        yield read


@contextmanager
def _unwinding_sigterm() -> Iterator[None]:
    """SIGTERM ends the process by way of an exception, so that the terminal is given back and the store closed."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def one_by_one(descriptor: int, *, on: bool = True) -> Iterator[None]:
    """The terminal gives keys at once and does not print them (``on``), or lines as usual; as it was at the end."""
    if sys.platform == "win32" or not os.isatty(descriptor):
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    try:
        if on:
            tty.setcbreak(descriptor)
        else:
            lines = termios.tcgetattr(descriptor)
            lines[3] |= termios.ICANON | termios.ECHO
            termios.tcsetattr(descriptor, termios.TCSADRAIN, lines)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def edit_in(command: list[str], text: str) -> str | None:
    """What an editor makes of a text; None where it fails. The file is for the user's eyes only, and deleted."""
    handle, name = tempfile.mkstemp(suffix=".txt", prefix="answer-")
    path = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
        with one_by_one(sys.stdin.fileno(), on=False):
            try:
                failed = subprocess.run([*command, name], check=False).returncode != 0
            except OSError:
                return None
        if failed:
            return None
        try:
            return path.read_bytes().decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError:
            return None
    finally:
        path.unlink(missing_ok=True)
