"""The command in a real terminal: what a person at the keyboard sees and types."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["CONTROL_C", "Terminal", "terminal"]

# A session of its own with the terminal as its controlling one, so that ^C becomes SIGINT in the kernel. A
# test run that a shell put into the background ignores that signal, and so would its children.
TAKE_TERMINAL = (
    "import fcntl, os, signal, sys, termios; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
CONTROL_C = b"\x03"


class Terminal:
    """What a person at the keyboard sees and types."""

    def __init__(self, keyboard: int, process: subprocess.Popen[bytes]) -> None:
        self.keyboard = keyboard
        self.process = process
        self.raw = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        """What was drawn, without colours and cursor movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw)

    def read_until(self, pattern: str) -> None:
        while not re.search(pattern, self.text):
            assert self._read(), f"ended without {pattern!r}: {self.text[-2000:]}"

    def read_to_the_end(self) -> int:
        while self._read():
            pass
        return self.process.wait()

    def type(self, keys: bytes) -> None:
        os.write(self.keyboard, keys)

    def _read(self) -> bool:
        try:
            data = os.read(self.keyboard, 65536)
        except OSError:  # the other side is closed
            return False
        self.raw += data.decode("utf-8", "replace")
        return bool(data)


@contextmanager
def terminal(*words: object, **environment: str) -> Iterator[Terminal]:
    """Run ``async-ckpt words...`` in a terminal of its own, 110 by 40."""
    keyboard, screen = pty.openpty()
    # What a program finds out by asking, and does not read from the environment.
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
    command = [sys.executable, "-m", "async_ckpt", *map(str, words)]
    with subprocess.Popen(
        [sys.executable, "-c", TAKE_TERMINAL, *command],
        stdin=screen, stdout=screen, stderr=screen, start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "110", "LINES": "40", **environment},
    ) as process:  # fmt: skip
        os.close(screen)
        try:
            yield Terminal(keyboard, process)
        finally:
            process.kill()
            os.close(keyboard)
