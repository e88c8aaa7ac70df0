"""Who may write: advisory locks that end with the process, and with nothing else.

``flock`` belongs to an open file, so it excludes a second writer in the same process as well, and
the kernel drops it when the owner dies, however it dies. A forked child inherits the open file,
and would keep the lock alive after its parent's death; it closes its copy at once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import weakref
from datetime import UTC, datetime

import msgspec

from async_ckpt.errors import DirectoryLockedError
from async_ckpt.storage import posix, strictjson
from async_ckpt.storage.names import LOCK
from async_ckpt.system.clock import RealClock

__all__ = ["HeldFile", "take_lock", "try_lock"]

_BUSY = {errno.EWOULDBLOCK, errno.EACCES}
_OWNER_LIMIT = 4096
_OURS: weakref.WeakSet[HeldFile] = weakref.WeakSet()


class HeldFile:
    """An open file whose lock lasts until :meth:`close`; void in a forked child."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        _OURS.add(self)

    def close(self) -> None:
        """Give the lock back. May be called twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            try:
                posix.close_quietly(fd)
            except MemoryError:
                self.fd = fd  # for the call itself, so it is open, and can be closed once more
                raise


def _forget_in_child() -> None:
    # Only closing: an explicit unlock would take the lock from the parent.
    for held in list(_OURS):
        held.close()


os.register_at_fork(after_in_child=_forget_in_child)


def try_lock(fd: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock an open file without waiting and say whether that worked.

    Raises:
        OSError: The file system has no locks.
    """
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _BUSY:
            raise
        return False
    return True


def take_lock(root: int, location: str) -> HeldFile:
    """Become the one writer of the directory ``root``.

    Raises:
        DirectoryLockedError: There is another.
        OSError: The lock file cannot be made, or the file system has no locks.
    """
    while True:
        fd = posix.open_file(LOCK, root, os.O_RDWR | os.O_CREAT)
        try:
            _lock_or_tell(fd, location)
            if _is_linked(root, fd):
                os.ftruncate(fd, 0)
                posix.write_all(fd, memoryview(_describe_owner()))
                return HeldFile(fd, LOCK)
        except BaseException:
            posix.close_quietly(fd)
            raise
        # Somebody removed the file between our open and our lock: what we locked is nobody's.
        posix.close_quietly(fd)


def _lock_or_tell(fd: int, location: str) -> None:
    if not try_lock(fd):
        owner = _read_owner(fd)
        by = "" if owner is None else f" ({owner})"
        msg = f"{location}: another writer holds this directory{by}"
        raise DirectoryLockedError(msg, path=location, owner=owner)


def _is_linked(root: int, fd: int) -> bool:
    try:
        there = os.stat(LOCK, dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(fd))


def _describe_owner() -> bytes:
    boot = ""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
        boot = file.read(64).strip()
    since = datetime.fromtimestamp(RealClock().wall(), UTC).isoformat(timespec="seconds")
    return msgspec.json.encode(
        {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "boot": boot}
    )


def _read_owner(fd: int) -> str | None:
    try:
        record = strictjson.loads(os.pread(fd, _OWNER_LIMIT, 0))
        pid, host, since = record["pid"], record["host"], record["since"]
    except (OSError, ValueError, KeyError, TypeError):
        # It is only for the message, and the owner may be writing it this very moment.
        return None
    return f"process {pid} on {host}, since {since}"
