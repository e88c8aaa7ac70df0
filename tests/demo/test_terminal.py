"""The demo in a real terminal: the panel is drawn, Ctrl-C at the keyboard saves, the cursor comes back."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("rich")

# A session of its own with the terminal as its controlling one, so that ^C becomes SIGINT in the kernel.
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios;fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
CONTROL_C = b"\x03"


class Terminal:
    """What a person at the keyboard sees and types."""

    def __init__(self, keyboard: int, process: subprocess.Popen[bytes]) -> None:
        self.keyboard = keyboard
        self.process = process
        self.raw = ""

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
def terminal(directory: Path, *words: str) -> Iterator[Terminal]:
    keyboard, screen = pty.openpty()
    command = [sys.executable, "-m", "async_ckpt", "demo", "--dir", str(directory), *words]
    with subprocess.Popen(
        [sys.executable, "-c", TAKE_TERMINAL, *command],
        stdin=screen, stdout=screen, stderr=screen, start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "110", "LINES": "40"},
    ) as process:  # fmt: skip
        os.close(screen)
        try:
            yield Terminal(keyboard, process)
        finally:
            process.kill()
            os.close(keyboard)


def test_the_panel_is_live_ctrl_c_saves_and_the_second_run_goes_on(tmp_path: Path) -> None:
    words = ("--hidden", "32", "--stop-at", "0", "--step-ms", "2")
    with terminal(tmp_path, *words, "--steps", "1000000") as first:
        first.read_until(r"(?s)async-ckpt demo.*accuracy .*held out.*Ctrl-C saves and stops")
        first.read_until(r"step \d{2,}, .*durable in")
        first.type(CONTROL_C)
        assert first.read_to_the_end() == 0
    stopped = re.search(r"stopped at step (\d+): ", first.text)
    assert stopped
    assert "start it again to go on from here" in first.text
    assert first.raw.rindex("\x1b[?25h") > first.raw.rindex("\x1b[?25l"), "the cursor stayed hidden"
    assert "Traceback" not in first.text

    with terminal(tmp_path, *words, "--steps", str(int(stopped[1]) + 10)) as second:
        assert second.read_to_the_end() == 0
    assert second.text.startswith(f"resumed from step {stopped[1]} in ")
    assert f"stopped at step {int(stopped[1]) + 10}: " in second.text
