"""An event loop with virtual time that tries the orders which asyncio leaves open, from a seed.

What is shuffled, and what is not. Asyncio promises that callbacks given to ``call_soon`` run in that order.
It promises nothing about which of two tasks that could go on does so first: that depends on I/O, threads,
timers and the loop. So:

- The steps of tasks are shuffled: whenever several tasks could run, the seed picks one.
- Everything else (done callbacks, timers that fire, ``call_soon_threadsafe``) keeps its order, and no step of
  a task runs before a callback that was scheduled ahead of it: code that sets a flag in a done callback
  and reads it after ``await task`` is correct, and must stay so here.
- Each step takes a little virtual time, so a write may end between any two steps of other tasks.

Threads are taken away: ``run_in_executor`` calls the function in the loop's own thread at a virtual moment
that the seed picks, with as many calls at once as the executor has workers, and hands the result over at a
later one. So a function that blocks until the loop does something would block for ever.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from asyncio import events
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar, TypeVarTuple

from async_ckpt.testing.waiting import describe

__all__ = ["SimDeadlock", "SimError", "SimLeak", "SimLivelock", "SimLoop", "run_sim"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class SimError(AssertionError):
    """The simulated program did something that no schedule may do."""


class SimDeadlock(SimError):  # noqa: N818 - the name says what is the case
    """Nothing can run and nothing is scheduled; the message lists the tasks and where they wait."""


class SimLivelock(SimError):  # noqa: N818 - as above
    """The limit of steps was reached; the message lists the tasks and where they are."""


class SimLeak(SimError):  # noqa: N818 - as above
    """The main coroutine is done, and left tasks behind or an exception that nobody looked at."""


class SimLoop(asyncio.BaseEventLoop):
    """An asyncio event loop without I/O, whose every choice comes from ``seed``.

    The same seed and program give the same run, on any machine. Timers, tasks, ``run_in_executor``,
    ``call_soon_threadsafe`` and everything built from them work (anyio's too); sockets, pipes, signals
    and subprocesses raise ``NotImplementedError``.

    Args:
        seed: Where all choices come from.
        thread_secs: The least and the most virtual seconds a call in an executor takes.
        step_secs: The most virtual seconds one step of the loop takes.
        max_steps: Steps after which :class:`SimLivelock` is raised.
        eager: Create tasks eagerly, as ``asyncio.eager_task_factory`` does.
        cancel_at: Cancel the main task (the one given to ``run_until_complete``) as its step of this number,
            counted from 1, is about to run: at the ``await`` that the step comes back from. Several numbers
            cancel it as often.

    Raises:
        ValueError: ``eager`` on a Python without eager tasks (before 3.12).

    Attributes:
        steps: Callbacks and task steps run so far.
        main_steps: Steps of the main task run so far.
        complaints: What asyncio would have logged: exceptions that nobody retrieved, callbacks that raised.
    """

    # The base class keeps these, and the type checkers' stubs do not know them.
    _closed: bool
    _scheduled: list[Any]

    def __init__(
        self,
        seed: int = 0,
        *,
        thread_secs: tuple[float, float] = (0.0, 0.01),
        step_secs: float = 0.0005,
        max_steps: int = 200_000,
        eager: bool = False,
        cancel_at: int | Collection[int] | None = None,
    ) -> None:
        super().__init__()
        self.seed = seed
        self.steps = 0
        self.main_steps = 0
        self.complaints: list[str] = []
        #: the next choice, from 0 up to 1
        self._draw = random.Random(seed).random  # noqa: S311 - schedules, not secrets
        self._thread_secs = thread_secs
        self._step_secs = step_secs
        self._max_steps = max_steps
        self._cancel_at = (
            frozenset[int]()
            if cancel_at is None
            else frozenset((cancel_at,) if isinstance(cancel_at, int) else cancel_at)
        )
        self._now = 0.0
        self._main: asyncio.Future[Any] | None = None
        # Task steps that may run now, and the queue of callbacks, each with the task steps behind it.
        self._runnable: list[events.Handle] = []
        self._queue: deque[tuple[events.Handle, list[events.Handle]]] = deque()
        self._free_at: dict[Any, list[float]] = {}
        self.set_exception_handler(self._complain)
        if eager:
            factory = getattr(asyncio, "eager_task_factory", None)
            if factory is None:
                self.close()
                message = "this Python has no eager tasks"
                raise ValueError(message)
            self.set_task_factory(factory)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> events.Handle:
        """Schedule a callback; steps of tasks join the shuffle, all others keep their order."""
        if self._closed:
            message = "Event loop is closed"
            raise RuntimeError(message)
        handle = events.Handle(callback, args, self, context)
        # This is how asyncio itself tells the steps of a task from other callbacks when it prints one.
        if isinstance(getattr(callback, "__self__", None), asyncio.Task):
            (self._queue[-1][1] if self._queue else self._runnable).append(handle)
        else:
            self._queue.append((handle, []))
        return handle

    call_soon_threadsafe = call_soon  # pyright: ignore[reportAssignmentType]

    def run_until_complete(self, future: Any) -> Any:
        """Run until ``future`` is done; see ``asyncio``'s own.

        Raises:
            SimDeadlock: Nothing was left to run before that.
            SimLivelock: ``max_steps`` were run before that.
        """
        ours = not asyncio.isfuture(future)
        self._main = future = asyncio.ensure_future(future, loop=self)
        if ours:
            future._log_destroy_pending = False  # whoever gets the exception knows that it is pending
        return super().run_until_complete(future)

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Call ``func`` at a virtual moment of the seed's choice; the result comes at a later one.

        Cancelling the future before that moment means that ``func`` is never called, as with real threads.

        Raises:
            SimError: ``executor`` is None: the default executor belongs to nobody.
            RuntimeError: ``executor`` has been shut down.
        """
        if executor is None:
            message = "the default executor was asked for; own a pool instead"
            raise SimError(message)
        if getattr(executor, "_shutdown", False):
            message = "cannot schedule new futures after shutdown"
            raise RuntimeError(message)
        low, high = self._thread_secs
        taken = low + (high - low) * self._draw()
        workers = self._free_at.setdefault(executor, [0.0] * getattr(executor, "_max_workers", 1))
        start = max(self._now, workers[0])
        heapq.heapreplace(workers, start + taken)
        future: asyncio.Future[T] = self.create_future()
        self.call_at(start + taken * self._draw(), self._call, future, start + taken, func, args)
        return future

    def _call(
        self, future: asyncio.Future[T], ends: float, func: Callable[..., T], args: tuple[Any, ...]
    ) -> None:
        if future.cancelled():
            return
        # A thread sees no running loop, no current task and none of the caller's context.
        events._set_running_loop(None)
        try:
            result, error = contextvars.Context().run(func, *args), None
        except BaseException as caught:  # noqa: BLE001 - a value, handed to whoever waits
            result, error = None, caught
        finally:
            while events._get_running_loop() is not self:
                try:
                    events._set_running_loop(self)
                except MemoryError:
                    continue  # a thread takes nothing from the loop, whatever it lacks
        self.call_at(ends, self._hand_over, future, result, error)

    @staticmethod
    def _hand_over(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        elif isinstance(error, StopIteration):
            # A real executor's future would never be done on Python 3.11: a hang with a reason is better.
            message = "StopIteration cannot be raised into a future"
            raise SimError(message) from error
        else:
            future.set_exception(error)

    def _run_once(self) -> None:
        """Run one step, or let virtual time jump to the next timer."""
        if self.steps >= self._max_steps:
            raise SimLivelock(self._verdict(f"not done after {self.steps} steps"))
        runnable, queue = self._runnable, self._queue
        if self._scheduled and (self._scheduled[0]._when <= self._now or not (runnable or queue)):
            self._fire()
        choices = len(runnable) + bool(queue)
        if not choices:
            raise SimDeadlock(self._verdict("nothing can run any more"))
        index = int(self._draw() * choices) if choices > 1 else 0
        if index == len(runnable):
            handle, behind = queue.popleft()
            runnable += behind
        else:
            runnable[index], runnable[-1] = runnable[-1], runnable[index]
            handle = runnable.pop()
        if handle._cancelled:
            return
        self.steps += 1
        self._now += self._step_secs * self._draw()
        if getattr(handle._callback, "__self__", None) is self._main:  # type: ignore[attr-defined]
            self.main_steps += 1
            if self.main_steps in self._cancel_at and self._main is not None:
                self._main.cancel()
        handle._run()

    def _fire(self) -> None:
        """Queue the timers that are due; with nothing else to do, go to the moment of the next one."""
        scheduled = self._scheduled
        idle = not self._runnable and not self._queue
        while scheduled:
            timer = scheduled[0]
            if not timer._cancelled:
                if timer._when > self._now and not idle:
                    return
                self._now = max(self._now, timer._when)
                idle = False
                self._queue.append((timer, []))
            heapq.heappop(scheduled)
            timer._scheduled = False

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        """Asyncio counts these to tidy its heap; here a cancelled timer is dropped when its turn comes."""

    def _process_events(self, event_list: Any) -> None:
        """There is no I/O."""

    def _write_to_self(self) -> None:
        """There is no selector to wake."""

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _verdict(self, text: str) -> str:
        lines = [f"{text} (seed {self.seed})", *self.complaints, describe(self)]
        return "\n".join(line for line in lines if line)


def run_sim(main: Callable[[], Coroutine[Any, Any, T]], seed: int = 0, **options: Any) -> T:
    """Run ``main()`` to its end on a new :class:`SimLoop` and return what it returned.

    Args:
        main: A coroutine function without arguments.
        seed: Where all choices of the schedule come from.
        **options: As for :class:`SimLoop`.

    Raises:
        SimDeadlock: Nothing could run before ``main`` was done.
        SimLivelock: Too many steps.
        SimLeak: ``main`` is done, however it ended, and a task is not, or nobody retrieved an exception.
        BaseException: What ``main`` raised, also ``CancelledError``; a note names the seed.
    """
    loop = SimLoop(seed, **options)
    error: BaseException | None = None
    result: Any = None
    try:
        result = loop.run_until_complete(main())
    except SimError:
        raise
    except BaseException as raised:  # noqa: BLE001 - raised again below, after a look at what it left
        error = raised
    finally:
        left = describe(loop)
        _abandon(loop)
        loop.close()
    if left or loop.complaints:
        message = "\n".join([f"left behind (seed {seed}):", *loop.complaints, left])
        raise SimLeak(message) from error
    if error is not None:
        error.add_note(f"simulated with seed {seed}")
        raise error
    return result  # type: ignore[no-any-return]


def _abandon(loop: SimLoop) -> None:
    """Cancel what is left and give it a bounded chance to clean up; a verdict has been reached already."""
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined] # the verdict says it better
        task.cancel()
        loop._max_steps = loop.steps + 1000
        loop._cancel_at = frozenset()
        try:
            loop.run_until_complete(asyncio.wait([task]))
        except SimError:
            continue
