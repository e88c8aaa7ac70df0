"""The threads that read ranges of a checkpoint's files. All of it blocks.

Many threads wait for the device, so that it always has the next requests; only as many as there are
processors work on what has come, as more would only keep each other and the event loop from doing so.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from async_ckpt.storage import posix
from async_ckpt.storage.uncached import (
    O_DIRECT,
    CacheMap,
    Scratch,
    far_from,
    is_refusal,
    is_slow_copy,
    read_aligned,
)

if TYPE_CHECKING:
    from async_ckpt.storage.ranges import Handout, Range
    from async_ckpt.storage.reading import View

__all__ = ["READERS", "Gathering"]

READERS = 8
"""Threads that read at the same time."""

_REQUEST = 4 << 20
"""Bytes that are asked for at once. With less, threads wait for each other and the interpreter more often
than the processors' caches gain."""

_STRIDE = 1 << 20
"""Bytes of a detour, small enough that what was read is still in a cache when it is copied."""

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
        self.scratch = Scratch(READERS, _REQUEST)
        self.working = threading.Semaphore(_processors())

    def run(self, view: View) -> None:
        """Read what the handout gives to this thread."""
        with contextlib.closing(_Thread(self, view)) as thread:
            self.handout.run(thread.read)


def _processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _File:
    """A file, opened for one thread alone, so that the kernel's read-ahead follows it."""

    def __init__(self, view: View, name: str) -> None:
        self._view = view
        self._past: int | None = None
        self.name = name
        self.fd = view.open_own(name)
        self.bytes = os.fstat(self.fd).st_size

    def close(self) -> None:
        os.close(self.fd)
        if self._past is not None:
            os.close(self._past)

    def past(self) -> int:
        """The same file, opened to be read past the page cache; raises ``OSError``."""
        if self._past is None:
            self._past = self._view.open_own(self.name, os.O_RDONLY | O_DIRECT)
        return self._past


class _Thread:
    def __init__(self, shared: Gathering, view: View) -> None:
        self._shared = shared
        self._view = view
        self._file: _File | None = None
        self._memory: _Row | None = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self, item: Range) -> None:
        """Read one range."""
        memory = item.target()
        target = None if memory is None else np.frombuffer(memory, np.uint8)
        file = self._open(item)
        for at in range(0, item.size, _REQUEST):
            if self._shared.handout.stopped:
                return
            size = min(_REQUEST, item.size - at)
            data = self._from_device(file, item.offset + at, size)
            if data is None:
                self._through_cache(file, item, at, size, target)
            else:
                self._hand_over(item, at, data, target)

    @property
    def _own(self) -> _Row:
        if self._memory is None:
            self._memory = self._shared.scratch.part()
        return self._memory

    def _open(self, item: Range) -> _File:
        file = self._file
        if file is None or file.name != item.name:
            self.close()
            with self._view.errors(item.name):
                file = self._file = _File(self._view, item.name)
        end = item.offset + item.size
        if item.offset < 0 or end > file.bytes:
            raise self._view.damaged(item.name, f"it has {file.bytes} bytes, and byte {end} is to be read")
        return file

    def _from_device(self, file: _File, offset: int, size: int) -> _Row | None:
        """Read past the page cache, unless it has the bytes already or that is refused."""
        shared, view = self._shared, self._view
        if size < _SMALL or shared.cache.holds(file.name, file.fd, offset, file.bytes):
            return None
        if not shared.past_cache or view.refuses_direct:
            posix.will_need(file.fd, offset, size)
            return None
        with view.errors(file.name):
            try:
                # None at an end that came too early, of which the page cache then says where it is.
                return read_aligned(file.past(), offset, size, self._own)
            except OSError as error:
                if not is_refusal(error):
                    raise
                view.refuses_direct = True
                return None

    def _hand_over(self, item: Range, at: int, data: _Row, target: _Row | None) -> None:
        with self._shared.working:
            if target is not None:
                row = target[at : at + len(data)]
                np.copyto(row, data)
                data = row
            item.take(at, data.data)

    def _through_cache(self, file: _File, item: Range, at: int, size: int, target: _Row | None) -> None:
        row = self._own[:size] if target is None else target[at : at + size]
        offset = item.offset + at
        with self._shared.working:
            if target is not None and is_slow_copy(offset, row):
                self._detour(file, offset, row)
            else:
                self._fill(file, offset, row)
            item.take(at, row.data)

    def _detour(self, file: _File, offset: int, row: _Row) -> None:
        """Read to where the processor copies fast, and on from there."""
        for start in range(0, len(row), _STRIDE):
            part = row[start : start + _STRIDE]
            memory = far_from(offset + start, self._own)[: len(part)]
            self._fill(file, offset + start, memory)
            np.copyto(part, memory)

    def _fill(self, file: _File, offset: int, row: _Row) -> None:
        done = 0
        while done < len(row):
            with self._view.errors(file.name):
                count = posix.preadv(file.fd, row[done:].data, offset + done)
            if count <= 0:
                raise self._view.damaged(file.name, f"it ends at byte {offset + done}")
            done += count
