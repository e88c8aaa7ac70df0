"""Safeguards against calls that fail, writers that died and writers that live."""

from __future__ import annotations

from tests.reliability.mutants.mutant import Killer, Mutant

__all__ = ["FAILING"]

SCHEDULES = (Killer("schedules"),)
FSYNC_FAILS = Killer("order/test_order.py", "first")
LOCKS = Killer("writers/test_locks.py")
SWAPPING = Killer("writers/test_swapping.py", "what_is_read")


def errno(script: str, kind: str) -> Killer:
    """One script of the tier errno: each of its calls fails in one way."""
    return Killer(
        f"errno/test_errno.py::test_a_call_that_fails_costs_at_most_what_was_asked[{script}-{kind}]", "", "ci"
    )


def kill(script: str) -> Killer:
    """One script of the tier kill: the process dies at each of its calls, and again while the next recovers."""
    return Killer(f"kill/test_kill.py::test_a_kill_loses_nothing_and_leaves_nothing_torn[{script}]", "", "ci")


FAILING = [
    Mutant(
        "fsync is tried again",
        "after a failed fsync the file is dead, whatever a second fsync says",
        "storage/posix.py",
        "    os.fsync(fd)\n",
        "    try:\n        os.fsync(fd)\n    except OSError:\n        os.fsync(fd)\n",
        (FSYNC_FAILS,),
    ),
    Mutant(
        "a short write of a small file counts as whole",
        "short writes are continued",
        "storage/small.py",
        "            rest = rest[count:]\n",
        "            rest = rest[len(rest) :]\n",
        (errno("short-fresh", "short"),),
    ),
    Mutant(
        "a short write of a large file counts as whole",
        "short writes are continued",
        "storage/bulk.py",
        "        self.done += count\n",
        "        self.done += len(data)\n",
        (errno("short-large", "short"),),
    ),
    Mutant(
        "unknown is called failed",
        "an error after the rename is called unknown",
        "storage/writing.py",
        '    with save_errors(path, attempt.step, "unknown"):\n        posix.fsync(root)\n',
        "    with save_errors(path, attempt.step):\n        posix.fsync(root)\n",
        (errno("short-prune", "EIO"),),
    ),
    Mutant(
        "a failed attempt stays",
        "what a failed attempt takes is freed",
        "saver/writing.py",
        "                await self._store.discard(job.attempt)\n",
        "                pass\n",
        SCHEDULES,
    ),
    Mutant(
        "out of sight and called failed",
        "an error that leaves an older checkpoint out of sight is called unknown",
        "storage/writing.py",
        "        elif attempt.aside:\n",
        "        elif False:\n",
        (errno("short-stand-in", "EIO"),),
    ),
    Mutant(
        "what made way stays out of sight",
        "a checkpoint that had to make way for a writer that then died comes back",
        "storage/writing.py",
        "        if step is not None and not _is_taken(root, step_name(step)):\n            posix.rename(name, step_name(step), root)\n",
        "        if False:\n            posix.rename(name, step_name(step), root)\n",
        (kill("short-stand-in"),),
    ),
    Mutant(
        "what dead writers left stays",
        "a new writer deletes what dead ones left",
        "storage/writing.py",
        "    empty_trash(root, TEMP, TRASH, REPLACED)\n",
        "    empty_trash(root, TRASH, REPLACED)\n",
        (kill("short-fresh"),),
    ),
    Mutant(
        "pins are not looked at",
        "a pinned checkpoint is not deleted",
        "storage/pins.py",
        "        found |= _steps(directory, PIN).keys()\n",
        "        _steps(directory, PIN)\n",
        (Killer("order/test_order.py", "nothing"),),
    ),
    Mutant(
        "the lock is not taken",
        "one writer per directory",
        "storage/lock.py",
        "    if not try_lock(fd):\n        owner",
        "    if try_lock(fd) is None:\n        owner",
        (LOCKS,),
    ),
    Mutant(
        "a link in a file's place is followed",
        "no file of a checkpoint is reached through a link",
        "storage/posix.py",
        "    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC\n",
        "    flags |= os.O_NONBLOCK | os.O_CLOEXEC\n",
        (SWAPPING,),
    ),
    Mutant(
        "a link in a checkpoint's place is followed",
        "no checkpoint is reached through a link",
        "storage/posix.py",
        "    return os.open(name, _AT_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)\n",
        "    return os.open(name, _AT_DIRECTORY, dir_fd=directory)\n",
        (SWAPPING,),
    ),
]
