"""What happens behind a step: checks, hooks and saver hooks in order, the stop flag, late errors."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from async_ckpt import events
from async_ckpt.core import protocol as p
from async_ckpt.hooks import SessionRunHook, StepRun
from async_ckpt.runtime.lane import Inside, current_call
from async_ckpt.runtime.runner import SaveRunner
from async_ckpt.runtime.scheduler import Scheduler
from async_ckpt.saver_hook import CheckpointSaverHook
from async_ckpt.session.requests import SaveRequest, answer, take_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from async_ckpt.session.host import SessionHost

__all__ = ["Boundary", "Place", "inside_user_code", "skipped"]


@dataclass(slots=True)
class Place:
    """One hook's place in session order; ``runner`` and ``index`` belong to saver hooks only."""

    hook: SessionRunHook
    runner: SaveRunner | None = None
    index: int = -1
    #: a plain hook's ``begin`` returned, so it gets its ``end``
    begun: bool = False


@contextlib.contextmanager
def inside_user_code(what: str, owner: object, session: object) -> Iterator[None]:
    """Mark the running task as being inside the user's code, for as long as this block."""
    mark = Inside(what, owner, session)
    token = mark.enter()
    try:
        yield
    finally:
        mark.active = False
        current_call.reset(token)


class Boundary:
    """Carries out the boundaries of one session, one at a time."""

    def __init__(
        self,
        places: Sequence[Place],
        scheduler: Scheduler,
        host: SessionHost,
        publish: Callable[[], None],
    ) -> None:
        self._places = places
        self._scheduler = scheduler
        self._host = host
        self._publish = publish
        self._savers = [place for place in places if place.runner is not None]
        self._plain = [place.hook for place in places if place.runner is None]
        self._overlaps = any(place.runner.overlaps for place in self._savers if place.runner is not None)
        self._wanted: dict[int, bool] = {}
        self.requests: list[SaveRequest] = []
        #: a ``check`` refused the state of the present step: nothing of it may be saved
        self.tainted = False

    # -- hooks -------------------------------------------------------------------------------

    async def before_run(self, run: StepRun) -> None:
        """Call every hook's ``before_run``."""
        for hook in self._plain:
            await self.copies_done()
            with inside_user_code(f"{type(hook).__name__}.before_run", hook, self._host.facade):
                await hook.before_run(run)

    async def copies_done(self) -> None:
        """Wait for copies that run beside the step, before the user's code may change the state."""
        if self._overlaps:
            await self._host.copies_done()

    def save_due(self) -> bool:
        """Whether a saver hook will take a save at this boundary, as far as can be told before it."""
        now = self._host.clock.monotonic()
        return bool(self.requests) or any(
            self._scheduler.machine.due(
                place.index, step=self._host.global_step, now=now, wanted=self._asks(place)
            )
            for place in self._savers
        )

    # -- boundaries --------------------------------------------------------------------------

    async def after_step(self, run: StepRun) -> None:
        """The boundary behind a step whose counter has moved already.

        Raises:
            BaseException: Of a hook, as it is; else the oldest error of background work.
        """
        self._wanted.clear()
        if self._plain:
            self.tainted = True
            for hook in self._plain:
                with inside_user_code(f"{type(hook).__name__}.check", hook, self._host.facade):
                    await hook.check(run)
        self.tainted = False
        machine = self._scheduler.machine
        if not self._plain and not self.requests and machine.next_due_step() > run.step:
            self._publish()
            return
        await self._pass("step", run)

    async def at_entry(self, *, leave_out: Collection[SessionRunHook] = ()) -> None:
        """The boundary that ends the entry; some saver hooks have nothing yet that they could save."""
        await self._pass("entry", None, leave_out=leave_out)

    async def on_demand(self) -> None:
        """A boundary between steps, for what was asked for."""
        await self._pass("demand", None)

    async def final(self) -> None:
        """The boundary of the exit: every hook whose last step is not durable saves it."""
        await self._pass("demand", None, everyone=True)

    async def _pass(
        self,
        kind: Literal["step", "entry", "demand"],
        run: StepRun | None,
        *,
        everyone: bool = False,
        leave_out: Collection[SessionRunHook] = (),
    ) -> None:
        requests, self.requests = self.requests, []
        self._scheduler.tell(p.BoundaryOpened(self._host.global_step, kind))
        try:
            for place in self._places:
                if place.hook in leave_out:
                    continue
                if place.runner is not None:
                    wanted = kind == "step" and self._asks(place)
                    await self._offer(place, requests, wanted=wanted, everyone=everyone)
                elif run is not None:
                    await self.copies_done()
                    what = f"{type(place.hook).__name__}.after_run"
                    with inside_user_code(what, place.hook, self._host.facade):
                        await place.hook.after_run(run)
        finally:
            self._scheduler.tell(p.BoundaryClosed(self._host.clock.monotonic()))
            self._publish()
            served = [request for request in requests if len(request.attempts) == len(self._savers)]
            if served:
                runners = [place.runner for place in self._savers if place.runner is not None]
                answering = answer(served, runners, self._scheduler, self._host)
                self._scheduler.watch(answering, "answer save()")
            for request in requests:
                if request not in served and not request.answer.done():
                    # The boundary ended early: the next one, or the exit, serves the request.
                    take_back(request, self._host)
                    self.requests.append(request)

    async def _offer(
        self, place: Place, requests: Sequence[SaveRequest], *, wanted: bool, everyone: bool
    ) -> None:
        waiting = [request for request in requests if not request.answer.done()]
        attempt = await self._scheduler.offer(
            place.index,
            wanted=wanted,
            asked=everyone or bool(waiting),
            askers=len(waiting),
        )
        if attempt is None and place.runner is not None:
            # This very step is durable and may still be reported on: whoever asks waits for that.
            last = place.runner.attempt
            attempt = last if last is not None and last.step == self._host.global_step else None
        for request in waiting:
            request.attempts.append(attempt)

    def _asks(self, place: Place) -> bool:
        hook = place.hook
        if not isinstance(hook, CheckpointSaverHook) or hook.save_when is None:
            return False
        if place.index not in self._wanted:
            with inside_user_code("save_when", hook, self._host.facade):
                self._wanted[place.index] = bool(hook.save_when(self._host.facade))
        return self._wanted[place.index]


def skipped(host: SessionHost, places: Sequence[Place], hook: int, step: int, reason: str) -> None:
    """Tell the observers of a save that was due and is dropped."""
    runner = next(place.runner for place in places if place.index == hook)
    host.emit(events.SaveSkipped, directory=runner.directory if runner else "", step=step, reason=reason)
