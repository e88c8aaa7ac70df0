"""Writing a checkpoint the way a saver does."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from async_ckpt.storage.store import Store

LARGE = (3 << 20) + 77


class Failing:
    """A call that fails at its ``at``-th use, before or after it has worked.

    Args:
        call: What works otherwise.
        at: Counted from 1.
        error: What is raised: the code of an ``OSError``, or a kind.
        after: Whether the failing use works all the same.
    """

    def __init__(
        self, call: Callable[..., object], at: int, error: int | type[BaseException], *, after: bool = False
    ) -> None:
        self.call, self.at, self.error, self.after = call, at, error, after
        self.uses = 0

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.uses += 1
        if self.uses != self.at:
            return self.call(*args, **kwargs)
        if self.after:
            self.call(*args, **kwargs)
        if isinstance(self.error, int):
            raise OSError(self.error, os.strerror(self.error))
        raise self.error


def nothing(_: int) -> None:
    """Progress that nobody follows."""


def never() -> bool:
    """Do not stop."""
    return False


def aligned(size: int) -> memoryview:
    """Make page-aligned memory with a recognisable content."""
    area = mmap.mmap(-1, size)
    view = memoryview(area)
    pattern = bytes(range(251))
    view[:] = (pattern * (size // 251 + 1))[:size]
    return view


def names(directory: str | Path, prefix: str = "") -> list[str]:
    """List a directory, sorted."""
    return sorted(path.name for path in Path(directory).iterdir() if path.name.startswith(prefix))


async def until(ready: Callable[[], bool]) -> None:
    """Let the loop turn until something is the case that only a thread can bring about."""
    async with asyncio.timeout(30):
        while not ready():
            await asyncio.sleep(0)


async def put(store: Store, attempt: str, name: str, data: bytes | memoryview) -> None:
    """Write one file."""
    await store.write(attempt, name, memoryview(data), progress=nothing, stopped=never)


async def save(store: Store, step: int, data: bytes | memoryview = b"data") -> None:
    """Write and commit a checkpoint, discarding it on failure."""
    attempt = await store.begin(step)
    try:
        await put(store, attempt, "x.safetensors", data)
        await put(store, attempt, "manifest.json", b"{}")
        await store.commit(attempt, step)
    except BaseException:
        await store.discard(attempt)
        raise


async def load(store: Store, step: int) -> bytes:
    """Read back what :func:`save` wrote."""
    target = bytearray(await store.size(step, "x.safetensors"))
    await store.read_into(step, "x.safetensors", 0, memoryview(target))
    return bytes(target)
