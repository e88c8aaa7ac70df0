"""Memory from the operating system, taken and given back without holding the interpreter.

``mmap.mmap`` keeps the interpreter's lock during the system call. While other threads touch fresh memory
that call may have to wait for them, for a tenth of a second, and every Python thread with it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["HUGE", "fresh_pages", "mapped_file", "resident"]

HUGE = 2 << 20
"""Bytes of a huge page on the machines where there are any."""

_PAGE = mmap.PAGESIZE


class _System:
    """The calls, with arguments as wide as they are on 64-bit Linux."""

    def __init__(self, library: Any) -> None:
        address, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        self._map = library.mmap
        self._map.restype = address
        self._map.argtypes = [address, size, number, number, number, ctypes.c_long]
        self._unmap = library.munmap
        self._unmap.argtypes = [address, size]
        self._advise = library.madvise
        self._advise.argtypes = [address, size, number]
        self._in_core = library.mincore
        self._in_core.argtypes = [address, size, ctypes.c_char_p]

    def map(self, size: int, protection: int, flags: int, fd: int = -1, offset: int = 0) -> int:
        address = self._map(None, size, protection, flags, fd, offset)
        if address is None or address == ctypes.c_void_p(-1).value:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return int(address)

    def unmap(self, address: int, size: int) -> None:
        self._unmap(address, size)

    def advise(self, address: int, size: int, name: str) -> None:
        """Give an advice; where the kernel knows no such one, only what it would have gained is lost."""
        advice = getattr(mmap, name, None)
        if advice is not None:
            self._advise(address, size, advice)

    def in_core(self, address: int) -> bool:
        """Say whether a page is in memory; also where the kernel does not tell."""
        there = ctypes.create_string_buffer(1)
        page = address - address % _PAGE
        return self._in_core(page, 1, there) != 0 or there.raw[0] & 1 == 1


def _find() -> _System | None:
    if not sys.platform.startswith("linux") or sys.maxsize < 2**32:
        return None
    try:
        return _System(ctypes.CDLL(None, use_errno=True))
    except AttributeError:
        return None


_system = _find()


class _Mapping:
    """Memory that numpy sees as bytes; given back when the last array of it is gone."""

    def __init__(
        self, system: _System, size: int, flags: int, fd: int = -1, *, writable: bool = True
    ) -> None:
        self._system = system
        self._size = size
        self._address = 0
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._address = system.map(size, protection, flags, fd)
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (size,),
            "data": (self._address, not writable),
        }

    def advise(self, name: str) -> None:
        self._system.advise(self._address, self._size, name)

    def __del__(self) -> None:
        if self._address:
            self._system.unmap(self._address, self._size)


def fresh_pages(nbytes: int, *, inherited: bool = True) -> npt.NDArray[np.uint8]:
    """Give a writable row of bytes that nobody else can see, on huge pages where there are any.

    It starts where a huge page does. None of it is touched, so it is quick whatever the size.

    Args:
        nbytes: How many; what is in them is undefined.
        inherited: Whether a forked child has them too. A fork while a device writes to memory that is
            inherited may separate the two.

    Raises:
        MemoryError: There is not that much.
    """
    import numpy as np  # noqa: PLC0415 - this module is imported by commands that never get here

    if _system is None:
        return np.empty(nbytes, np.uint8)
    try:
        # Longer by a huge page that stays untouched, so that the row can start where one does.
        size = -(-nbytes // _PAGE) * _PAGE + HUGE
        pages = _Mapping(_system, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        msg = f"no memory for {nbytes} bytes"
        raise MemoryError(msg) from error
    pages.advise("MADV_HUGEPAGE")
    if not inherited:
        pages.advise("MADV_DONTFORK")
    row: npt.NDArray[np.uint8] = np.asarray(pages)
    start = -int(row.ctypes.data) % HUGE
    return row[start : start + nbytes]


def mapped_file(fd: int, size: int) -> npt.NDArray[np.uint8]:
    """See a file as memory; nothing is read until it is looked at, and the file may be unlinked meanwhile.

    What is written to it is seen by nobody else and never reaches the file. It is read-only where the system
    does not promise memory for as many pages as could be written to.

    Args:
        fd: The file; may be closed afterwards.
        size: Its bytes.

    Raises:
        OSError: It cannot be mapped.
    """
    import numpy as np  # noqa: PLC0415 - as above

    if not size:
        return np.empty(0, np.uint8)
    if _system is None:
        return np.frombuffer(mmap.mmap(fd, size, access=mmap.ACCESS_COPY), np.uint8)
    try:
        pages = _Mapping(_system, size, mmap.MAP_PRIVATE, fd)
    except OSError:
        pages = _Mapping(_system, size, mmap.MAP_PRIVATE, fd, writable=False)
    return np.asarray(pages)


def resident(fd: int, offset: int, size: int, samples: int) -> bool:
    """Say whether a stretch of a file seems to lie in the page cache, by a few of its pages.

    Says yes where the system does not tell: to those who may not write to the file, for one.

    Args:
        fd: The file.
        offset: Where the stretch begins.
        size: Its bytes, at least one.
        samples: How many pages are looked at, at least two; the first and the last are among them.
    """
    if _system is None:
        return True
    before = offset % mmap.ALLOCATIONGRANULARITY
    length = before + size
    try:
        address = _system.map(length, mmap.PROT_READ, mmap.MAP_SHARED, fd, offset - before)
    except OSError:
        return True
    try:
        places = (before + (size - 1) * sample // (samples - 1) for sample in range(samples))
        return all(_system.in_core(address + place) for place in places)
    finally:
        _system.unmap(address, length)
