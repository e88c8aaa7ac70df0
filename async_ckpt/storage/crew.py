"""The threads of one store, and the promise that none of them is left behind."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from async_ckpt.errors import ProtocolError
from async_ckpt.storage.tally import Tally
from async_ckpt.system.threads import TRIES, Outcome, Worker, see_through, spawn, spend

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Crew"]

T = TypeVar("T")

_BULK_THREADS = 4
_CALL_THREADS = 4
_READ_THREADS = 8
_NOTHING = object()
_BACKGROUND = 5
"""Niceness of the threads that work for long: they never keep the event loop off a core."""


class _Hop:
    """Work given to a worker, from before it is started until it is done."""

    __slots__ = ("future", "owed", "owner")

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.owed = [True]
        self.future: asyncio.Future[Any] | None = None


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
        self._running: set[_Hop] = set()
        self._pid: int | None = None
        self.small, self.bulk, self.reads, self.rubbish, self.calls = self._hired()

    def _hired(self) -> tuple[Worker, Worker, Worker, Worker, Worker]:
        return (
            Worker(f"{self._name}-small"),
            Worker(f"{self._name}-write", threads=_BULK_THREADS, nice=_BACKGROUND),
            Worker(f"{self._name}-read", threads=_READ_THREADS, nice=_BACKGROUND),
            Worker(f"{self._name}-delete", nice=_BACKGROUND),
            Worker(f"{self._name}-files", threads=_CALL_THREADS),
        )

    @property
    def is_inherited(self) -> bool:
        """Whether this process got the crew by a fork, which copies no threads."""
        return self._pid is not None and self._pid != os.getpid()

    def start(
        self, worker: Worker, fn: Callable[..., T], *args: Any, owner: str = ""
    ) -> asyncio.Future[Outcome[T]]:
        """Start ``fn`` in a thread; ``owner`` is what :meth:`idle` can wait for."""
        self.claim()
        hop = _Hop(owner)
        over = partial(self._over, hop)
        # Counted and noted before it is started: what has been started may not be taken for what has not.
        self._tally.enter()
        try:
            self._running.add(hop)
            future = hop.future = worker.submit(self._counted, hop.owed, fn, *args)
        except BaseException:
            self._over(hop)
            raise
        self._follow(future, over)
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
        if not owed:
            return False  # nearly always, and without an error, which asks for memory
        try:
            owed.pop()
        except IndexError:
            return False
        self._tally.leave()
        return True

    async def call(self, worker: Worker, fn: Callable[..., T], *args: Any, owner: str = "") -> T:
        """Run ``fn`` in a thread and wait for it, through cancellation."""
        return (await see_through(self.start, worker, fn, *args, owner=owner)).unwrap()

    async def obtain(self, fn: Callable[[], T], undo: Callable[[T], object]) -> T:
        """Run ``fn`` in a thread; if the waiter is cancelled or lacks memory meanwhile, undo what it did."""
        kept: list[Any] = [_NOTHING]

        def take() -> None:
            kept[0] = fn()  # where it outlives an outcome for which memory lacks

        try:
            await self.call(self.calls, take)
        except BaseException:
            if kept[0] is not _NOTHING:
                await self.call(self.calls, undo, kept[0])
            raise
        return kept[0]  # type: ignore[no-any-return]

    async def carry_out(self, fn: Callable[..., Coroutine[Any, Any, T]], *args: Any, owner: str = "") -> T:
        """Run ``fn(small, *args)``, made of hops to that worker, to its end, through cancellation."""
        return await see_through(self._start_joined, fn, args, owner)

    def _start_joined(
        self, fn: Callable[..., Coroutine[Any, Any, T]], args: tuple[Any, ...], owner: str
    ) -> asyncio.Future[T]:
        self.claim()
        hop = _Hop(owner)
        over = partial(self._over, hop)
        work = self._joined(self.small, hop.owed, fn, *args)
        self._tally.enter()
        try:
            self._running.add(hop)
            task: asyncio.Task[T] = spawn(work, name=f"{self._name}-small")
        except BaseException:
            work.close()
            self._over(hop)
            raise
        hop.future = task
        self._follow(task, over)
        return task

    async def _joined(
        self, small: Worker, owed: list[bool], fn: Callable[..., Coroutine[Any, Any, T]], *args: Any
    ) -> T:
        leaving = [True]  # not when it is needed, for memory may lack then
        owed.pop()
        try:
            return await fn(small, *args)
        finally:
            # First in, first out: when this runs, a hop that a dying loop cut off has ended too.
            try:
                await small.call(self._disown, leaving)
            except MemoryError:
                self._disown(leaving)  # unless the thread has
                raise

    async def idle(self, owner: str | None = None) -> None:
        """Wait until nothing runs, or nothing of one owner. A cancellation ends the waiting only."""
        loop = asyncio.get_running_loop()
        while busy := [
            hop.future
            for hop in self._running
            if hop.future is not None
            and hop.future.get_loop() is loop
            and not hop.future.done()
            and (owner is None or hop.owner == owner)
        ]:
            await asyncio.wait(busy)

    def dismiss(self, last: Callable[[], None]) -> Coroutine[Any, Any, None]:
        """Have ``last`` called in the thread that ends last, let all threads go; await it to wait for that.

        What raises has done nothing. Cancellation: the waiting ends; ``last`` is still called.
        """
        workers = (self.small, self.bulk, self.reads, self.rubbish, self.calls)
        asked = [False]

        def leave() -> None:
            try:
                last()
            finally:
                for worker in workers:
                    worker.close()

        def ask() -> None:
            self._tally.when_idle(leave)
            asked[0] = True

        hired = self._hired()
        gone = self._gone(asked, ask)
        try:
            # Counted itself, so what it leaves behind is called in a thread and not on the loop.
            self.start(self.calls, ask)
        except BaseException:
            gone.close()
            raise
        self.small, self.bulk, self.reads, self.rubbish, self.calls = hired
        return gone

    async def _gone(self, asked: list[bool], ask: Callable[[], None]) -> None:
        tries = TRIES
        while True:
            try:
                await self.idle()
                if not asked[0]:
                    ask()  # the thread lacked memory before it came to that
            except MemoryError:
                tries = spend(tries)
            else:
                return

    def claim(self) -> None:
        """Make sure that this is the process whose threads they are.

        Raises:
            ProtocolError: It is a forked child.
        """
        if self.is_inherited:
            msg = "this store belongs to the process that forked; make a new one in the child"
            raise ProtocolError(msg)
        self._pid = os.getpid()

    def _follow(self, future: asyncio.Future[Any], over: Callable[[object], None]) -> None:
        """Have ``over`` called when it is done. It runs already: what is raised here would be taken amiss."""
        tries = TRIES
        while tries:
            try:
                future.add_done_callback(over)
            except MemoryError:
                tries -= 1
            else:
                return

    def _over(self, hop: _Hop, _: object = None) -> None:
        self._running.discard(hop)
        self._disown(hop.owed)
