"""What happens behind a step: checks, hooks and saver hooks in order, the stop flag, late errors."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from async_ckpt import events
from async_ckpt.core import protocol as p
from async_ckpt.hooks import SessionRunHook, StepRun
from async_ckpt.runtime.lane import Inside
from async_ckpt.runtime.runner import SaveRunner
from async_ckpt.runtime.scheduler import Scheduler
from async_ckpt.saver_hook import CheckpointSaverHook
from async_ckpt.session.requests import SaveRequest, answer, take_back

if TYPE_CHECKING:
    from collections.abc import Callable

    from async_ckpt.session.host import SessionHost

__all__ = ["Boundary", "Place", "skipped"]


@dataclass(slots=True)
class Place:
    """One hook's place in session order; ``runner`` and ``index`` belong to saver hooks only."""

    hook: SessionRunHook
    runner: SaveRunner | None = None
    index: int = -1
    #: a plain hook's ``begin`` returned, so it gets its ``end``
    begun: bool = False
    #: a plain hook's ``after_run`` in words, if it has one of its own
    after_run: str = ""

    @property
    def owes_end(self) -> bool:
        """Whether somebody's ``begin`` returned who has had no ``end``."""
        return self.begun or (self.runner is not None and self.runner.callbacks.owe_end)


class Boundary:
    """Carries out the boundaries of one session, one at a time.

    Attributes:
        hooked: Whether any hook but the saver hooks has something to do at steps.
        overlaps: Whether a copy of the state may run beside a step.
        requests: Calls of ``session.save()`` that wait for a boundary.
    """

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
        #: plain hooks with such a method of their own, each behind its name in words
        self._before: list[tuple[str, SessionRunHook]] = []
        self._checks: list[tuple[str, SessionRunHook]] = []
        self._after: list[tuple[str, SessionRunHook]] = []
        self.hooked = False
        self.overlaps = any(place.runner.overlaps for place in self._savers if place.runner is not None)
        self._wanted: dict[int, bool] = {}
        self.requests: list[SaveRequest] = []

    # -- hooks -------------------------------------------------------------------------------

    def look_up(self) -> None:
        """Find the hooks that have something to do at steps: most define one method of the three."""
        for place in self._places:
            hook = place.hook
            if place.runner is None:
                name = type(hook).__name__
                if _defines(hook, "before_run"):
                    self._before.append((f"{name}.before_run", hook))
                if _defines(hook, "check"):
                    self._checks.append((f"{name}.check", hook))
                if _defines(hook, "after_run"):
                    self._after.append((f"{name}.after_run", hook))
                    place.after_run = f"{name}.after_run"
        self.hooked = bool(self._before or self._checks or self._after)

    async def before_run(self, run: StepRun) -> None:
        """Call every hook's ``before_run``."""
        for what, hook in self._before:
            await self.copies_done()
            with Inside(what, hook, self._host.facade):
                await hook.before_run(run)

    async def copies_done(self) -> None:
        """Wait for copies that run beside the step, before the user's code may change the state."""
        if self.overlaps:
            await self._host.copies_done()

    def ask(self, request: SaveRequest) -> None:
        """Have ``request`` served by the next boundary."""
        self.requests.append(request)
        self._host.disturb()

    def save_due(self) -> bool:
        """Whether a saver hook will take a save at this boundary, as far as can be told before it."""
        now = self._host.clock.monotonic()
        return bool(self.requests) or any(
            self._scheduler.machine.due(
                place.index, step=self._host.global_step, now=now, wanted=self._asks(place)
            )
            for place in self._savers
        )

    async def find_leaf(self, wrong: Callable[[Any], bool]) -> str | None:
        """The path of the first leaf of any saver hook's state that is ``wrong``, looked at off the loop."""
        for place in self._savers:
            found = None if place.runner is None else await place.runner.find_leaf(wrong)
            if found is not None:
                return found
        return None

    # -- boundaries --------------------------------------------------------------------------

    async def check(self, run: StepRun) -> None:
        """Call every hook's ``check``; whatever one raises, nothing of this step may be saved."""
        self._wanted.clear()
        for what, hook in self._checks:
            with Inside(what, hook, self._host.facade):
                await hook.check(run)

    async def after_step(self, run: StepRun | None) -> None:
        """The boundary behind a step that is counted and checked; ``run`` is what plain hooks see.

        Raises:
            BaseException: Of a hook, as it is.
        """
        if run is None:
            self._wanted.clear()
        if self.may_be_due():
            await self._pass("step", run)
            return
        try:
            if run is not None:
                for what, hook in self._after:
                    await self._after_run(what, hook, run)
        finally:
            self._publish()

    def may_be_due(self) -> bool:
        """Whether a save could be due behind the step just counted."""
        machine = self._scheduler.machine
        if self.requests or self._host.global_step >= machine.due_step:
            return True
        if machine.due_time == math.inf:
            return False
        # A saver hook reads the clock at its place, which may be behind an `after_run` that takes long.
        return bool(self._after) or self._host.clock.monotonic() >= machine.due_time

    async def _after_run(self, what: str, hook: SessionRunHook, run: StepRun) -> None:
        if self.overlaps:
            await self.copies_done()
        with Inside(what, hook, self._host.facade):
            await hook.after_run(run)

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
                if any(place.hook is hook for hook in leave_out):
                    continue
                if place.runner is not None:
                    wanted = kind == "step" and self._asks(place)
                    await self._offer(place, requests, wanted=wanted, everyone=everyone)
                elif run is not None and place.after_run:
                    await self._after_run(place.after_run, place.hook, run)
        finally:
            try:
                self._scheduler.tell(p.BoundaryClosed(self._host.clock.monotonic()))
            except MemoryError:
                self._scheduler.break_off()
                raise
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
                    self.ask(request)

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
            with Inside("save_when", hook, self._host.facade):
                self._wanted[place.index] = bool(hook.save_when(self._host.facade))
        return self._wanted[place.index]


def _defines(hook: SessionRunHook, method: str) -> bool:
    return getattr(getattr(hook, method), "__func__", None) is not getattr(SessionRunHook, method)


def skipped(host: SessionHost, places: Sequence[Place], hook: int, step: int, reason: str) -> None:
    """Tell the observers of a save that was due and is dropped."""
    runner = next(place.runner for place in places if place.index == hook)
    host.emit(events.SaveSkipped, directory=runner.directory if runner else "", step=step, reason=reason)
