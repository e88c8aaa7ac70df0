"""The serial lane: one listener callback at a time, across the whole session.

Every callback runs in a task of its own, so that cancelling the step that waits for it does not
cancel the callback, and its outcome comes back as a value. A callback abandoned at the end of the
grace period is alone exempt from exclusivity.

A call costs two turns of the loop: the task starts in the first and hands its outcome over itself, and
whoever waits goes on in the second.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import FunctionType, MethodType, TracebackType
from typing import Any

from async_ckpt.system.threads import TRIES, Outcome, Worker, spend, succeeded

__all__ = ["Inside", "Lane", "current_call", "is_coroutine_function", "running_code"]


@dataclass(slots=True, eq=False)
class Inside:
    """Marks the code of one callback, hook method or step function, while it runs.

    Context variables are inherited by the tasks the code starts; ``active`` is what tells those
    that outlive it from the code itself. As a context manager it marks the running task for a block, once.
    """

    what: str
    owner: object
    #: whose code it is: what would deadlock in this session may well be done in another one
    session: object = None
    #: what ``saved_state()`` and ``report()`` refer to, in ``after_save`` only
    save: Any = None
    active: bool = True
    #: whether the code was come to: where memory lacked before that, it can be called again
    called: bool = False
    #: the code this code was called from, itself of another session
    outer: Inside | None = None
    _token: Token[Inside | None] | None = None

    def __enter__(self) -> None:
        self._token = self.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.active = False
        if self._token is not None:
            current_call.reset(self._token)

    def enter(self) -> Token[Inside | None]:
        """Mark the running task; call it where the code runs."""
        self.outer = current_call.get()
        if self.outer is not None and not self.outer.active:
            self.outer = None
        return current_call.set(self)


current_call: ContextVar[Inside | None] = ContextVar("async_ckpt_inside", default=None)


def running_code(session: object) -> Inside | None:
    """The mark of the code of ``session`` that the caller is inside of, or None."""
    inside = current_call.get()
    while inside is not None and not (inside.active and inside.session is session):
        inside = inside.outer
    return inside


def is_coroutine_function(fn: Callable[..., Any]) -> bool:
    """Whether calling ``fn`` gives a coroutine and runs none of it (objects with ``__call__`` too)."""
    function: object = fn.__func__ if isinstance(fn, MethodType) else fn
    if isinstance(function, FunctionType) and function.__code__.co_flags & inspect.CO_COROUTINE:
        return True  # asked at every step and call, and by far the most frequent answer
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)


class Lane:
    """Runs callbacks one at a time, in the order in which they were asked for."""

    def __init__(self) -> None:
        self.worker = Worker("async_ckpt-listeners")
        self._turn = asyncio.Lock()
        #: keeps its task alive as well, for the loop itself has only a weak reference
        self._running: _Call | None = None
        self._abandoned: set[asyncio.Task[None]] = set()

    async def call(
        self,
        fn: Callable[..., Any],
        *args: Any,
        inside: Inside,
        timeout_secs: float | None = None,
        on_slow: Callable[[], None] | None = None,
        convert: Callable[[Any], Any] | None = None,
    ) -> Outcome[Any]:
        """Wait for a turn, call ``fn(*args)``, and return what came of it.

        A coroutine function is awaited, and cancelled after ``timeout_secs`` (its outcome is then a
        ``TimeoutError``). A plain function runs in the listeners' thread; past ``timeout_secs`` it
        is reported through ``on_slow`` and waited for. An awaitable it returns is awaited.
        ``convert`` is applied to the result inside the same error handling.

        Where memory lacks before ``fn`` is called, it is tried again. Never raises. Must be called from a
        task that is not cancelled from outside.
        """
        tries = TRIES
        # Made before: to raise behind the call would say that it was not made.
        lacking: Outcome[Any] = Outcome(error=MemoryError(f"{inside.what}: memory lacked for its outcome"))
        while True:
            tries -= 1
            try:
                outcome = await self._call(fn, args, inside, timeout_secs, on_slow, convert)
            except MemoryError:
                outcome = lacking
            if inside.called or not tries or not isinstance(outcome.error, MemoryError):
                return outcome

    async def _call(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        inside: Inside,
        timeout_secs: float | None,
        on_slow: Callable[[], None] | None,
        convert: Callable[[Any], Any] | None,
    ) -> Outcome[Any]:
        await self._turn.acquire()
        try:
            inside.active = True
            call = self._running = _Call(inside)
            call.start(self._run(call, fn, args, timeout_secs, on_slow, convert))
            tries = TRIES
            while True:
                try:
                    return await call.outcome
                except MemoryError:
                    # To leave before would be to leave the code alone with the turn of the next.
                    tries = spend(tries)
        finally:
            inside.active = False
            self._running = None
            self._turn.release()

    def abandon(self) -> Inside | None:
        """Stop waiting for the callback that is running now, if any, and return its mark.

        A coroutine is cancelled, once; a plain function goes on in its thread. Either way its turn
        is over, and a later plain function gets a thread of its own.
        """
        call = self._running
        if call is None or call.outcome.done():
            return None
        call.outcome.set_result(
            Outcome(error=TimeoutError(f"{call.inside.what} was still running when the grace period ended"))
        )
        if call.in_thread:
            self.worker.close()
            self.worker = Worker("async_ckpt-listeners")
        elif call.task is not None:
            call.task.cancel()
        if call.task is not None:
            self._abandoned.add(call.task)
            call.task.add_done_callback(self._abandoned.discard)
        return call.inside

    def close(self) -> None:
        """Let the listeners' thread end."""
        self.worker.close()

    async def _run(
        self,
        call: _Call,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        timeout_secs: float | None,
        on_slow: Callable[[], None] | None,
        convert: Callable[[Any], Any] | None,
    ) -> None:
        try:
            call.inside.enter()
            if is_coroutine_function(fn):
                work = fn(*args)
                call.inside.called = True
                result = await (work if timeout_secs is None else _within(timeout_secs, work))
            else:
                result = await self._run_plain(call, fn, args, timeout_secs, on_slow)
                if inspect.isawaitable(result):
                    result = await _within(timeout_secs, result)
            call.settle(succeeded(result if convert is None else convert(result)))
        except BaseException as error:
            if isinstance(error, MemoryError) and call.outcome.done():
                raise  # it is settled, and memory lacked for telling whoever waits: the loop's log has to
            # Handed over as a value, judged by the phase.
            call.settle(Outcome(error=error))

    async def _run_plain(
        self,
        call: _Call,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        timeout_secs: float | None,
        on_slow: Callable[[], None] | None,
    ) -> Any:
        call.in_thread = True
        wanted = [True]

        def once() -> Any:
            wanted.pop()
            return fn(*args)

        try:
            try:
                future = self.worker.submit(once)
            except BaseException:
                # A thread may have it all the same. Whoever empties the list decides whether it is called.
                try:
                    wanted.pop()
                except IndexError:
                    call.inside.called = True
                raise
            call.inside.called = True
            if timeout_secs is not None:
                done, _ = await asyncio.wait([future], timeout=timeout_secs)
                if not done and on_slow is not None:
                    on_slow()
            await asyncio.wait([future])
            return future.result().unwrap()
        finally:
            call.in_thread = False


async def _within(secs: float | None, work: Awaitable[Any]) -> Any:
    """Await ``work`` and cancel it, once, after ``secs``: it may then clean up, and has failed either way."""
    async with asyncio.timeout(secs) as limit:
        result = await work
    if limit.expired():
        message = "the callback was cancelled at its time limit and went on"
        raise TimeoutError(message)
    return result


class _Call:
    __slots__ = ("in_thread", "inside", "outcome", "task")

    def __init__(self, inside: Inside) -> None:
        self.inside = inside
        self.outcome: asyncio.Future[Outcome[Any]] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.in_thread = False

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        loop = self.outcome.get_loop()
        try:
            self.task = loop.create_task(work, name=f"async_ckpt {self.inside.what}")
            self.task.add_done_callback(self._ended)
        except BaseException:
            # Not come to its first line, and it never will: who is told that it failed may start it again.
            work.close()
            raise

    def settle(self, outcome: Outcome[Any]) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def _ended(self, task: asyncio.Task[None]) -> None:
        # A task cancelled before its first step never ran: nothing inside it could report.
        if not self.outcome.done():
            error = None if task.cancelled() else task.exception()
            error = error or asyncio.CancelledError(f"{self.inside.what} was cancelled")
            self.settle(Outcome(error=error))
