"""Many ranges of bytes, read by a few threads: who reads what next, and whose failure counts."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Protocol

from async_ckpt.system.threads import finish

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from async_ckpt.storage.crew import Crew
    from async_ckpt.system.threads import Outcome, Worker

__all__ = ["WHOLE", "Handout", "Range", "serve"]

WHOLE = 1 << 20
"""Bytes up to which a range without a target is handed over in one part."""


class Range(Protocol):
    """Bytes of one file that are to be read, and what becomes of them."""

    @property
    def name(self) -> str:
        """The file."""
        ...

    @property
    def offset(self) -> int:
        """Where the first byte lies."""
        ...

    @property
    def size(self) -> int:
        """How many bytes."""
        ...

    def target(self) -> memoryview | None:
        """Give the memory to read into: writable, contiguous, ``size`` bytes. None: only to be looked at.

        Called once, in a thread, when the reading is about to begin.
        """
        ...

    def take(self, at: int, data: memoryview) -> None:
        """Look at what has arrived, in the thread that read it, while it is in the processor's cache.

        Called for one part after the other, never twice at a time; nothing is said of an empty range. What
        it raises ends the reading.

        Args:
            at: Bytes of the range before this part.
            data: The part of the target; without a target, memory that is lent for this call.
        """
        ...


class Handout:
    """Gives each range to one thread, in order, until all are given out, one failed, or nobody wants more."""

    def __init__(self, ranges: Sequence[Range]) -> None:
        self._ranges = ranges
        self._next = 0
        self._failure: tuple[int, BaseException] | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._ranges)

    @property
    def stopped(self) -> bool:
        """Whether to leave off in the middle of a range."""
        return self._stopped

    def stop(self) -> None:
        """End it as soon as possible."""
        self._stopped = True

    def run(self, read: Callable[[Range], None]) -> None:
        """Read one range after the other; several threads do so at the same time."""
        while (number := self._draw()) is not None:
            try:
                read(self._ranges[number])
            except BaseException as error:  # noqa: BLE001 - raised by `check`, in the order of the ranges
                self._fail(number, error)

    def check(self) -> None:
        """Raise the failure, if there was one.

        What had begun when the first one failed was read to its end, so it is always the failure of the
        foremost range that is raised, whichever thread was faster. It is raised once.
        """
        if self._failure is not None:
            error, self._failure = self._failure[1], None
            try:
                raise error
            finally:
                # Its traceback holds this frame. A circle would keep the memory that was read into.
                del error

    def _draw(self) -> int | None:
        with self._lock:
            number = self._next
            if self._stopped or self._failure is not None or number >= len(self._ranges):
                return None
            self._next += 1
            return number

    def _fail(self, number: int, error: BaseException) -> None:
        with self._lock:
            if self._failure is None or number < self._failure[0]:
                self._failure = (number, error)


async def serve(crew: Crew, worker: Worker, threads: int, handout: Handout, body: Callable[[], None]) -> None:
    """Run ``body``, which runs the handout, in a few threads, and wait for all of them.

    Raises:
        BaseException: The failure of the foremost range, or what ``body`` raised.

    Cancellation: the handout is stopped, and the threads are waited for.
    """
    running: list[asyncio.Future[Outcome[None]]] = []
    try:
        for _ in range(min(threads, len(handout))):
            running.append(crew.start(worker, body))  # noqa: PERF401 - those started are to be known
        if running:
            await asyncio.wait(running)
    except BaseException:
        handout.stop()
        if running:
            await finish(asyncio.wait(running))
        raise
    handout.check()
    for future in running:
        future.result().unwrap()
