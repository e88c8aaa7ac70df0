"""Where memory lacked when somebody waits for ever: in the machinery of the loop, or in code of ours.

A wake-up is lost for good when the loop, or a future that is told its result, lacks memory for the very call
that would wake the waiter: the waiter is not called, and nobody is told. No code that awaits can do anything
about that. It counts as that only where the frame in which memory lacked is among those named here.
"""

from __future__ import annotations

import asyncio
import gc
import linecache
import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import async_ckpt
from async_ckpt.testing import SimLoop

__all__ = ["listening", "of_the_machinery", "shortage", "shortages"]

_PACKAGE = Path(async_ckpt.__file__).parent
_CALLS = {("events.py", "_run"), ("simloop.py", "_call")}
"""What calls a callback of the loop, and what stands for the thread."""
_CARRIES = {
    # The loop cannot call what it was given: a step of a task, a done callback.
    "events.py": {"_run"},
    # A timer, or the turn itself: the loop is dead.
    "base_events.py": {"run_forever", "_run_once", "_run_until_complete_cb"},
    # A future that is done cannot have its waiters called.
    "locks.py": {"set", "release", "_wake_up_first"},
    "tasks.py": {"_on_completion", "_inner_done_callback", "_done_callback"},
    "taskgroups.py": {"_on_task_done"},
    # What stands for the loop, and for the thread that hands its result over.
    "simloop.py": {"_call", "_hand_over", "_run_once", "_fire", "call_soon"},
}
"""Functions of asyncio, and of the loop that stands for it, that carry wake-ups, by file."""
_ASKS = {"create_task", "run_in_executor", "call_at", "call_later", "ensure_future", "spawn"}
"""Whoever calls one of these is told that it lacked memory, and has lost nothing but that call."""
_TELLS = (".set_result(", ".set_exception(", ".cancel(")
"""Lines of ours that tell a future; written in C, these have no frame."""


class _Ear(logging.Handler):
    def __init__(self, heard: list[BaseException]) -> None:
        super().__init__(logging.DEBUG)
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.heard.append(record.exc_info[1])


@contextmanager
def listening() -> Iterator[list[BaseException]]:
    """Gather what callbacks raised into the loop, and what was only logged."""
    heard: list[BaseException] = []
    log, ear = logging.getLogger("async_ckpt"), _Ear(heard)
    level = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(ear)
    complain = SimLoop._complain

    def heeding(self: SimLoop, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None:
            heard.append(error)
        complain(self, loop, context)

    SimLoop._complain = heeding  # type: ignore[method-assign,assignment]
    try:
        yield heard
    finally:
        SimLoop._complain = complain  # type: ignore[method-assign]
        log.removeHandler(ear)
        log.setLevel(level)


def shortages(heard: Sequence[BaseException], before: Sequence[BaseException] = ()) -> list[MemoryError]:
    """Those told to the loop, and those that anybody holds now and did not hold ``before``."""
    known = {id(error) for error in (*heard, *before)}
    held = [error for error in gc.get_objects() if isinstance(error, MemoryError) and id(error) not in known]
    return [error for error in (*heard, *held) if isinstance(error, MemoryError) and error.__traceback__]


def of_the_machinery(error: BaseException) -> bool:
    """Whether memory lacked where a wake-up is carried, and whoever waits is never told."""
    frames = [(Path(code.co_filename), code.co_name, line) for code, line in _walk(error.__traceback__)]
    if not frames:
        return False
    called = next((at for at, (file, name, _) in enumerate(frames) if (file.name, name) in _CALLS), None)
    if called is not None and not any(_is_ours(file) for file, _, _ in frames[called:]):
        # A callback of asyncio, of anyio, or of what stands for the thread: there is no line of ours in it.
        return True
    if any(name in _ASKS for _, name, _ in frames):
        return False
    file, name, line = frames[-1]
    if name in _CARRIES.get(file.name, ()):
        return not _is_ours(file)
    return any(words in linecache.getline(str(file), line) for words in _TELLS)


def _is_ours(file: Path) -> bool:
    return _PACKAGE in file.parents and file.name != "simloop.py"


def shortage(error: BaseException) -> str:
    """Name the frame in which memory lacked, and in whose call."""
    frames = traceback.extract_tb(error.__traceback__)[-2:]
    return " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)


def _walk(trace: TracebackType | None) -> Iterator[tuple[Any, int]]:
    while trace is not None:
        yield trace.tb_frame.f_code, trace.tb_lineno
        trace = trace.tb_next
