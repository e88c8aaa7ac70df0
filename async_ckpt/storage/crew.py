"""The threads of one store, and the promise that none of them is left behind."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, TypeVar

from async_ckpt.errors import ProtocolError
from async_ckpt.storage.tally import Tally
from async_ckpt.system.threads import Outcome, Worker, finish, spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Crew"]

T = TypeVar("T")

_BULK_THREADS = 4
_CALL_THREADS = 4
_READ_THREADS = 8
_BACKGROUND = 5
"""Niceness of the threads that work for long: they never keep the event loop off a core."""


class Crew:
    """Five workers and a list of what they are doing.

    Attributes:
        small: One thread for small files; what is given to it runs in that order.
        bulk: One thread per large file that is being written.
        reads: For large reads, so many at once that the device always has the next ones waiting.
        rubbish: One thread that deletes what nobody waits for.
        calls: For everything else.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tally = Tally()
        self._running: dict[asyncio.Future[Any], str] = {}
        self._pid: int | None = None
        self._hire()

    def _hire(self) -> None:
        self.small = Worker(f"{self._name}-small")
        self.bulk = Worker(f"{self._name}-write", threads=_BULK_THREADS, nice=_BACKGROUND)
        self.reads = Worker(f"{self._name}-read", threads=_READ_THREADS, nice=_BACKGROUND)
        self.rubbish = Worker(f"{self._name}-delete", nice=_BACKGROUND)
        self.calls = Worker(f"{self._name}-files", threads=_CALL_THREADS)

    @property
    def is_inherited(self) -> bool:
        """Whether this process got the crew by a fork, which copies no threads."""
        return self._pid is not None and self._pid != os.getpid()

    def start(
        self, worker: Worker, fn: Callable[..., T], *args: Any, owner: str = ""
    ) -> asyncio.Future[Outcome[T]]:
        """Start ``fn`` in a thread; ``owner`` is what :meth:`idle` can wait for."""
        self.claim()
        owed = [True]
        self._tally.enter()
        try:
            future = worker.submit(self._counted, owed, fn, *args)
            future.add_done_callback(lambda _: self._disown(owed))
        except BaseException:
            self._disown(owed)
            raise
        self._track(future, owner)
        return future

    def _counted(self, owed: list[bool], fn: Callable[..., T], *args: Any) -> T:
        owed.pop()
        try:
            return fn(*args)
        finally:
            self._tally.leave()

    def _disown(self, owed: list[bool]) -> bool:
        """What never came to its first line, for lack of memory or being cancelled, is over: True.

        To take the only item of a list is one step: if that is done here, the line is never passed.
        """
        try:
            owed.pop()
        except IndexError:
            return False
        self._tally.leave()
        return True

    async def call(self, worker: Worker, fn: Callable[..., T], *args: Any, owner: str = "") -> T:
        """Run ``fn`` in a thread and wait for it, through cancellation."""
        return (await finish(self.start(worker, fn, *args, owner=owner))).unwrap()

    async def obtain(self, fn: Callable[[], T], undo: Callable[[T], object]) -> T:
        """Run ``fn`` in a thread; if the waiter was cancelled meanwhile, undo what it did."""
        future = self.start(self.calls, fn)
        try:
            outcome = await finish(future)
        except asyncio.CancelledError:
            if not future.cancelled() and future.result().error is None:
                await self.call(self.calls, undo, future.result().value)
            raise
        return outcome.unwrap()

    async def carry_out(self, fn: Callable[..., Coroutine[Any, Any, T]], *args: Any, owner: str = "") -> T:
        """Run ``fn(small, *args)``, made of hops to that worker, to its end, through cancellation."""
        self.claim()
        owed = [True]
        work = self._joined(self.small, owed, fn, *args)
        self._tally.enter()
        try:
            task: asyncio.Task[T] = spawn(work, name=f"{self._name}-small")
            task.add_done_callback(lambda _: self._disown(owed))
        except BaseException:
            if self._disown(owed):
                work.close()
            raise
        self._track(task, owner)
        return await finish(task)

    async def _joined(
        self, small: Worker, owed: list[bool], fn: Callable[..., Coroutine[Any, Any, T]], *args: Any
    ) -> T:
        owed.pop()
        try:
            return await fn(small, *args)
        finally:
            # First in, first out: when this runs, a hop that a dying loop cut off has ended too.
            leaving = [True]
            try:
                await small.call(self._disown, leaving)
            except MemoryError:
                self._disown(leaving)  # unless the thread has
                raise

    async def idle(self, owner: str | None = None) -> None:
        """Wait until nothing runs, or nothing of one owner. A cancellation ends the waiting only."""
        loop = asyncio.get_running_loop()
        while busy := [
            future
            for future, whose in self._running.items()
            if future.get_loop() is loop and not future.done() and (owner is None or whose == owner)
        ]:
            await asyncio.wait(busy)

    async def dismiss(self, last: Callable[[], None]) -> None:
        """Call ``last`` in the thread that ends last, wait for it, and let all threads go.

        Cancellation: the waiting ends; ``last`` is still called.
        """
        workers = (self.small, self.bulk, self.reads, self.rubbish, self.calls)

        def leave() -> None:
            try:
                last()
            finally:
                for worker in workers:
                    worker.close()

        # Counted itself, so what it leaves behind is called in a thread and not on the loop.
        self.start(self.calls, self._tally.when_idle, leave)
        self._hire()
        await self.idle()

    def claim(self) -> None:
        """Make sure that this is the process whose threads they are.

        Raises:
            ProtocolError: It is a forked child.
        """
        if self.is_inherited:
            msg = "this store belongs to the process that forked; make a new one in the child"
            raise ProtocolError(msg)
        self._pid = os.getpid()

    def _track(self, future: asyncio.Future[Any], owner: str) -> None:
        self._running[future] = owner
        future.add_done_callback(self._untrack)

    def _untrack(self, future: asyncio.Future[Any]) -> None:
        self._running.pop(future, None)
