"""Going out: drain, final round, ``end`` for everyone, all within the grace period."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Any

from async_ckpt import events
from async_ckpt.core import protocol as p
from async_ckpt.core.machine import Phase, SaveState
from async_ckpt.core.standing import Exit, last_round, refusal
from async_ckpt.errors import SessionStopped
from async_ckpt.runtime.lane import Inside
from async_ckpt.session.requests import refuse
from async_ckpt.system.threads import TRIES, spawn, spend

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from async_ckpt.session.boundary import Place
    from async_ckpt.session.session import MonitoredTrainingSession

__all__ = ["leave"]

logger = logging.getLogger("async_ckpt")

#: what a callback still gets when the grace period is over: every ``end`` is called, none hangs the exit
SECS_AFTER_GRACE = 1.0
_NOT_DURABLE = {SaveState.PREPARING, SaveState.WRITING, SaveState.WRITTEN, SaveState.COMMITTING}


async def leave(session: MonitoredTrainingSession, error: BaseException | None) -> None:
    """Close ``session``, which was left with ``error`` or None. Errors go to the host, none leaves here.

    But for a MemoryError where there is none, time and again; then it may be called again.

    Runs in a task of its own, so that nothing done to the leaving task can cut it short.
    """
    watch = _Watch(session)
    steps = (_begin, _finish_saves, _end_all, _finish_preparations, _finish_log, _shut)
    at, tries = 0, TRIES
    while at < len(steps):
        step = steps[at]
        try:
            await step(session, error, watch)
        except MemoryError as lacking:
            tries -= 1
            if tries and step not in (_finish_saves, _finish_log):
                continue  # it may be done again, and is owed
            session._host.fail(lacking)
        except BaseException as failure:  # noqa: BLE001 - kept for the exit to raise
            session._host.fail(failure)
        at += 1


async def _begin(session: MonitoredTrainingSession, _: BaseException | None, watch: _Watch) -> None:
    session._warm_up.cancel()
    watch.start()


async def _end_all(session: MonitoredTrainingSession, _: BaseException | None, __: _Watch) -> None:
    """Call every ``end`` that is owed; where memory lacked for the call itself, it is owed still."""
    for place in session._places:
        tries = TRIES
        while place.owes_end:
            try:
                await _end(session, place)
            except MemoryError as lacking:
                tries -= 1
                if not tries:
                    session._host.fail(lacking)
                    break
            except BaseException as failure:  # noqa: BLE001 - kept for the exit to raise
                session._host.fail(failure)
                break


async def _finish_preparations(
    session: MonitoredTrainingSession, _: BaseException | None, watch: _Watch
) -> None:
    if session._warm_up.under_way:
        await watch.waited(session._warm_up.ended(), "preparations")


async def _finish_log(session: MonitoredTrainingSession, error: BaseException | None, watch: _Watch) -> None:
    if session._event_log is not None:
        # Before the lock is given back: after that the log is somebody else's.
        record = session._host.observers.record(events.SessionEnded, _ended(session, error))
        session._event_log(record)
        await watch.waited(session._event_log.finish(), "the event log")


async def _guarded(session: MonitoredTrainingSession, work: object) -> None:
    try:
        await work  # type: ignore[misc]
    except BaseException as error:  # noqa: BLE001 - kept for the exit to raise
        session._host.fail(error)


async def _finish_saves(
    session: MonitoredTrainingSession, error: BaseException | None, watch: _Watch
) -> None:
    scheduler, boundary = session._scheduler, session._boundary
    # Whoever closes the session from another task lets the step that runs come to its boundary.
    if await watch.turn_taken():
        try:
            await scheduler.drained()
            standing = session._steps.standing
            leaving = Exit(
                clean=error is None or isinstance(error, SessionStopped),
                final_save=session.final_save,
                asked=any(not request.answer.done() for request in boundary.requests),
                able=not (session._host.expired or scheduler.broken)
                and scheduler.machine.phase is Phase.OPEN,
            )
            match last_round(standing, leaving):
                case "final":
                    await boundary.final()
                case "asked":
                    await boundary.on_demand()
                case "left out":
                    _leave_out_final(session, str(refusal(standing)))
                case "none":
                    pass
            await scheduler.drained()
        finally:
            session._steps.turn.release()
    else:
        session._host.fail(TimeoutError("a step was still running when the grace period ended"))
    refuse(boundary.requests, "the session ended before the save could be taken")


def _leave_out_final(session: MonitoredTrainingSession, why: str) -> None:
    logger.warning("the final save is left out: %s", why)
    for place in session._places:
        if place.runner is not None:
            session._host.emit(
                events.SaveSkipped,
                directory=place.runner.directory,
                step=session.global_step,
                reason="interrupted",
            )


async def _end(session: MonitoredTrainingSession, place: Place) -> None:
    if place.runner is not None:
        await place.runner.callbacks.end()
    elif place.begun:
        # Through the lane only because that is what can be abandoned.
        outcome = await session._host.lane.call(
            place.hook.end, session, inside=Inside(f"{type(place.hook).__name__}.end", place.hook, session)
        )
        place.begun = False
        if outcome.error is not None:
            session._host.fail(outcome.error)


async def _shut(session: MonitoredTrainingSession, error: BaseException | None, watch: _Watch) -> None:
    watch.stop()
    host, scheduler = session._host, session._scheduler
    for place in session._places:
        hook, runner = place.hook, place.runner
        if runner is not None and scheduler.machine.state_of(place.index) in _NOT_DURABLE:
            runner.abandon_save("memory ran out" if scheduler.broken else "the grace period ended")
        if runner is not None and getattr(hook, "owns_saver", False):
            # Where only the count of saves was lost, none is held by anybody's code, and they end soon.
            abandoned = not scheduler.machine.idle and (host.expired or not scheduler.broken)
            await _guarded(session, runner.close(abandoned=abandoned))
    for hook in session._readers:
        if hook.owns_saver:
            await _guarded(session, hook.saver.aclose())
    if scheduler.machine.phase is Phase.OPEN:
        scheduler.tell(p.CloseRequested())
    if scheduler.machine.phase in (Phase.NEW, Phase.CLOSING):
        scheduler.tell(p.Closed())
    host.close()
    session._stopping.restore_handlers()
    host.emit(events.SessionEnded, **_ended(session, error))


def _ended(session: MonitoredTrainingSession, error: BaseException | None) -> dict[str, Any]:
    return {"step": session.global_step, "error": None if error is None else repr(error)}


class _Watch:
    """Ends the waiting when the grace period is over, by the loop's clock."""

    def __init__(self, session: MonitoredTrainingSession) -> None:
        self._session = session
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Task[object] | None = None

    def start(self) -> None:
        if self._timer is None and math.isfinite(self._session.grace_secs):
            self._arm(self._session.grace_secs)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def turn_taken(self) -> bool:
        """Wait until no step runs; False if that took longer than the grace period."""
        turn = self._session._steps.turn
        if not turn.locked():
            return await turn.acquire()  # at once, however short the grace period is
        return await self.waited(turn.acquire(), "the step")

    async def waited(self, work: Coroutine[Any, Any, object], what: str) -> bool:
        """Wait for ``work``; False if that took longer than the grace period."""
        self._waiting = spawn(work, name=f"async_ckpt wait for {what}")
        tries = TRIES
        while not self._waiting.done():
            try:
                await asyncio.wait([self._waiting])
            except MemoryError:
                tries = spend(tries)
        return not self._waiting.cancelled()

    def _arm(self, secs: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(secs, self._over)

    def _over(self) -> None:
        host, scheduler = self._session._host, self._session._scheduler
        if not host.expired:
            host.expired = True
            if not scheduler.machine.idle:
                logger.warning(
                    "the grace period of %g s is over with a save in flight", self._session.grace_secs
                )
        abandoned = host.lane.abandon()
        if abandoned is not None:
            logger.warning("%s is abandoned: the grace period is over", abandoned.what)
        scheduler.give_up()
        if self._waiting is not None:
            self._waiting.cancel()
        self._arm(SECS_AFTER_GRACE)
