"""Small files: a few hops to the store's own thread, through aiofiles."""

from __future__ import annotations

import asyncio
import errno
import os
from functools import partial
from typing import TYPE_CHECKING

import aiofiles

from async_ckpt.storage import posix

if TYPE_CHECKING:
    from async_ckpt.system.threads import Worker

__all__ = ["write_small"]


async def write_small(worker: Worker, directory: int, name: str, data: bytes | memoryview) -> None:
    """Create ``name`` in an open directory, write ``data`` and wait until it is on the disk.

    Raises:
        OSError: From any of the calls, ``close`` included; the file is then worthless.
    """
    opener = partial(_open_new, directory)
    loop = asyncio.get_running_loop()
    file = await aiofiles.open(name, "xb", buffering=0, opener=opener, executor=worker.pool, loop=loop)
    # Not as a context manager: that would close it in the loop's default executor, which belongs to nobody.
    try:
        rest = memoryview(data)
        while rest:
            count = await file.write(rest)
            if not count:
                raise OSError(errno.EIO, "the device accepts no bytes and reports no error")
            rest = rest[count:]
        await worker.call(posix.fsync, file.fileno())
    finally:
        await file.close()


def _open_new(directory: int, name: str, flags: int) -> int:
    return posix.open_new(name, directory, flags & ~(os.O_CREAT | os.O_EXCL))
