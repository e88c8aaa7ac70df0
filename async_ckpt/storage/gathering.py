"""The threads that read ranges of a checkpoint's files. All of it blocks.

Many threads wait for the device, so that it always has the next requests; only as many as there are
processors work on what has come, as more would only keep each other and the event loop from doing so.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from typing import TYPE_CHECKING, TypeAlias

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
from async_ckpt.system.processors import processors

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from async_ckpt.storage.ranges import Handout, Range
    from async_ckpt.storage.reading import View

__all__ = ["READERS", "Gathering"]

READERS = 8
"""Threads that read at the same time."""

_REQUEST = 2 << 20
"""Bytes that are asked for at once. Twice as many gain nothing, and take twice the memory; with half, threads
wait for each other and the interpreter more often."""

_Row: TypeAlias = "npt.NDArray[np.uint8]"


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
        places = min(processors(), READERS)
        self.scratch = Scratch(READERS + places, _REQUEST)
        self._desks: queue.SimpleQueue[_Desk] = queue.SimpleQueue()
        for _ in range(places):
            self._desks.put(_Desk(self.scratch))
        self._first = threading.Semaphore(places)
        self._more = threading.Event()

    def run(self, view: View) -> None:
        """Read what the handout gives to this thread."""
        if not self._first.acquire(blocking=False):
            self._more.wait()
        try:
            with contextlib.closing(_Thread(self, view)) as thread:
                self.handout.run(thread.read)
        finally:
            self._more.set()

    def waits_for_device(self) -> None:
        """Let the other threads in: as long as all is in memory, they would only take turns at the desks."""
        self._more.set()

    @contextlib.contextmanager
    def desk(self) -> Iterator[_Desk]:
        """Wait for a place to work on what has come."""
        desk = self._desks.get()
        try:
            yield desk
        finally:
            self._desks.put(desk)


class _Desk:
    """A place to work at, of which there are no more than processors, and its memory.

    What a few threads share stays in a cache, as what each had for itself would not.
    """

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._memory: _Row | None = None

    @property
    def memory(self) -> _Row:
        if self._memory is None:
            self._memory = self._scratch.part()
        return self._memory


class _File:
    """A file, opened for one thread alone, so that the kernel's read-ahead follows it."""

    def __init__(self, view: View, name: str) -> None:
        self._view = view
        self._past: int | None = None
        self.name = name
        self.fd = view.open_own(name)
        try:
            self.bytes = os.fstat(self.fd).st_size
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        posix.close_quietly(self.fd)
        if self._past is not None:
            posix.close_quietly(self._past)

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
        import numpy as np  # noqa: PLC0415 - whoever reads arrays has it; a command that lists starts without

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
        if shared.cache.holds(file.name, file.fd, offset, file.bytes):
            return None
        shared.waits_for_device()
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
        with self._shared.desk():
            if target is not None:
                row = target[at : at + len(data)]
                row[...] = data
                data = row
            item.take(at, data.data)

    def _through_cache(self, file: _File, item: Range, at: int, size: int, target: _Row | None) -> None:
        offset = item.offset + at
        with self._shared.desk() as desk:
            if target is None:
                row = desk.memory[:size]
                self._fill(file, offset, row)
            else:
                row = target[at : at + size]
                if is_slow_copy(offset, row):
                    # To where the processor copies fast, and on from there.
                    memory = far_from(offset, desk.memory)[:size]
                    self._fill(file, offset, memory)
                    row[...] = memory
                else:
                    self._fill(file, offset, row)
            item.take(at, row.data)

    def _fill(self, file: _File, offset: int, row: _Row) -> None:
        done = 0
        while done < len(row):
            with self._view.errors(file.name):
                count = posix.preadv(file.fd, row[done:].data, offset + done)
            if count <= 0:
                raise self._view.damaged(file.name, f"it ends at byte {offset + done}")
            done += count
