"""Reading past the page cache: straight from the device, where the cache has nothing to offer.

A cold file comes in faster that way and costs a fraction of the processor's time: the kernel takes no pages
for it. What lies in the cache already is read from there. All of it blocks, and is called in a thread.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, TypeAlias

from async_ckpt.storage import posix
from async_ckpt.system.pages import fresh_pages, resident

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["O_DIRECT", "CacheMap", "Scratch", "far_from", "is_refusal", "is_slow_copy", "read_aligned"]

O_DIRECT: int = getattr(os, "O_DIRECT", 0)
"""The flag of ``open``; 0 where there is none."""

_ALIGNMENT = 4096
_TOO_NEAR = 64
_STRETCH = 32 << 20
_SAMPLES = 16
_REFUSED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EMFILE, errno.ENFILE}

_Row: TypeAlias = "npt.NDArray[np.uint8]"


def is_refusal(error: OSError) -> bool:
    """Say whether an error means that it has to go through the page cache, and nothing else."""
    return error.errno in _REFUSED


class Scratch:
    """Memory that threads read into, a part for each, taken from the system when the first one needs it.

    On huge pages, as a device takes only so many pages per request. Not passed on to forked children: a fork
    would separate the memory from what the device writes.

    Args:
        parts: How many threads there are.
        nbytes: Bytes that one read may ask for.
    """

    def __init__(self, parts: int, nbytes: int) -> None:
        # A read starts and ends within a page.
        self._each = -(-nbytes // _ALIGNMENT) * _ALIGNMENT + _ALIGNMENT
        self._parts = parts
        self._next = 0
        self._row: _Row | None = None
        self._lock = threading.Lock()

    def part(self) -> _Row:
        """Give a thread its part."""
        with self._lock:
            if self._row is None:
                self._row = fresh_pages(self._parts * self._each, inherited=False)
            start = self._next * self._each
            self._next += 1
        return self._row[start : start + self._each]


def read_aligned(fd: int, offset: int, size: int, memory: _Row) -> _Row | None:
    """Read from a file that was opened with ``O_DIRECT``.

    Args:
        fd: The file.
        offset: Any.
        size: Any.
        memory: A part of a :class:`Scratch`.

    Returns:
        The bytes, in ``memory``; None if the file ends before.

    Raises:
        OSError: As usual, and what :func:`is_refusal` recognises.
    """
    before = offset % _ALIGNMENT
    start, need = offset - before, before + size
    row = memory[: -(-need // _ALIGNMENT) * _ALIGNMENT]
    done = 0
    while done < need:
        count = posix.preadv(fd, row[done:].data, start + done)
        if count <= 0:
            return None
        done += count
    return row[before:need]


def is_slow_copy(offset: int, row: _Row) -> bool:
    """Say whether the kernel would copy from the page cache to ``row`` at a quarter of its speed.

    A processor's string copy runs into itself when the destination lies a few bytes behind the source,
    counted within a page. An array of numpy's of some size always starts 16 bytes into one.
    """
    return 0 < (int(row.ctypes.data) - offset) % _ALIGNMENT < _TOO_NEAR


def far_from(offset: int, memory: _Row) -> _Row:
    """Give the part of page-aligned memory from where bytes at ``offset`` are copied to and from fast."""
    return memory[(offset + _ALIGNMENT // 2) % _ALIGNMENT :]


class CacheMap:
    """What of some files lies in the page cache, found out a stretch at a time and remembered."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], bool] = {}

    def holds(self, name: str, fd: int, offset: int, file_bytes: int) -> bool:
        """Say whether the stretch around ``offset`` seems to be there; also where nobody can tell."""
        start = offset - offset % _STRETCH
        known = self._known.get((name, start))
        if known is None:
            known = resident(fd, start, min(_STRETCH, file_bytes - start), _SAMPLES)
            self._known[name, start] = known
        return known
