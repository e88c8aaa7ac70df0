"""The demo in processes of its own, to be watched, signalled and killed from outside."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

ACKNOWLEDGED = re.compile(r"(?:saved|evaluated) step=(\d+) .*?accuracy=([0-9.]+)")
SMALL = {"hidden": 16, "rate": 1e-3, "step_ms": 0, "stop_at": 0}

# The server has imported the slow things once; each life is a fork of it: a process with a pid of its own,
# without the second and a half that importing scikit-learn takes.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["sklearn.datasets", "threadpoolctl", "rich", "async_ckpt.cli.demo.run"])


def _live(output: Connection, words: tuple[str, ...]) -> None:
    from async_ckpt.cli import main

    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    output.close()
    sys.exit(main(["demo", *words]))


class Life:
    """One process of the demo.

    Attributes:
        lines: What it has printed so far, whole lines only.
        process: The process.
    """

    def __init__(self, directory: Path, *words: str) -> None:
        reader, writer = _context.Pipe(duplex=False)
        self.lines: list[str] = []
        self.process = _context.Process(target=_live, args=(writer, ("--dir", str(directory), *words)))
        self.process.start()
        writer.close()
        self._out = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        reader.close()

    def __iter__(self) -> Iterator[str]:
        for line in self._out:
            if line.endswith("\n"):
                self.lines.append(line.rstrip("\n"))
                yield self.lines[-1]

    def wait_for(self, start: str) -> str:
        """The first line that begins so; the process goes on."""
        for line in self:
            if line.startswith(start):
                return line
        raise AssertionError(f"ended without {start!r}: {self.lines}")

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def finish(self) -> int:
        """Read what is left and return the exit code; negative: the signal that ended it."""
        for _ in self:
            pass
        return self.leave()

    def leave(self) -> int:
        """Close the reading end of its output, and return the exit code."""
        self._out.close()
        self.process.join()
        code = self.process.exitcode
        assert code is not None
        self.process.close()
        return code

    def kill(self) -> None:
        """SIGKILL: nothing in the process gets another word in."""
        self.signal(signal.SIGKILL)
        assert self.finish() == -signal.SIGKILL

    @property
    def acknowledged(self) -> dict[int, float]:
        """Accuracy by step of the checkpoints this life called durable."""
        found = (ACKNOWLEDGED.match(line) for line in self.lines)
        return {int(match[1]): float(match[2]) for match in found if match}


def small(**options: float) -> tuple[str, ...]:
    """The words for a run of a tiny network at full speed, without a goal, in plain lines."""
    pairs = {**SMALL, **options}.items()
    return (
        "--plain",
        *(word for name, value in pairs for word in (f"--{name.replace('_', '-')}", str(value))),
    )


def run(directory: Path, *words: str) -> list[str]:
    """A whole life that has to end well; returns its lines."""
    life = Life(directory, *words)
    code = life.finish()
    assert code == 0, life.lines
    return life.lines


def tensors(directory: Path, step: int) -> dict[str, bytes]:
    """The tensor files of one checkpoint, by name."""
    files = sorted((directory / f"step-{step:08d}").glob("*.safetensors"))
    assert files
    return {file.name: file.read_bytes() for file in files}
