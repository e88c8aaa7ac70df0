"""What a writer does to the directory: attempts, the rename that commits, removal, sweeping.

All of it blocks, and is called in a thread that holds the writer's lock.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import stat
from typing import TYPE_CHECKING, Literal

from async_ckpt.errors import SaveError
from async_ckpt.storage import pins, posix
from async_ckpt.storage.names import ABANDONED, REPLACED, TEMP, TRASH, parse_step, step_after, step_name

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Attempt",
    "abandon",
    "begin",
    "commit",
    "discard",
    "empty_trash",
    "link",
    "list_steps",
    "publish",
    "remove",
    "save_errors",
    "sweep",
    "unlink_quietly",
]

_log = logging.getLogger(__name__)


class Attempt:
    """One attempt to save a step.

    Attributes:
        id: Unique in the directory.
        step: The step.
        temp: Name of its directory.
        path: The whole path of it, for messages.
        fd: The open directory.
        writing: Files being written right now.
        last: The file that was finished last.
        failed: Whether a write failed; such an attempt never commits.
        aside: What the checkpoint is called that had to make way and could not be put back; empty if none.
    """

    def __init__(self, ident: str, step: int, location: str) -> None:
        self.id = ident
        self.step = step
        self.temp = f"{TEMP}{step_name(step)}-{ident}"
        self.path = f"{location}/{self.temp}"
        self.fd = -1
        self.writing = 0
        self.last = ""
        self.failed = False
        self.aside = ""

    def close(self) -> None:
        """Close the directory. May be called twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            posix.close_quietly(fd)


@contextlib.contextmanager
def save_errors(
    path: str, step: int | None = None, outcome: Literal["failed", "unknown"] = "failed"
) -> Iterator[None]:
    """Turn an ``OSError`` into a ``SaveError`` that names the path and the cause."""
    try:
        yield
    except OSError as error:
        at = "" if step is None else f"step {step}: "
        msg = f"{at}{path}: {posix.cause_of(error)}"
        raise SaveError(msg, step=step, path=path, outcome=outcome) from error


def begin(root: int, location: str, step: int) -> Attempt:
    """Make the directory of a new attempt.

    Raises:
        SaveError: It cannot be made, or ``location`` no longer leads to the directory that was opened there.
    """
    attempt = Attempt(secrets.token_hex(8), step, location)
    if not _leads_to(location, root):
        # What is saved by descriptor goes to wherever it is now, where nobody who was told a path will look.
        message = f"{location} was moved, deleted or replaced while it was open: start the run again"
        raise SaveError(message, step=step, path=location)
    with save_errors(attempt.path, step):
        os.mkdir(attempt.temp, dir_fd=root)
        try:
            attempt.fd = posix.open_directory(attempt.temp, root)
        except BaseException:
            _remove_quietly(attempt.temp, root)
            raise
    return attempt


def _leads_to(location: str, root: int) -> bool:
    try:
        return os.path.samestat(os.stat(location), os.fstat(root))  # noqa: PTH116 - names stay strings here
    except FileNotFoundError:
        return False
    except OSError:
        return True  # not known; what follows will say


def link(root: int, attempt: Attempt, step: int, name: str, nbytes: int) -> bool:
    """Give a file of a checkpoint a second name in an attempt; False if it has to be written instead."""
    try:
        source = posix.open_directory(step_name(step), root)
    except OSError:
        return False
    try:
        posix.link(name, source, attempt.fd)
    except OSError:
        # Another file system, too many links, no such file: whatever it is, the bytes can still be written.
        return False
    finally:
        posix.close_quietly(source)
    with save_errors(f"{attempt.path}/{name}", attempt.step):
        try:
            fd = posix.open_file(name, attempt.fd)
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENXIO}:
                raise
            os.unlink(name, dir_fd=attempt.fd)
            return False
        try:
            if os.fstat(fd).st_size == nbytes:
                # Long durable, as far as this process knows. The new name lasts when the directory does.
                posix.fsync(fd)
                return True
        finally:
            posix.close_quietly(fd)
        os.unlink(name, dir_fd=attempt.fd)
    return False


def commit(root: int, location: str, attempt: Attempt) -> bool:
    """Make the attempt the checkpoint of its step; True if an older one is rubbish now."""
    final = step_name(attempt.step)
    path = f"{location}/{final}"
    with save_errors(attempt.path, attempt.step):
        posix.fsync(attempt.fd)
    try:
        old = _place(root, attempt, final)
    except OSError as error:
        # The call may have failed after the fact; over a network it may even have been repeated.
        outcome: Literal["failed", "unknown"] = "failed"
        if _is_at(root, final, attempt.fd):
            outcome = "unknown"
        elif attempt.aside:
            # The older one is whole, and out of sight until somebody puts it back.
            outcome = "unknown"
        with save_errors(path, attempt.step, outcome):
            raise error from None
    with save_errors(path, attempt.step, "unknown"):
        posix.fsync(root)
    if old is not None:
        with contextlib.suppress(OSError):
            posix.rename(old, _trash(attempt.step), root)
    attempt.close()
    return old is not None


def _place(root: int, attempt: Attempt, final: str) -> str | None:
    """Rename the attempt to ``final`` and return the name that an older one now has."""
    if not _exists(root, final):
        posix.rename(attempt.temp, final, root)
        return None
    if posix.exchange(attempt.temp, final, root):
        return attempt.temp
    # For a moment there is neither; a writer that finds it so puts the old one back.
    # Known before it is so: whatever ends this in between, the old one can be found.
    attempt.aside = aside = f"{REPLACED}{final}-{secrets.token_hex(8)}"
    try:
        posix.rename(final, aside, root)
        posix.rename(attempt.temp, final, root)
    except BaseException:
        _put_back(root, attempt)
        raise
    attempt.aside = ""
    return aside


def _put_back(root: int, attempt: Attempt) -> None:
    """Let the checkpoint that had to make way have its name again; if that fails, it is tried again later."""
    final = step_name(attempt.step)
    with contextlib.suppress(OSError):
        if not attempt.aside:
            return
        if _is_taken(root, final):
            attempt.aside = ""
        else:
            posix.rename(attempt.aside, final, root)
            attempt.aside = ""
            posix.fsync(root)


def _exists(root: int, name: str) -> bool:
    try:
        found = os.stat(name, dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EEXIST, "something that is not a checkpoint has this name", name)
    return True


def _is_at(root: int, name: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(name, dir_fd=root, follow_symlinks=False), os.fstat(fd))
    except OSError:
        return False


def discard(root: int, attempt: Attempt) -> None:
    """Free what a failed attempt takes.

    Where an exchange was cut short, its name may have become that of the older checkpoint: only the directory
    itself can tell. What cannot be told apart is left for the sweep, which waits for the disk first.
    """
    try:
        _put_back(root, attempt)
        if _is_at(root, attempt.temp, attempt.fd):
            _remove_quietly(attempt.temp, root)
    finally:
        attempt.close()


def publish(directory: int, temp: str, name: str, path: str, step: int) -> None:
    """Let a finished small file appear in a checkpoint."""
    with save_errors(path, step):
        posix.rename(temp, name, directory)
    with save_errors(path, step, "unknown"):
        posix.fsync(directory)


def unlink_quietly(name: str, directory: int) -> None:
    """Remove what is left of a small file, if anything is."""
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=directory)


def list_steps(root: int) -> list[int]:
    """List the committed steps, ascending, and make sure that they are durable; raises ``OSError``."""
    with os.scandir(root) as entries:
        found = [parse_step(e.name) for e in entries if e.is_dir(follow_symlinks=False)]
    steps = sorted(step for step in found if step is not None)
    try:
        # Another process may be between its rename and its own wait for the disk.
        posix.fsync(root)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EROFS, errno.ENOTSUP, errno.EBADF}:
            raise
    return steps


def remove(root: int, location: str, step: int) -> bool:
    """Put a checkpoint out of sight for good unless it is pinned or read; its files are left as rubbish.

    Returns:
        False if it stays or was not there.
    """
    name = step_name(step)
    with save_errors(f"{location}/{name}", step):
        if not _exists(root, name) or step in pins.pinned(root):
            return False
        trash = _trash(step)
        posix.rename(name, trash, root)
        if step in pins.pinned(root):
            # A reader came in between. One that comes later does not find the directory.
            posix.rename(trash, name, root)
            return False
        posix.fsync(root)
    return True


def abandon(root: int, location: str, above: int) -> list[int]:
    """Put every checkpoint above a step aside."""
    with save_errors(location):
        steps = [step for step in list_steps(root) if step > above]
        for step in reversed(steps):
            name = step_name(step)
            posix.rename(name, f"{ABANDONED}{name}-{secrets.token_hex(8)}", root)
            pins.unpin(root, step)
        if steps:
            posix.fsync(root)
    return steps


def sweep(root: int) -> None:
    """Remove what dead writers left; raises ``OSError`` if the directory cannot be made durable.

    An exchange whose outcome is unknown has its loser among the rubbish, so first the names must last.
    """
    posix.fsync(root)
    for name in os.listdir(root):
        step = step_after(REPLACED, name)
        if step is not None and not _is_taken(root, step_name(step)):
            posix.rename(name, step_name(step), root)
            posix.fsync(root)
    empty_trash(root, TEMP, TRASH, REPLACED)


def _is_taken(root: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _trash(step: int) -> str:
    return f"{TRASH}{step_name(step)}-{secrets.token_hex(8)}"


def empty_trash(root: int, *prefixes: str) -> None:
    """Delete the rubbish that nobody reads; what resists is left for the next time."""
    try:
        leased = pins.leased(root)
        names = os.listdir(root)
    except OSError as error:
        _log.warning("cannot look for rubbish: %s", error)
        return
    for name in names:
        steps = [step_after(prefix, name) for prefix in prefixes or (TRASH,)]
        if any(step is not None and step not in leased for step in steps):
            _remove_quietly(name, root)


def _remove_quietly(name: str, root: int) -> None:
    try:
        posix.remove_tree(name, root)
    except OSError as error:
        _log.warning("cannot remove %s: %s", name, error)
