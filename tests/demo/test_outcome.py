"""Every way a command can end: one exit code, one line, and what to do about it."""

from __future__ import annotations

import asyncio

import pytest

from async_ckpt import errors
from async_ckpt.cli.outcome import Exit, Refused, explain


def listener_error(cause: BaseException) -> errors.ListenerError:
    return errors.ListenerError([errors.ListenerFailure(object(), "after_save", 3, cause)])


CASES = [
    (SystemExit(), Exit.DONE, ""),
    (SystemExit(5), 5, ""),
    (SystemExit("go\naway"), Exit.USAGE, "go away"),
    (KeyboardInterrupt(), Exit.INTERRUPTED, "interrupted; what was saved so far is complete"),
    (asyncio.CancelledError(), Exit.INTERRUPTED, "interrupted; what was saved so far is complete"),
    (Refused("no such thing"), Exit.USAGE, "no such thing"),
    (Refused("they differ", code=Exit.FOUND), Exit.FOUND, "they differ"),
    (
        ModuleNotFoundError("No module named 'sklearn'", name="sklearn.datasets"),
        Exit.USAGE,
        "sklearn is not installed: pip install 'async-ckpt[demo]'",
    ),
    (
        ModuleNotFoundError("No module named 'rich'", name="rich"),
        Exit.USAGE,
        "rich is not installed: pip install 'async-ckpt[cli]'",
    ),
    (
        errors.DirectoryLockedError("runs/x is held by process 7", path="runs/x"),
        Exit.IO,
        "runs/x is held by process 7; wait until it has ended, or use another directory",
    ),
    (errors.DamagedCheckpointError("step 3: w: digest"), Exit.FOUND, "step 3: w: digest"),
    (errors.StructureMismatchError("two\nlines"), Exit.USAGE, "two lines"),
    (errors.UnsupportedLeafError("model/hook: function"), Exit.USAGE, "model/hook: function"),
    (errors.NoCheckpointError("none in runs/x"), Exit.IO, "none in runs/x"),
    (errors.SaveError("disk full"), Exit.IO, "disk full"),
    (listener_error(BrokenPipeError("gone")), Exit.IO, "gone"),
    (NotADirectoryError(20, "Not a directory", "runs/x"), Exit.IO, "runs/x: Not a directory"),
    (OSError("odd"), Exit.IO, "odd"),
    (ZeroDivisionError("by zero"), Exit.BUG, "ZeroDivisionError: by zero (--debug shows where)"),
    (ZeroDivisionError(), Exit.BUG, "ZeroDivisionError: ZeroDivisionError (--debug shows where)"),
    (
        ModuleNotFoundError("No module named 'gone'", name="gone"),
        Exit.BUG,
        "ModuleNotFoundError: No module named 'gone' (--debug shows where)",
    ),
]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    CASES,
    ids=lambda case: type(case).__name__ if isinstance(case, BaseException) else "",
)
def test_an_error_has_one_code_and_one_line(error: BaseException, code: int, line: str) -> None:
    assert explain(error) == (code, line)


def test_several_failed_callbacks_are_told_together() -> None:
    error = errors.ListenerError(
        [
            errors.ListenerFailure("first", "end", 3, ValueError("a")),
            errors.ListenerFailure("second", "end", 3, ValueError("b")),
        ]
    )
    code, line = explain(error)
    assert code == Exit.IO
    assert "'a'" in line
    assert "'b'" in line


def test_the_documented_codes_are_the_codes() -> None:
    import async_ckpt.cli

    text = async_ckpt.cli.__doc__ or ""
    table = {int(line.split()[0]) for line in text.splitlines() if line[:1].isdigit()}
    assert table == {code.value for code in Exit}
