"""Owned threads, and waiting for them in a way that cancellation cannot cut short.

A thread cannot be cancelled. ``Future.cancel`` only makes the waiter leave while the thread goes
on writing, so everything here waits for the thread first and reports the cancellation after.
Outcomes travel as values: a ``StopIteration`` set on a future hangs Python 3.11, and a
``KeyboardInterrupt`` raised inside a task kills the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

__all__ = [
    "TRIES",
    "Outcome",
    "Worker",
    "capture",
    "finish",
    "insist",
    "see_through",
    "spawn",
    "spend",
    "succeeded",
]

P = ParamSpec("P")
T = TypeVar("T")

TRIES = 100
"""How often what must not be left out is tried where memory lacks for it."""


def spend(tries: int) -> int:
    """Give one less, where the lack of memory for a try is handled.

    A number and not an object, for which memory may lack as well.

    Raises:
        MemoryError: The one that is being handled: that was the last try.
    """
    if tries <= 1:
        raise  # noqa: PLE0704 - what is being handled where this is called
    return tries - 1


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What a call came to: a value, or the exception it raised."""

    value: T | None = None
    error: BaseException | None = None

    def unwrap(self) -> T:
        """Return the value or raise the exception; a ``StopIteration`` leaves as ``RuntimeError``."""
        error = self.error
        if error is None:
            return self.value  # type: ignore[return-value]
        if isinstance(error, StopIteration | StopAsyncIteration):
            message = f"{type(error).__name__} raised by a plain function"
            raise RuntimeError(message) from error
        try:
            raise error
        finally:
            # Its traceback holds this frame: a circle, which would keep all that its frames hold.
            del error, self


def capture(fn: Callable[..., T], /, *args: Any) -> Outcome[T]:
    """Call ``fn`` and hand back what happened, whatever it was."""
    try:
        value = fn(*args)
    except BaseException as error:  # noqa: BLE001 - the outcome is the whole point
        return Outcome(error=error)
    return succeeded(value)


def succeeded(value: T) -> Outcome[T]:
    """Make the outcome of what has succeeded; that memory lacks for it must not make it a failure."""
    tries = TRIES
    while True:
        try:
            return Outcome(value)
        except MemoryError:
            tries = spend(tries)


def insist(call: Callable[[], T]) -> T:
    """Call what must not be left out, again where memory lacked; it must have left nothing half done then.

    Raises:
        MemoryError: There is none, time and again.
    """
    tries = TRIES
    while True:
        try:
            return call()
        except MemoryError:
            tries = spend(tries)


def finish(awaitable: Awaitable[T]) -> Coroutine[Any, Any, T]:
    """Wait for ``awaitable`` to end, however often the waiting task is cancelled meanwhile.

    A cancellation that arrived is raised once the awaitable is done; its result is then dropped.

    Raises:
        MemoryError: There is none, time and again, for the waiting itself.
    """
    return see_through(asyncio.ensure_future, awaitable)


async def see_through(start: Callable[P, asyncio.Future[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Start something and wait as :func:`finish` does: once it is started, there is somebody who waits.

    Where it is started first and waited for then, memory may lack for the waiting to begin.
    """
    future = start(*args, **kwargs)
    cancelled: asyncio.CancelledError | None = None
    tries = TRIES
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
        except MemoryError:
            # To leave would be to leave a thread alone with what it opens, locks or writes.
            tries = spend(tries)
    if cancelled is not None:
        if not future.cancelled():
            future.exception()
        raise cancelled
    return future.result()


_running: set[asyncio.Task[Any]] = set()


def spawn(coroutine: Any, *, name: str) -> asyncio.Task[Any]:
    """Start a named task and keep a reference until it is done (the loop itself keeps only a weak one).

    What raises has not run, and is closed.
    """
    try:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        _running.add(task)
        task.add_done_callback(_running.discard)
    except BaseException:
        # The loop may have it already; whoever is told that it was not started must be able to rely on it.
        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            coroutine.close()
        raise
    return task


def _lower_priority(by: int) -> None:
    """Make the calling thread, and no other, give way to the rest of the process."""
    if by == 0 or sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        # The pool would be broken if this raised. Relative, as an absolute one could raise the priority.
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + by)


class Worker:
    """A few threads that belong to one owner, started at the first call.

    Calls go through ``loop.run_in_executor`` with a pool of our own, so a simulated loop can take
    the threads away, and nothing ever touches the loop's default executor.

    Args:
        name: What its threads are called, with a number behind it.
        threads: How many there are at most.
        nice: By how much each of them lowers its own priority, so that background work does not push the
            event loop's thread off a core. Counted from the priority of the thread that starts it; on
            Linux only, where priorities belong to threads. A system that refuses is left in peace.
    """

    def __init__(self, name: str, *, threads: int = 1, nice: int = 0) -> None:
        self.name = name
        self._threads = threads
        self._nice = nice
        self._pool: ThreadPoolExecutor | None = None

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The executor itself, for libraries that take one (``aiofiles.open(executor=...)``)."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, self.name, _lower_priority, (self._nice,))
        return self._pool

    def submit(self, fn: Callable[..., T], /, *args: Any) -> asyncio.Future[Outcome[T]]:
        """Start ``fn`` in a thread, with the caller's context variables; returns at once."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()

        def call() -> Outcome[T]:
            return context.run(capture, fn, *args)

        return loop.run_in_executor(self.pool, call)

    def hire(self) -> None:
        """Start all its threads, and wait until they run; blocks, so call it in a thread.

        Whoever starts a thread waits until it first runs. Where others keep the processors busy that takes
        long, and a later :meth:`submit` would have the event loop wait.
        """
        there = threading.Event()
        try:
            for _ in range(self._threads):
                # None of them may end before the last is submitted, or its thread would serve twice.
                self.pool.submit(there.wait)
        finally:
            there.set()

    async def call(self, fn: Callable[..., T], /, *args: Any) -> T:
        """Run ``fn`` in a thread and wait for it to end.

        Raises:
            BaseException: Whatever ``fn`` raised.

        Cancellation: ``fn`` is waited for, then ``CancelledError`` is raised and its result dropped.
        """
        return (await see_through(self.submit, fn, *args)).unwrap()

    def close(self) -> None:
        """Let the threads end when their work is done; waits for nothing. May be called twice."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
