"""Measuring tools that run inside the measured process."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import shutil
import time
from pathlib import Path
from typing import Self

import numpy as np

__all__ = ["BIN", "Ticker", "binned", "clear", "compute", "drop_caches", "fsync_tree", "tidy", "worst"]

TICK = 0.001
BIN = 0.010
WATCHED_SECS = 0.1


class Ticker:
    """Asks the loop to be woken every millisecond, and notes how late it was."""

    def __init__(self) -> None:
        self._ticks: list[tuple[float, float]] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._tick(), name="ticker")
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _tick(self) -> None:
        ticks = self._ticks
        while True:
            began = time.perf_counter()
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            ticks.append((now, now - began - TICK))

    def between(self, began: float, ended: float) -> list[tuple[float, float]]:
        """(when, how late), by ``time.perf_counter``; the tick that straddles the end is in it."""
        found = [tick for tick in self._ticks if tick[0] - tick[1] <= ended and tick[0] >= began]
        return found or [(ended, 0.0)]

    def forget(self) -> None:
        """Drop what was noted."""
        self._ticks.clear()


def worst(ticks: list[tuple[float, float]]) -> tuple[float, float]:
    """Largest lateness, and its 99.9th percentile."""
    late = [tick[1] for tick in ticks]
    return max(late), float(np.percentile(late, 99.9))


def binned(ticks: list[tuple[float, float]], began: float) -> list[tuple[float, float]]:
    """The worst lateness of every ten milliseconds since ``began``."""
    bins: dict[int, float] = {}
    for when, late in ticks:
        number = int((when - began) / BIN)
        bins[number] = max(late, bins.get(number, 0.0))
    return [(round(number * BIN, 3), round(late, 6)) for number, late in sorted(bins.items())]


def compute(seconds: float) -> None:
    """Keep one core busy with arithmetic that does not hold the interpreter; for a thread."""
    row = np.linspace(0.1, 1.0, 32768, dtype=np.float32)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        np.sin(row, out=row)


def fsync_tree(directory: Path) -> None:
    """Have everything below ``directory`` on the disk, whoever wrote it."""
    for path in (directory, *directory.rglob("*")):
        # A lock or a socket cannot be opened or synced, and holds no data.
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def clear(directory: Path) -> None:
    """Remove what was saved, hidden files apart, and wait until the disk is quiet again."""
    for path in directory.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    os.sync()


def drop_caches() -> bool:
    """Have the kernel forget its page cache; says whether it did (it asks for root)."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")
    except OSError:
        return False
    return True


def tidy() -> None:
    """Give freed memory back to the system, and wait until whoever watches from outside has seen it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    time.sleep(WATCHED_SECS)
