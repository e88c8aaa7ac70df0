"""Having memory ready before the first save asks for it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from async_ckpt.state.arena import PIECE, prefault
from async_ckpt.system.threads import Outcome, finish

if TYPE_CHECKING:
    from async_ckpt.saver.engine import Engine

__all__ = ["Warming"]


class Warming:
    """Touches an owner's memory in the background, with several threads, until somebody wants it.

    Args:
        engine: Whose memory and threads.
        owner: Gets this memory at its next save.
    """

    def __init__(self, engine: Engine, owner: object) -> None:
        self._engine = engine
        self._owner = owner
        self._stop = False
        self._over = asyncio.Event()
        self._over.set()

    async def warm(self, nbytes: int) -> None:
        """Have so much memory ready; returns at once if that is under way, or others need the memory.

        Cancellation: what was touched stays so; the threads have ended when it is raised.
        """
        if not self._over.is_set():
            return
        loan = self._engine._memory.try_lend(nbytes, self._owner)
        if loan is None:
            return
        self._stop = False
        self._over.clear()
        try:
            if loan.arena.warm < nbytes:
                await self._touch(loan.arena.reserve(nbytes))
                if not self._stop:
                    loan.arena.warm = nbytes
        finally:
            self._over.set()
            self._engine._memory.give_back(loan)

    async def end(self) -> None:
        """Stop, for the memory is wanted now."""
        self._stop = True
        await self._over.wait()

    async def _touch(self, memory: memoryview) -> None:
        pieces = deque(memory[start : start + PIECE] for start in range(0, len(memory), PIECE))

        def run() -> None:
            while not self._stop:
                try:
                    piece = pieces.popleft()
                except IndexError:
                    return
                prefault(piece)

        engine, started = self._engine, list[asyncio.Future[Outcome[None]]]()
        try:
            for _ in range(engine._copy_threads):
                started.append(engine._warmer.submit(run))
            await asyncio.wait(started)
        except BaseException:
            # Memory lacks, or it was cancelled: none of them may touch what others are given now.
            self._stop = True
            for future in started:
                await finish(future)
            raise
        finally:
            pieces.clear()
        for future in started:
            future.result().unwrap()
