"""Pins and leases: one empty file each in ``.pins``.

A pin lasts until it is removed. A lease is a file that its reader keeps locked: when the reader
dies the kernel drops the lock, and whoever looks next removes the file. No writer's lock is needed.
All of it blocks, and is called in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from typing import TYPE_CHECKING

from async_ckpt.storage import posix
from async_ckpt.storage.lock import HeldFile, try_lock
from async_ckpt.storage.names import LEASE, PIN, PINS, step_after, step_name

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["drop_lease", "lease_count", "leased", "pin", "pinned", "take_lease", "unpin"]

_NO_LEASE = {
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOLCK,
    errno.ENOTSUP,
}


def pin(root: int, step: int) -> None:
    """Make the pin and its directory durable; raises ``OSError``."""
    with _make_directory(root) as directory:
        with contextlib.suppress(FileExistsError):
            os.close(posix.open_new(PIN + step_name(step), directory))
        posix.fsync(directory)
    # Whoever made the directory may have failed or died before its name was on the disk.
    posix.fsync(root)


def unpin(root: int, step: int) -> None:
    """Remove the pin, durably, if there is one; raises ``OSError``."""
    with contextlib.suppress(FileNotFoundError), _directory(root) as directory:
        os.unlink(PIN + step_name(step), dir_fd=directory)
        posix.fsync(directory)


def pinned(root: int) -> set[int]:
    """Return the steps with a pin or a live lease; raises ``OSError``."""
    found = leased(root)
    with contextlib.suppress(FileNotFoundError), _directory(root) as directory:
        found |= _steps(directory, PIN).keys()
    return found


def leased(root: int) -> set[int]:
    """Return the steps that somebody reads, and sweep what dead readers left; raises ``OSError``."""
    live: set[int] = set()
    with contextlib.suppress(FileNotFoundError), _directory(root) as directory:
        for step, names in _steps(directory, LEASE).items():
            # Every one is looked at, so that one reader's life does not keep another's litter.
            dead = [_sweep(name, directory) for name in names]
            if not all(dead):
                live.add(step)
    return live


def lease_count(root: int, step: int) -> int:
    """Count the leases of a step, those of dead readers too; raises ``OSError``."""
    try:
        with _directory(root) as directory:
            return len(_steps(directory, LEASE).get(step, []))
    except FileNotFoundError:
        return 0


def take_lease(root: int, step: int) -> HeldFile | None:
    """Lease a step, whether or not it is there.

    Returns:
        None where a lease cannot be written or locked, such as on a read-only or a full disk: what
        is there can be read all the same, and every byte is checked.

    Raises:
        OSError: Another reason keeps the lease from being written.
    """
    try:
        with _make_directory(root) as directory:
            while True:
                name = f"{LEASE}{step_name(step)}-{secrets.token_hex(8)}"
                fd = posix.open_new(name, directory, os.O_RDWR)
                try:
                    fcntl.flock(fd, fcntl.LOCK_SH)
                    swept = os.fstat(fd).st_nlink == 0
                except BaseException:
                    posix.close_quietly(fd)
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=directory)
                    raise
                if not swept:
                    return HeldFile(fd, name)
                # Somebody took it for a dead reader's between our open and our lock.
                posix.close_quietly(fd)
    except OSError as error:
        if error.errno in _NO_LEASE:
            return None
        raise


def drop_lease(root: int, lease: HeldFile) -> None:
    """End a lease; a file that stays behind is swept by the next one who looks."""
    with contextlib.suppress(OSError), _directory(root) as directory:
        os.unlink(lease.name, dir_fd=directory)
    lease.close()


def _sweep(name: str, directory: int) -> bool:
    """Remove a lease whose reader is dead and say whether it was."""
    try:
        fd = posix.open_file(name, directory)
    except FileNotFoundError:
        return True
    try:
        if not try_lock(fd):
            return False
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)
        return True
    finally:
        posix.close_quietly(fd)


def _steps(directory: int, prefix: str) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for name in os.listdir(directory):
        step = step_after(prefix, name)
        if step is not None:
            found.setdefault(step, []).append(name)
    return found


@contextlib.contextmanager
def _directory(root: int) -> Iterator[int]:
    fd = posix.open_directory(PINS, root)
    try:
        yield fd
    finally:
        posix.close_quietly(fd)


@contextlib.contextmanager
def _make_directory(root: int) -> Iterator[int]:
    with contextlib.suppress(FileExistsError):
        os.mkdir(PINS, dir_fd=root)
    with _directory(root) as fd:
        yield fd
