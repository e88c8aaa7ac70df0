"""Steps: where a step function runs, what counts, and what a cancellation leaves behind.

Most steps of a training loop end at a boundary that has nothing to look at. Whether that is so is worked
out once, behind a step that was looked at (:meth:`Stepping._end`), and holds until somebody disturbs it;
such a step then costs a few comparisons.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import types
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any

from async_ckpt.core.standing import MOVES, Happening, Standing
from async_ckpt.errors import ProtocolError, SessionStopped
from async_ckpt.events import StepTaken
from async_ckpt.hooks import StepRun
from async_ckpt.runtime.lane import Inside, current_call, is_coroutine_function
from async_ckpt.session.asking import serve
from async_ckpt.session.inside import refuse_in_mutation, refuse_inside
from async_ckpt.session.mutation import open_mutation
from async_ckpt.system.threads import Outcome, finish

if TYPE_CHECKING:
    from async_ckpt.session.session import MonitoredTrainingSession

__all__ = ["Stepping", "one_turn"]


@types.coroutine
def one_turn() -> Generator[None]:
    """Give the loop one turn, as ``asyncio.sleep(0)`` does in two calls more."""
    yield


class Stepping:
    """The steps of one session.

    Attributes:
        turn: Held by whoever is in a step or carries out a boundary: one at a time.
        under_way: A step has begun and not ended.
        by_advance: The last step was one of the caller's own.
        called: Whether a step was taken since an iteration over the session last asked.
        owes_reading: Restored values that nobody has taken; without them there is no first step.
        standing: Where the state stands; :mod:`async_ckpt.core.standing` says whether it may be saved.
    """

    def __init__(self, session: MonitoredTrainingSession) -> None:
        self.turn = asyncio.Lock()
        self.under_way = False
        self.by_advance = False
        self.called = False
        self.owes_reading = False
        self.standing: Standing = "entering"
        self._session = session
        self._host = session._host
        self._boundary = session._boundary
        self._machine = session._scheduler.machine
        self._stop = session._stopping.flag
        #: where the step that runs began, and where the last one ended, as far as somebody wants to know
        self._began = 0.0
        self._ended: float | None = None

    # -- a step of the caller's own ----------------------------------------------------------

    def count_quiet(self, steps: int) -> bool:
        """Count a step whose boundary has nothing to look at; False, and nothing is done, if it may have."""
        if self._boundary.hooked or not self._quiet(steps):
            return False
        host = self._host
        host.last_step_in_trainer = False
        host.global_step += steps
        self.by_advance = self.called = True
        self.standing = "whole"  # counted, and there is nothing that checks
        return True

    async def advance(self, steps: int) -> None:
        """Every ``before_run``, the count, and the boundary."""
        host = self._host
        self._begin("advance", steps)
        try:
            await self.turn.acquire()
            try:
                self._refuse_stopped()
                self.by_advance = True
                host.last_step_in_trainer = False
                run = await self._before_run(steps) if self._boundary.hooked else None
                host.global_step += steps
                await self._count(run, steps)
            finally:
                self.turn.release()
        finally:
            self._end()

    # -- a step function ---------------------------------------------------------------------

    async def run(self, fn: Callable[..., Any], args: tuple[Any, ...], steps: int, *, mutates: bool) -> Any:
        """Every ``before_run``, the function, the count, and the boundary; returns its result.

        Cancellation: a plain function is waited for and counted; a coroutine function is not counted.
        """
        host, boundary = self._host, self._boundary
        self._begin("run", steps)
        try:
            await self.turn.acquire()
            try:
                self._refuse_stopped()
                self.by_advance = False
                run = await self._before_run(steps) if boundary.hooked else None
                if not mutates:
                    host.overlap_allowed = True
                elif boundary.overlaps:
                    await boundary.copies_done()
                self.happened("began")
                with Inside("the step function", fn, host.facade):
                    if is_coroutine_function(fn):
                        host.last_step_in_trainer = False
                        result = await self._awaited(fn(*args))
                    else:
                        result = await self._call_plain(fn, args, steps)
                host.global_step += steps
                if run is not None:
                    run.result = result
                await self._count(run, steps)
                return result
            finally:
                self.turn.release()
        finally:
            self._end()

    async def _awaited(self, step: Awaitable[Any]) -> Any:
        try:
            return await step
        except asyncio.CancelledError:
            self.happened("cancelled")
            raise

    async def _call_plain(self, fn: Callable[..., Any], args: tuple[Any, ...], steps: int) -> Any:
        host = self._host
        host.last_step_in_trainer = True
        future = host.trainer.submit(fn, *args)
        try:
            outcome: Outcome[Any] = await finish(future)
        except asyncio.CancelledError as cancellation:
            self._count_or_note(future.result(), steps, cancellation)
            raise
        result = outcome.unwrap()
        if inspect.isawaitable(result):
            host.last_step_in_trainer = False
            result = await self._awaited(result)
        return result

    def _count_or_note(self, outcome: Outcome[Any], steps: int, cancellation: BaseException) -> None:
        if outcome.error is not None:
            cancellation.add_note(f"the step function raised {outcome.error!r} while the step was cancelled")
            self._host.errors.append(outcome.error)
        elif inspect.iscoroutine(outcome.value):
            outcome.value.close()
        elif not inspect.isawaitable(outcome.value):
            self._host.global_step += steps
            self.happened("joined")

    # -- begin, count, end -------------------------------------------------------------------

    def happened(self, what: Happening) -> None:
        """Note what happened to the state."""
        self.standing = MOVES[self.standing][what]

    def _quiet(self, steps: int) -> bool:
        """Whether a step may be counted with no look at anything: neither refusals nor a boundary."""
        host = self._host
        return (
            type(steps) is int
            and 0 < steps < host.quiet_until - host.global_step
            and current_call.get() is None
            and open_mutation.get() is None
            and (host.quiet_before == math.inf or host.clock.monotonic() < host.quiet_before)
        )

    def _begin(self, what: str, steps: int) -> None:
        if not self._quiet(steps):
            self._refuse(what, steps)
        host = self._host
        host.disturb()
        self.under_way = self.called = True
        if host.wants(StepTaken):
            now = host.clock.monotonic()
            self._began = now if what == "run" or self._ended is None else self._ended

    def _refuse(self, what: str, steps: int) -> None:
        refuse_inside(self._session, what)
        refuse_in_mutation(what)
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            message = f"steps has to be at least 1, not {steps!r}"
            raise ValueError(message)
        self._session._life.refuse_unless_open(what)
        if self.under_way:
            message = f"{what}() while another step is running"
            raise ProtocolError(message)
        if self.owes_reading:
            message = (
                "the state is a callable and its restored values were never taken: "
                "pass load= to the saver hook, or read session.restored before the first step"
            )
            raise ProtocolError(message)
        self._refuse_stopped()

    def _refuse_stopped(self) -> None:
        reason, step = self._stop.reason, self._host.global_step
        if reason is not None:
            message = f"the session stopped at step {step}: {reason}"
            raise SessionStopped(message, reason=reason, step=step)

    async def _before_run(self, steps: int) -> StepRun:
        session = self._session
        run = StepRun(session, self._host.global_step, steps, None, session.request_stop)
        await self._boundary.before_run(run)
        return run

    async def _count(self, run: StepRun | None, steps: int) -> None:
        session, host, boundary = self._session, self._host, self._boundary
        if session._life.state == "closed":
            message = f"the session was closed while step {host.global_step} ran"
            raise ProtocolError(message)
        self.happened("counted")
        if host.wants(StepTaken):
            seconds = host.clock.monotonic() - self._began
            host.emit(StepTaken, step=host.global_step, steps=steps, seconds=seconds)
        if run is not None:
            run.step = host.global_step
            await boundary.check(run)
        self.happened("checked")
        if run is not None or boundary.may_be_due():
            await boundary.after_step(run)
        else:
            self._stop.publish()
        if boundary.requests and not self.by_advance:
            # They came too late for this boundary, and nobody knows whether there will be another.
            session._scheduler.watch(serve(session), "serve save()")
        if host.troubled:
            host.raise_late(stacklevel=4)

    def _end(self) -> None:
        self.under_way = False
        # The step may have failed, and then no boundary has published what was asked for in it.
        self._stop.publish_asked()
        host = self._host
        if host.wants(StepTaken):
            self._ended = host.clock.monotonic()
            return  # every step is told, so none is quiet
        if (
            self._stop.decided is None
            and not self._boundary.requests
            and not host.troubled
            and self._session._life.state == "open"
        ):
            host.quiet_until, host.quiet_before = self._machine.due_step, self._machine.due_time
