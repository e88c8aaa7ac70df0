"""The threads that read ranges of a checkpoint's files. All of it blocks.

Many threads wait for the device, so that it always has the next requests; only as many as there are
processors work on what has come, while it is in their caches.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from async_ckpt.storage import posix
from async_ckpt.storage.ranges import WHOLE
from async_ckpt.storage.uncached import O_DIRECT, CacheMap, Scratch, is_refusal, read_aligned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from async_ckpt.storage.ranges import Handout, Range
    from async_ckpt.storage.reading import View

__all__ = ["READERS", "Gathering"]

READERS = 8
"""Threads that read at the same time."""

_BLOCK = 4 * WHOLE
"""Bytes for which it is decided at once which way they are read."""

_SMALL = 1 << 17
"""Bytes below which it takes as long one way as the other."""

_Row = npt.NDArray[np.uint8]


class Gathering:
    """What the threads share.

    Args:
        handout: The ranges.
        past_cache: Whether what is not in the page cache is read without putting it there. Not for files
            that others read too: each would read them from the device by itself.
    """

    def __init__(self, handout: Handout, *, past_cache: bool) -> None:
        self.handout = handout
        self.past_cache = past_cache and O_DIRECT != 0
        self.cache = CacheMap()
        self.scratch = Scratch(READERS, WHOLE)
        self.working = threading.Semaphore(os.cpu_count() or 1)

    def run(self, view: View) -> None:
        """Read what the handout gives to this thread."""
        self.handout.run(_Thread(self, view).read)


class _File:
    """The file of one range, opened for it alone, so that the kernel's read-ahead follows it."""

    def __init__(self, view: View, item: Range) -> None:
        self._view = view
        self.name = item.name
        self._end = item.offset + item.size
        self._past: int | None = None
        self.fd = view.open_at(item.name, item.offset, self._end)
        self.bytes = os.fstat(self.fd).st_size

    def close(self) -> None:
        os.close(self.fd)
        if self._past is not None:
            os.close(self._past)

    def past(self) -> int:
        """The same file, opened to be read past the page cache; raises ``OSError``."""
        if self._past is None:
            self._past = self._view.open_at(self.name, 0, self._end, os.O_RDONLY | O_DIRECT)
        return self._past


class _Thread:
    def __init__(self, shared: Gathering, view: View) -> None:
        self._shared = shared
        self._view = view
        self._memory: _Row | None = None

    @property
    def memory(self) -> _Row:
        if self._memory is None:
            self._memory = self._shared.scratch.part()
        return self._memory

    def read(self, item: Range) -> None:
        memory = item.target()
        target = None if memory is None else np.frombuffer(memory, np.uint8)
        with self._open(item) as file:
            for block in range(0, item.size, _BLOCK):
                end = min(block + _BLOCK, item.size)
                past = self._goes_past(file, item.offset + block, end - block)
                for at in range(block, end, WHOLE):
                    if self._shared.handout.stopped:
                        return
                    size = min(WHOLE, end - at)
                    past = past and self._read_past(file, item, at, size, target)
                    if not past:
                        self._read_through(file, item, at, size, target)

    @contextlib.contextmanager
    def _open(self, item: Range) -> Iterator[_File]:
        with self._view.errors(item.name):
            file = _File(self._view, item)
        try:
            yield file
        finally:
            file.close()

    def _goes_past(self, file: _File, offset: int, size: int) -> bool:
        if size < _SMALL or self._shared.cache.holds(file.name, file.fd, offset, file.bytes):
            return False
        if self._shared.past_cache and not self._view.refuses_direct:
            return True
        posix.will_need(file.fd, offset, size)
        return False

    def _read_past(self, file: _File, item: Range, at: int, size: int, target: _Row | None) -> bool:
        """Read from the device and copy; False if that was refused."""
        with self._view.errors(item.name):
            try:
                data = read_aligned(file.past(), item.offset + at, size, self.memory)
            except OSError as error:
                if not is_refusal(error):
                    raise
                self._view.refuses_direct = True
                return False
        if data is None:
            raise self._view.damaged(item.name, f"it ends before byte {item.offset + at + size}")
        with self._shared.working:
            if target is not None:
                np.copyto(target[at : at + size], data)
                data = target[at : at + size]
            item.take(at, data.data)
        return True

    def _read_through(self, file: _File, item: Range, at: int, size: int, target: _Row | None) -> None:
        """Read through the page cache, to where it belongs."""
        row = self.memory[:size] if target is None else target[at : at + size]
        with self._shared.working:
            done = 0
            while done < size:
                offset = item.offset + at + done
                with self._view.errors(item.name):
                    count = posix.preadv(file.fd, row[done:].data, offset)
                if count <= 0:
                    raise self._view.damaged(item.name, f"it ends at byte {offset}")
                done += count
            item.take(at, row.data)
