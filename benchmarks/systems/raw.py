"""What the machine itself can do: a bare copy, a bare write."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.states import Arrays
from benchmarks.systems.base import Times
from benchmarks.threads import Thread

__all__ = ["CopyTo", "DirectWrite", "aligned"]

CHUNK = 16 * 2**20
PAGE = 4096


def aligned(nbytes: int) -> npt.NDArray[np.uint8]:
    """Page-aligned memory on huge pages where there are any, every page touched."""
    pages = mmap.mmap(-1, max(PAGE, -(-nbytes // PAGE) * PAGE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_HUGEPAGE)
    row = np.frombuffer(pages, np.uint8)
    row[:] = 1
    return row


class CopyTo:
    """``numpy.copyto`` of every array into memory that was used before, in one thread."""

    def __init__(self) -> None:
        self._worker = Thread("copyto")
        self._pairs: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = []

    def adopt(self, arrays: Arrays) -> None:
        self._arrays = [array for group in arrays.values() for array in group.values()]

    async def open(self, _directory: Path) -> None:
        memory = await self._worker.call(aligned, sum(array.nbytes for array in self._arrays))
        at = 0
        for array in self._arrays:
            place = memory[at : at + array.nbytes].view(np.float32).reshape(array.shape)
            self._pairs.append((place, array))
            at += array.nbytes

    async def save(self, _step: int) -> Times:
        began = time.perf_counter()
        await self._worker.call(self._copy)
        return Times(began, time.perf_counter(), None)

    def _copy(self) -> None:
        for place, array in self._pairs:
            np.copyto(place, array)

    async def close(self) -> None:
        self._pairs.clear()
        self._worker.close()


class DirectWrite:
    """A loop of ``O_DIRECT`` writes of the same bytes into one file, and an fsync; nothing else at all."""

    def __init__(self) -> None:
        self._worker = Thread("direct")

    def adopt(self, arrays: Arrays) -> None:
        rows = [array.reshape(-1).view(np.uint8) for group in arrays.values() for array in group.values()]
        self._bytes = sum(len(row) for row in rows)
        self._memory = aligned(self._bytes)
        at = 0
        for row in rows:
            self._memory[at : at + len(row)] = row
            at += len(row)

    async def open(self, directory: Path) -> None:
        self._directory = directory

    async def save(self, step: int) -> Times:
        began = time.perf_counter()
        await self._worker.call(self._write, self._directory / f"{step}.bin")
        return Times(began, None, time.perf_counter())

    def _write(self, path: Path) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_DIRECT)
        try:
            os.posix_fallocate(fd, 0, len(self._memory))
            view = memoryview(self._memory.data)
            for at in range(0, len(view), CHUNK):
                piece = view[at : at + CHUNK]
                if os.pwrite(fd, piece, at) != len(piece):
                    message = f"{path}: a short write"
                    raise OSError(message)
            os.fsync(fd)
        finally:
            os.close(fd)

    async def close(self) -> None:
        self._worker.close()
