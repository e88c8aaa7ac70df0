"""What saving takes of a machine: threads, memory and bandwidth, for one saver or for many."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

import anyio

from async_ckpt.errors import ProtocolError
from async_ckpt.saver.arguments import positive_or_none
from async_ckpt.saver.memory import Memory
from async_ckpt.state.arena import Arena
from async_ckpt.state.placing import LEAST_WINDOW
from async_ckpt.storage.store import Pieces
from async_ckpt.system.processors import processors
from async_ckpt.system.threads import Worker
from async_ckpt.system.throttle import Throttle

__all__ = ["FILES_ABREAST", "Engine"]

_COPY_THREADS = 4
"""More threads than this do not copy faster: they share the memory's bandwidth."""

FILES_ABREAST = 4
"""How many files are written at the same time."""

_PIECE = 32 * 2**20
_BACKGROUND = 5
"""Niceness of threads whose work nobody waits for: they never keep the event loop off a core."""


class Engine:
    """Threads, staging memory and disk bandwidth that several savers share.

    By default each saver has an engine of its own. Give one to several, and all of them together stay
    within its budget and take turns, first come, first served::

        async with Engine(staging_bytes=2 << 30, io_bytes_per_sec=500e6) as engine:
            savers = [Saver(f"runs/{name}", engine=engine) for name in names]

    All its savers belong on one event loop. It outlives them: close it when they are closed.

    Args:
        staging_bytes: Bytes of memory that states may be staged in, all together; None for as many as
            they need. A state that is larger goes through a smaller window while it is written. At
            least 1 MiB.
        io_bytes_per_sec: Bytes per second that are written to disk, all together; None for no limit.
        copy_threads: How many threads copy a state; None for one per core, at most four, and beside a step
            that computes for one less, but at least one.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(
        self,
        *,
        staging_bytes: int | None = None,
        io_bytes_per_sec: float | None = None,
        copy_threads: int | None = None,
    ) -> None:
        positive_or_none("staging_bytes", staging_bytes, least=LEAST_WINDOW)
        positive_or_none("io_bytes_per_sec", io_bytes_per_sec)
        positive_or_none("copy_threads", copy_threads, least=1)
        self.staging_bytes = staging_bytes
        self.io_bytes_per_sec = io_bytes_per_sec
        cores = processors()
        self._copy_threads = copy_threads or min(_COPY_THREADS, cores)
        # As many threads as there are cores would now and then leave the step without one.
        beside = copy_threads or max(1, min(_COPY_THREADS, cores - 1))
        self._copier = Worker("async-ckpt-copy", threads=self._copy_threads)
        self._digester = Worker("async-ckpt-digest", threads=beside, nice=_BACKGROUND)
        self._filler = Worker("async-ckpt-fill", threads=beside, nice=_BACKGROUND)
        self._warmer = Worker("async-ckpt-warm", threads=self._copy_threads, nice=_BACKGROUND)
        self._memory = Memory(staging_bytes, self._release)
        self._throttle = Throttle(io_bytes_per_sec)
        self._files: anyio.CapacityLimiter | None = None
        self._loaded = False
        self._hired: set[Worker] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Engine staging_bytes={self.staging_bytes} io_bytes_per_sec={self.io_bytes_per_sec}>"

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give threads and memory back. A second call does nothing.

        What is in flight is finished; a saver that still uses it cannot start another save.
        """
        self._close()

    @property
    def memory_bytes(self) -> int:
        """Bytes of staging memory that it holds now."""
        return self._memory.held

    # -- for its savers ------------------------------------------------------------------------------

    async def _load(self) -> None:
        """Import in a thread what the first save would import on the loop, which would take long."""
        if not self._loaded:
            await self._copier.call(importlib.import_module, "anyio._backends._asyncio")
            self._loaded = True

    async def _hire(self, *workers: Worker) -> None:
        """Start their threads while the processors are free: before a large copy, not beside it."""
        new = [worker for worker in workers if worker not in self._hired]
        if not new:
            return
        self._hired.update(new)
        for worker in new:
            _ = worker.pool  # made here, so that no two threads make it
        await self._copier.call(_start_all, new)

    @property
    def _abreast(self) -> anyio.CapacityLimiter:
        """How many files may be written now; made late, for it belongs to a running loop."""
        if self._files is None:
            self._files = anyio.CapacityLimiter(FILES_ABREAST)
        return self._files

    def _paced(
        self, owner: object, data: memoryview | Pieces, stopped: Callable[[], bool]
    ) -> memoryview | Pieces:
        """Give the same bytes no faster than they may be written."""
        if self.io_bytes_per_sec is None:
            return data
        return _Paced(self._throttle, owner, data, stopped)

    def _check_open(self) -> None:
        if self._closed:
            raise ProtocolError("the engine is closed")

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._memory.close()
        for worker in (self._copier, self._digester, self._filler, self._warmer):
            worker.close()

    def _release(self, arena: Arena) -> None:
        # The operating system takes a while to take a gigabyte back, and the loop does not wait for it.
        self._warmer.pool.submit(arena.close)


def _start_all(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.hire()


class _Paced:
    """Pieces that are given when their turn has come."""

    def __init__(
        self, throttle: Throttle, owner: object, data: memoryview | Pieces, stopped: Callable[[], bool]
    ) -> None:
        self.nbytes = data.nbytes
        self._throttle = throttle
        self._owner = owner
        self._data = data
        self._stopped = stopped

    def __iter__(self) -> Iterator[memoryview]:
        size = self._throttle.piece(_PIECE)
        whole = iter([self._data]) if isinstance(self._data, memoryview) else iter(self._data)
        for part in whole:
            for start in range(0, len(part), size):
                piece = part[start : start + size]
                # Whoever is told to stop is given the piece all the same, and does not write it.
                self._throttle.take(self._owner, len(piece), self._stopped)
                yield piece
