"""async_ckpt itself."""

from __future__ import annotations

import asyncio
import inspect
import time
from pathlib import Path
from typing import Any, Literal

from async_ckpt import PendingSave, Saver
from benchmarks.measure import compute
from benchmarks.states import Arrays
from benchmarks.systems.base import Times, UnavailableError
from benchmarks.threads import Thread

__all__ = ["Ours", "OursThroughAWindow", "make_saver"]

STEP_SECS = 0.3


def make_saver(directory: Path, **options: Any) -> Saver:
    """Build a saver that keeps everything: what is deleted when is not what is measured.

    Raises:
        UnavailableError: This version does not know one of the options.
    """
    known = inspect.signature(Saver).parameters
    for name in options:
        if name not in known:
            message = f"Saver does not take {name}= in this version"
            raise UnavailableError(message)
    return Saver(directory, max_to_keep=None, **options)


class Ours:
    """A saver with either way of staging; with overlap the next step computes for 300 ms beside the copy."""

    def __init__(self, staging: Literal["copy", "overlap"], **options: Any) -> None:
        self._staging = staging
        self._options = options
        self._trainer = Thread("trainer")
        self._state: Arrays = {}
        self._saver: Saver | None = None

    def adopt(self, arrays: Arrays) -> None:
        self._state = arrays

    async def open(self, directory: Path) -> None:
        self._saver = make_saver(directory, staging=self._staging, **self._options)
        await self._saver.open()
        prepare: Any = getattr(self._saver, "prepare", None)
        if prepare is not None:
            await prepare(self._state)

    async def save(self, step: int) -> Times:
        assert self._saver is not None
        began = time.perf_counter()
        pending = self._saver.start_save(self._state, step)
        called = time.perf_counter()
        if self._staging == "copy":
            await pending.staged()
            released = time.perf_counter()
            await pending
            return Times(began, released, time.perf_counter(), parts={"call": called - began})
        done = asyncio.create_task(_when_durable(pending))
        await self._trainer.call(compute, STEP_SECS)
        asked = time.perf_counter()
        async with self._saver.mutating():
            released = time.perf_counter()
        durable = await done
        call, wait = called - began, released - asked
        return Times(began, released, durable, held=call + wait, parts={"call": call, "wait": wait})

    async def close(self) -> None:
        self._trainer.close()
        if self._saver is not None:
            await self._saver.aclose()


async def _when_durable(pending: PendingSave) -> float:
    await pending
    return time.perf_counter()


class OursThroughAWindow(Ours):
    """Staging through a window of a quarter of the state."""

    def __init__(self) -> None:
        super().__init__("copy")

    def adopt(self, arrays: Arrays) -> None:
        super().adopt(arrays)
        size = sum(array.nbytes for names in arrays.values() for array in names.values())
        self._options = {"staging_bytes": max(size // 4, 2**20)}
