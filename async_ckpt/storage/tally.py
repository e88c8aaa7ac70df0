"""Who is still working in a directory, so that its lock outlives the last of them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from async_ckpt.system.threads import insist

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Tally"]


class Tally:
    """A count of running operations, and what is to be done once, when it falls to zero.

    It is kept by the threads themselves: the loop that started them may be gone when they end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._last: list[Callable[[], None]] = []
        # Bound once, and not when memory may lack for it.
        self._count_out = self._count_one_out
        self._next = self._take_last

    # Not `with`: leaving that asks for memory, and where there is none the lock is kept for ever.

    def enter(self) -> None:
        """Count one more."""
        self._lock.acquire()
        try:
            self._count += 1
        finally:
            self._lock.release()

    def leave(self) -> None:
        """Count one less; the last one does what :meth:`when_idle` was given."""
        # An operation that failed for lack of memory has to be counted out all the same.
        insist(self._count_out)
        while (call := insist(self._next)) is not None:
            call()

    def _count_one_out(self) -> None:
        self._lock.acquire()
        try:
            self._count -= 1
        finally:
            self._lock.release()

    def _take_last(self) -> Callable[[], None] | None:
        self._lock.acquire()
        try:
            return self._last.pop(0) if self._last and self._count == 0 else None
        finally:
            self._lock.release()

    def when_idle(self, last: Callable[[], None]) -> None:
        """Call ``last`` once nothing runs: now, or in the thread that ends last."""
        self.enter()
        try:
            insist(lambda: self._last.append(last))
        finally:
            self.leave()
