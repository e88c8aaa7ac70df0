"""What the tests of the local store share: saving a checkpoint, small file systems, a gate in a disk."""

from __future__ import annotations

import os
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from async_ckpt.storage import posix
from async_ckpt.storage.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    """An open store in a fresh directory."""
    made = LocalStore(tmp_path / "runs")
    await made.open()
    yield made
    await made.aclose()


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A real file system of one MiB and sixty files."""
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: mounting a tmpfs needs root")
    place = tmp_path / "small"
    place.mkdir()
    options = "size=1m,nr_inodes=60"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", place], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"NOT RUN: cannot mount a tmpfs here: {mounted.stderr.decode()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


class Gate:
    """Holds the thread that writes, until it is opened."""

    def __init__(self, write: Callable[[int, memoryview, int], int]) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.finished = threading.Event()
        self._write = write

    def __call__(self, fd: int, data: memoryview, offset: int) -> int:
        if len(data) < 1 << 20:
            return self._write(fd, data, offset)
        self.reached.set()
        assert self.opened.wait(30)
        count = self._write(fd, data, offset)
        self.finished.set()
        return count


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A disk that takes nothing until ``gate.opened`` is set."""
    made = Gate(posix.pwrite)
    monkeypatch.setattr(posix, "pwrite", made)
    yield made
    made.opened.set()
