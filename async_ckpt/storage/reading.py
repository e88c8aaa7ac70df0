"""A checkpoint's directory, held open: what is checked and what is read are the same file.

All of it blocks, and is called in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING

from async_ckpt.errors import DamagedCheckpointError, NoCheckpointError, RestoreError
from async_ckpt.storage import posix
from async_ckpt.storage.names import check_file_name, check_step, step_name
from async_ckpt.system.pages import mapped_file

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["View", "no_checkpoint", "open_root"]

_CHUNK = 32 << 20
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_DAMAGE = {errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EIO, errno.ENOTDIR}


@contextlib.contextmanager
def open_root(location: str) -> Iterator[int]:
    """Open the place for reading; raises ``OSError``."""
    fd = posix.open_directory(location)
    try:
        yield fd
    finally:
        posix.close_quietly(fd)


def no_checkpoint(location: str, step: int) -> NoCheckpointError:
    """Make the error for a step that is not there."""
    msg = f"{location}: there is no checkpoint of step {step}"
    return NoCheckpointError(msg, step=step, path=location)


class View:
    """The open directory of one checkpoint and the files opened in it.

    ``users`` and ``leases`` are kept by the store; the last user closes. ``refuses_direct`` is set by who
    finds out that its files cannot be read past the page cache.
    """

    def __init__(self, fd: int, step: int, path: str) -> None:
        self.step = step
        self.path = path
        self.users = 1
        self.leases = 0
        self.fd = fd
        self.refuses_direct = False
        self._files: dict[str, int] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, root: int, location: str, step: int) -> View:
        """Open the checkpoint of ``step``.

        Raises:
            NoCheckpointError: There is no such directory; a link does not count.
            RestoreError: It cannot be opened.
        """
        check_step(step)
        name = step_name(step)
        try:
            fd = posix.open_directory(name, root)
        except OSError as error:
            if error.errno in _ABSENT:
                raise no_checkpoint(location, step) from error
            msg = f"{location}/{name}: {posix.cause_of(error)}"
            raise RestoreError(msg, step=step, path=f"{location}/{name}") from error
        return cls(fd, step, f"{location}/{name}")

    def close(self) -> None:
        """Close everything."""
        for fd in (*self._files.values(), self.fd):
            posix.close_quietly(fd)
        self._files.clear()

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        with self.errors(name):
            return os.fstat(self._open(name)).st_size

    def read(self, name: str, limit: int) -> bytes:
        """Read a file of at most ``limit`` bytes."""
        size = self.size(name)
        if size > limit:
            raise self.damaged(name, f"{size} bytes are more than any such file has")
        data = bytearray(size)
        self.read_into(name, 0, memoryview(data))
        return bytes(data)

    def read_into(self, name: str, offset: int, target: memoryview) -> None:
        """Fill ``target`` from ``offset`` on."""
        check_file_name(name)
        end = offset + len(target)
        with self.errors(name):
            fd = self._open(name)
            size = os.fstat(fd).st_size
            if offset < 0 or end > size:
                raise self.damaged(name, f"it has {size} bytes, and byte {end} is to be read")
            done = 0
            while done < len(target):
                count = posix.preadv(fd, target[done : done + _CHUNK], offset + done)
                if count <= 0:
                    raise self.damaged(name, f"it ends at byte {offset + done}")
                done += count

    def map(self, name: str) -> memoryview:
        """See a file as memory."""
        with self.errors(name):
            fd = self.open_own(name)
            try:
                return mapped_file(fd, os.fstat(fd).st_size).data
            finally:
                posix.close_quietly(fd)

    def open_own(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Open a file for the caller alone; raises ``OSError``."""
        check_file_name(name)
        return posix.open_file(name, self.fd, flags)

    def _open(self, name: str) -> int:
        check_file_name(name)
        with self._lock:
            fd = self._files.get(name)
            if fd is None:
                fd = self._files[name] = posix.open_file(name, self.fd)
                if hasattr(os, "posix_fadvise"):
                    # A wider read-ahead: a cold file comes in three to five times as fast.
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            return fd

    @contextlib.contextmanager
    def errors(self, name: str) -> Iterator[None]:
        """Turn an ``OSError`` about a file into the ``RestoreError`` that it is."""
        try:
            yield
        except OSError as error:
            # A lack of permission or of descriptors says nothing about the bytes.
            kind = DamagedCheckpointError if error.errno in _DAMAGE else RestoreError
            path = f"{self.path}/{name}"
            msg = f"{path}: {posix.cause_of(error)}"
            raise kind(msg, step=self.step, path=path) from error

    def damaged(self, name: str, reason: str) -> DamagedCheckpointError:
        """Make the error for a file that is not what it should be."""
        path = f"{self.path}/{name}"
        return DamagedCheckpointError(f"{path}: {reason}", step=self.step, path=path)
