"""Memory that states are staged in: page-aligned, on huge pages where there are any, used again and again.

Copying into memory that was touched before is several times faster than into fresh pages, so an arena keeps
its pages. It never hands out bytes that somebody can still see: everything it gave is a view of one root
array, and while that lives, the next reservation takes fresh pages and leaves the old ones to whoever holds
them.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .dtypes import PAGE

__all__ = ["HUGE", "PIECE", "Arena", "prefault"]

HUGE = 2 * 2**20
"""Bytes of a huge page on the machines where there are any."""

PIECE = 8 * HUGE
"""Bytes that are touched in one go: at the speed of fresh memory, some tens of milliseconds."""


class Arena:
    """One growing stretch of anonymous memory, for one owner and one thread at a time.

    Attributes:
        warm: Bytes from its start that are known to have been touched; kept by whoever touches them.
    """

    def __init__(self) -> None:
        self.warm = 0
        self._map: mmap.mmap | None = None
        self._pin: _Pinned | None = None
        self._root: weakref.ref[npt.NDArray[np.uint8]] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes it holds on to."""
        return 0 if self._map is None else len(self._map)

    def lend(self) -> npt.NDArray[np.uint8]:
        """Give all of it as one writable row of bytes, the root of every view; see :meth:`lent`.

        Raises:
            ValueError: Nothing was reserved yet.
        """
        if self._map is None:
            msg = "the arena is empty"
            raise ValueError(msg)
        root = None if self._root is None else self._root()
        if root is None:
            root = np.frombuffer(self._map, np.uint8)
            self._root = weakref.ref(root)
        return root

    def lent(self) -> bool:
        """Say whether anybody still holds what :meth:`reserve` or :meth:`lend` gave, or any view of it.

        Views keep the root alive, also through memoryviews and torch tensors, so nobody has to report back.
        """
        return self._root is not None and self._root() is not None

    def reserve(self, nbytes: int) -> memoryview:
        """Give ``nbytes`` of writable memory that nobody else can see; what is in it is undefined.

        The memory of the last reservation is used again if it is large enough and nobody holds it any more.

        Args:
            nbytes: How many bytes; zero is fine.

        Raises:
            OSError: The operating system has no such memory.
        """
        if self._map is None or self.lent() or len(self._map) < nbytes:
            # Before the new pages are asked for, so that growing does not need both at once.
            self.close()
            self._map = _pages(nbytes)
            self.warm = 0
        return memoryview(self.lend().data)[:nbytes]

    def pin(self, pin: Callable[[npt.NDArray[np.uint8]], _Pinned | None]) -> bool:
        """Pin all of it once, for copies from devices; called in a thread. Says whether it is pinned.

        Args:
            pin: Pins memory, and gives what ends that; None if it cannot be done. It is not asked again for
                the same pages.
        """
        if self._pin is None:
            self._pin = pin(self.lend()) or _Refused()
            # The pages are given back before anything that hangs on the map itself is told.
            weakref.finalize(self, self._pin.unpin)
        return not isinstance(self._pin, _Refused)

    def close(self) -> None:
        """Let the memory go; what was lent stays valid for as long as it is held. May be called twice.

        Giving a gigabyte back takes the operating system a while: call it in a thread.
        """
        pin, self._pin = self._pin, None
        if pin is not None:
            pin.unpin()
        self._map = None
        self._root = None


class _Pinned(Protocol):
    def unpin(self) -> None: ...


class _Refused:
    """In place of a pin that the system would not give."""

    def unpin(self) -> None:
        """Nothing was pinned."""


def _pages(nbytes: int) -> mmap.mmap:
    size = max(PAGE, -(-nbytes // PAGE) * PAGE)
    if hasattr(mmap, "MAP_ANONYMOUS"):
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        pages = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            pages.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            # A kernel built without them; the advice was all there is to lose.
            return pages
    return pages


def prefault(memory: memoryview, *, stopped: Callable[[], bool] = lambda: False) -> bool:
    """Have every page of fresh memory mapped now, in the calling thread; overwrites a byte per page.

    The interpreter is free for other threads meanwhile. Parts of the memory may be given to several threads.

    Args:
        memory: Writable.
        stopped: Asked before each ``PIECE``.

    Returns:
        False if ``stopped`` said so on the way.
    """
    row = np.frombuffer(memory, np.uint8) if len(memory) else np.empty(0, np.uint8)
    for start in range(0, len(row), PIECE):
        if stopped():
            return False
        row[start : start + PIECE : PAGE] = 0
    return True
