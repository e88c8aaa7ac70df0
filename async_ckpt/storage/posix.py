"""A thin layer over the system calls: relative to an open directory, never through a link.

All of it blocks, and is called in a thread. The three functions at the top are the seam where tests
make a disk fail.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "cause_of",
    "close_quietly",
    "exchange",
    "fsync",
    "link",
    "make_directories",
    "open_directory",
    "open_file",
    "open_new",
    "preadv",
    "pwrite",
    "remove_tree",
    "rename",
    "start_writeback",
    "will_need",
    "write_all",
]

_AT_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_EXCHANGE = 2
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM}
_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL, errno.ENOTSUP}
"""What directories say that others made, and that this process may not read or that cannot be synced."""


def fsync(fd: int) -> None:
    """Wait until a file or a directory is on the disk."""
    os.fsync(fd)


def pwrite(fd: int, data: memoryview, offset: int) -> int:
    """Write some of ``data`` and return how many bytes."""
    return os.pwrite(fd, data, offset)


def preadv(fd: int, target: memoryview, offset: int) -> int:
    """Read some of ``len(target)`` bytes and return how many; 0 at the end of the file."""
    return os.preadv(fd, [target], offset)


def rename(source: str, target: str, directory: int) -> None:
    """Rename within one directory."""
    os.rename(source, target, src_dir_fd=directory, dst_dir_fd=directory)


def link(name: str, source: int, target: int) -> None:
    """Give a file in one directory the same name in another; a link itself is not followed."""
    os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)


def write_all(fd: int, data: memoryview, offset: int = 0) -> None:
    """Write all of ``data`` at ``offset``, continuing after short writes.

    Raises:
        OSError: The disk is full, or takes nothing any more.
    """
    done = 0
    while done < len(data):
        done += _some(pwrite(fd, data[done:], offset + done))


def _some(count: int) -> int:
    if count <= 0:
        raise OSError(errno.EIO, "the device accepts no bytes and reports no error")
    return count


def will_need(fd: int, offset: int, length: int) -> None:
    """Let the kernel begin to read a stretch of a file into its cache; waits for nothing."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)


def open_directory(name: str, directory: int | None = None) -> int:
    """Open a directory; a link in its place is an error, except for the root (``directory`` None)."""
    if directory is None:
        return os.open(name, _AT_DIRECTORY)
    return os.open(name, _AT_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)


def open_new(name: str, directory: int, flags: int = os.O_WRONLY) -> int:
    """Create a file that must not exist; its mode is up to the umask."""
    flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o666, dir_fd=directory)


def open_file(name: str, directory: int, flags: int = os.O_RDONLY) -> int:
    """Open a plain file; never follows a link, and never waits for a pipe's other end.

    Raises:
        OSError: As usual, and ``ENXIO`` for what is not a plain file.
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(name, flags, 0o666, dir_fd=directory)
    try:
        mode = os.fstat(fd).st_mode
    except BaseException:
        close_quietly(fd)
        raise
    if not stat.S_ISREG(mode):
        close_quietly(fd)
        raise OSError(errno.ENXIO, "not a plain file", name)
    return fd


def close_quietly(fd: int) -> None:
    """Close what was only read from, or what failed already.

    The descriptor is gone even when ``close`` complains, and a complaint here would hide what was achieved,
    or the error that explains it. Where a file was written it is an error of the write, and counts.
    """
    # Asks for no memory: the lack of it is often why this is called.
    try:
        os.close(fd)
    except OSError:
        return


def make_directories(path: str) -> None:
    """Make ``path`` and its ancestors, and make the new ones durable.

    Raises:
        OSError: Something on the way is not a directory, or cannot be made.
    """
    missing: list[str] = []
    while not os.path.isdir(path):  # noqa: PTH112 - the caller's paths are strings
        missing.append(path)
        path = os.path.dirname(path)  # noqa: PTH120
    try:
        # Whoever made the deepest one that is there may have failed or died before its name was on the disk.
        _make_name_durable(path)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
    for made in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(made)  # noqa: PTH102
        _make_name_durable(made)


def _make_name_durable(path: str) -> None:
    above = open_directory(os.path.dirname(path))  # noqa: PTH120
    try:
        fsync(above)
    finally:
        close_quietly(above)


def remove_tree(name: str, directory: int) -> None:
    """Remove a directory and all below it, without following links or leaving the file system.

    Raises:
        OSError: Something could not be removed; the rest of it is still there.
    """
    fd = open_directory(name, directory)
    try:
        if os.fstat(fd).st_dev != os.fstat(directory).st_dev:
            raise OSError(errno.EXDEV, "another file system is mounted here", name)
        with os.scandir(fd) as found:
            entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
        for child, is_directory in entries:
            if is_directory:
                remove_tree(child, fd)
            else:
                os.unlink(child, dir_fd=fd)
    finally:
        close_quietly(fd)
    os.rmdir(name, dir_fd=directory)


def _find_renameat2() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    found = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if found is None:
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return found  # type: ignore[no-any-return]


_renameat2 = _find_renameat2()


def exchange(one: str, other: str, directory: int) -> bool:
    """Let two names in one directory change places at one stroke.

    Returns:
        False where the file system cannot do that.

    Raises:
        OSError: It can, and failed.
    """
    if _renameat2 is None:
        return False
    if not _renameat2(directory, os.fsencode(one), directory, os.fsencode(other), _EXCHANGE):
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), one, None, other)


def _find_sync_file_range() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    found = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if found is None:
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return found  # type: ignore[no-any-return]


_WRITE_OUT = 2
_sync_file_range = _find_sync_file_range()


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Have cached bytes of a file written out from now on; promises nothing and never fails."""
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, length, _WRITE_OUT)


def cause_of(error: OSError) -> str:
    """Say in words what the operating system complained about."""
    return error.strerror or str(error)
