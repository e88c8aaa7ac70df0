"""How a command ends: exit codes, and one line for every error."""

from __future__ import annotations

import sys
from enum import IntEnum

from async_ckpt import errors

__all__ = ["Exit", "Refused", "explain", "one_line"]

EXTRAS = {
    "rich": "cli",
    "shtab": "cli",
    "matplotlib": "plot",
    "torch": "torch",
    "sklearn": "demo",
    "threadpoolctl": "demo",
}


class Exit(IntEnum):
    """The exit codes; see :mod:`async_ckpt.cli`."""

    DONE = 0
    FOUND = 1
    USAGE = 2
    IO = 3
    BUG = 70
    INTERRUPTED = 130


class Refused(Exception):  # noqa: N818 - it says what happened to the command
    """A command will not do what it was asked to, and says what to do instead.

    Attributes:
        code: The exit code.
    """

    def __init__(self, message: str, *, code: Exit = Exit.USAGE) -> None:
        super().__init__(message)
        self.code = code


def explain(error: BaseException) -> tuple[int, str]:
    """Return the exit code for ``error`` and the line to print (none if everything was said)."""
    if isinstance(error, errors.ListenerError) and len(error.errors) == 1:
        return explain(error.errors[0].exception)
    match error:
        case SystemExit():
            return _of_system_exit(error)
        case KeyboardInterrupt():
            return Exit.INTERRUPTED, "interrupted; what was saved so far is complete"
        case _ if _is_cancellation(error):
            return Exit.INTERRUPTED, "interrupted; what was saved so far is complete"
        case Refused():
            return error.code, one_line(error)
        case ModuleNotFoundError() if _top(error) in EXTRAS:
            extra = EXTRAS[_top(error)]
            return Exit.USAGE, f"{_top(error)} is not installed: pip install 'async-ckpt[{extra}]'"
        case errors.CheckpointError():
            return _of_checkpoint_error(error)
        case OSError():
            return Exit.IO, _of_os_error(error)
        case _:
            return Exit.BUG, f"{type(error).__name__}: {one_line(error)} (--debug shows where)"


def one_line(error: BaseException) -> str:
    """Return the message of ``error`` without line breaks; its type where there is no message."""
    return " ".join(str(error).split()) or type(error).__name__


def _is_cancellation(error: BaseException) -> bool:
    # Without asyncio nobody was cancelled, and it need not be imported to find that out.
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def _top(error: ModuleNotFoundError) -> str:
    return (error.name or "").partition(".")[0]


def _of_checkpoint_error(error: errors.CheckpointError) -> tuple[int, str]:
    line = one_line(error)
    match error:
        case errors.DirectoryLockedError():
            return Exit.IO, f"{line}; wait until it has ended, or use another directory"
        case errors.DamagedCheckpointError():
            return Exit.FOUND, line
        case errors.StructureMismatchError() | errors.UnsupportedLeafError():
            return Exit.USAGE, line
        case _:
            return Exit.IO, line


def _of_system_exit(error: SystemExit) -> tuple[int, str]:
    if error.code is None:
        return Exit.DONE, ""
    if isinstance(error.code, int):
        return error.code, ""
    return Exit.USAGE, " ".join(str(error.code).split())


def _of_os_error(error: OSError) -> str:
    if error.filename is None:
        return one_line(error)
    return f"{error.filename}: {error.strerror or one_line(error)}"
