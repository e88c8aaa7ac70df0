"""Large files: one thread pushes aligned memory past the page cache.

Direct writes leave the processor and the page cache to the training, and their speed is that of the
device. Where the file system refuses them, at the open or only at the first write, the same loop
goes on through the page cache. All of it blocks, and is called in a thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import sys
from typing import TYPE_CHECKING

from async_ckpt.storage import posix

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from async_ckpt.storage.store import Pieces

__all__ = ["ALIGNMENT", "CHUNK", "StoppedError", "close", "write_file"]

ALIGNMENT = 4096
"""Bytes; what addresses, offsets and lengths of direct writes are a multiple of."""

CHUNK = 32 << 20
"""Bytes per system call; from 8 MiB on a larger one gains nothing."""

_O_DIRECT: int = getattr(os, "O_DIRECT", 0)
_REFUSED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}


class StoppedError(Exception):
    """The caller no longer wants the file."""


def write_file(
    directory: int,
    name: str,
    data: memoryview | Pieces,
    progress: Callable[[int], None],
    stopped: Callable[[], bool],
) -> None:
    """Create ``name``, write ``data`` to it and wait until it is on the disk.

    Raises:
        OSError: From any of the calls, ``close`` included; the file is then worthless.
        StoppedError: ``stopped`` said so; the file is then incomplete.
        ValueError: The pieces are fewer bytes than they said.
        BaseException: Whatever making a piece raised; the file is then incomplete.
    """
    fd = posix.open_new(name, directory)
    try:
        _reserve(fd, data.nbytes)
        file = _File(fd, progress, stopped)
        with contextlib.closing(_pieces(data)) as pieces:
            for piece in pieces:
                file.append(piece)
        file.end(name, data.nbytes)
        posix.fsync(fd)
    except BaseException:
        posix.close_quietly(fd)
        raise
    close(fd)


def close(fd: int) -> None:
    """Close a file; on some file systems this is where a write fails."""
    os.close(fd)


def _pieces(data: memoryview | Pieces) -> Generator[memoryview, None, None]:
    if isinstance(data, memoryview):
        yield data
    else:
        yield from data


class _File:
    """A new file that grows at its end, past the page cache for as long as that is possible."""

    def __init__(self, fd: int, progress: Callable[[int], None], stopped: Callable[[], bool]) -> None:
        self.done = 0
        self._fd = fd
        self._progress = progress
        self._stopped = stopped
        self._direct = False
        self._refused = False

    def append(self, data: memoryview) -> None:
        start, total = self.done, self.done + len(data)
        if not self._refused and not self._direct and self.done % ALIGNMENT == 0 and _is_aligned(data):
            self._direct = _set_direct(self._fd, on=True)
            self._refused = not self._direct
        while self.done < total:
            if self._stopped():
                raise StoppedError
            length = min(CHUNK, total - self.done)
            if self._direct and (self.done % ALIGNMENT or length < ALIGNMENT):
                # The tail, or the rest after a short write that ended inside a block.
                self._direct = _set_direct(self._fd, on=False)
            elif self._direct:
                length -= length % ALIGNMENT
            at = self.done - start
            self._write(data[at : at + length])

    def end(self, name: str, nbytes: int) -> None:
        """Check that everything came."""
        if self.done != nbytes:
            msg = f"{name}: {self.done} bytes came of {nbytes}"
            raise ValueError(msg)

    def _write(self, data: memoryview) -> None:
        try:
            count = posix.pwrite(self._fd, data, self.done)
        except OSError as error:
            if not self._direct or error.errno not in _REFUSED:
                raise
            self._direct = _set_direct(self._fd, on=False)
            self._refused = True
            return
        if count <= 0:
            raise OSError(errno.EIO, "the device accepts no bytes and reports no error")
        if not self._direct:
            # Begun now, the way to the disk is short when `fsync` waits for it.
            posix.start_writeback(self._fd, self.done, count)
        self.done += count
        self._progress(self.done)


def _is_aligned(data: memoryview) -> bool:
    if len(data) < ALIGNMENT:
        return False
    import numpy as np  # noqa: PLC0415 - whoever has something to write has it; a reader starts without

    return int(np.frombuffer(data, np.uint8).ctypes.data) % ALIGNMENT == 0


def _set_direct(fd: int, *, on: bool) -> bool:
    """Switch direct writes on or off and say whether they are on."""
    if not _O_DIRECT:
        return False
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    flags = flags | _O_DIRECT if on else flags & ~_O_DIRECT
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    except OSError as error:
        if not on or error.errno not in _REFUSED:
            raise
        return False
    return on


def _find_fallocate() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    found = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if found is None:
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return found  # type: ignore[no-any-return]


_fallocate = _find_fallocate()


def _reserve(fd: int, length: int) -> None:
    """Reserve the blocks, so that a full disk shows before the writing; a refusal does no harm.

    Not ``posix_fallocate``: where the file system lacks it, the C library writes into every block.
    """
    if _fallocate is None or length < ALIGNMENT:
        return
    if _fallocate(fd, 0, 0, length):
        code = ctypes.get_errno()
        if code in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise OSError(code, os.strerror(code))
