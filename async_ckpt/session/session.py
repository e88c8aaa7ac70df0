"""The session: counts steps, keeps the boundary, the stop flag and the lifetime."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from async_ckpt import events
from async_ckpt.core import protocol as p
from async_ckpt.core.standing import refusal
from async_ckpt.core.stopping import StopFlag
from async_ckpt.core.votes import Vote
from async_ckpt.errors import ProtocolError
from async_ckpt.hooks import SessionRunHook
from async_ckpt.runtime.lane import running_code
from async_ckpt.runtime.scheduler import Scheduler
from async_ckpt.saver import Checkpoint, Restored
from async_ckpt.saver_hook import CheckpointSaverHook
from async_ckpt.session.boundary import Boundary, skipped
from async_ckpt.session.building import places_of, refuse_shared_directories
from async_ckpt.session.entering import enter
from async_ckpt.session.host import SessionHost
from async_ckpt.session.leaving import leave
from async_ckpt.session.mutation import Mutation, inside_mutation
from async_ckpt.session.requests import SaveRequest, refuse
from async_ckpt.session.signals import SignalWatch
from async_ckpt.session.stepping import Stepping, one_turn, refuse_inside
from async_ckpt.session.warm_up import WarmUp
from async_ckpt.system.clock import Clock, RealClock
from async_ckpt.system.threads import finish, spawn

__all__ = ["MonitoredTrainingSession"]

T = TypeVar("T")


class MonitoredTrainingSession:
    """A training session that saves without stalling and calls its listeners in order.

    Counterpart of ``tf.compat.v1.train.MonitoredTrainingSession``. Use it as an async context
    manager; everything else needs it to be entered.

    Entering calls ``begin`` of all hooks, restores the newest valid step over all saver hooks, calls
    ``after_create_session``, and ends with a boundary; then memory for the first save of each saver hook is
    made ready beside the first steps, unless looking at the state would run code of yours (a callable, an
    object with ``state_dict()``). Leaving without an exception, or with
    :class:`SessionStopped`, drains, takes a final round for the hooks whose last step is not durable,
    and calls ``end``; leaving with another exception completes the round in flight, calls ``end``, and
    lets the same exception go on with later errors as its notes.

    Args:
        hooks: Called behind the chief-only ones, each group in the order given.
        chief_only_hooks: Dropped where ``is_chief`` is false; their saver hooks still restore there.
        final_save: ``"clean"``, ``"never"``, or ``"always"`` (after an exception too, if at a boundary).
        grace_secs: How long drain and ``end`` may take together, by the loop's clock. A callback still
            running then is abandoned and named in the error.
        handle_signals: Signals taken over: the first is a stop request, the second cancels the task
            that entered. Previous handlers come back at the exit. Main thread only.
        clock: For triggers and timestamps; :class:`testing.FakeClock` in tests.

    Attributes:
        metrics: Floats that go into the manifest of the next save, as they are when it is taken.

    Raises:
        TypeError, ValueError: Wrong arguments, or one directory in two saver hooks.
        ProtocolError: A saver hook that already served another session.
    """

    def __init__(
        self,
        *,
        hooks: Iterable[SessionRunHook] = (),
        chief_only_hooks: Iterable[SessionRunHook] = (),
        is_chief: bool = True,
        final_save: Literal["clean", "never", "always"] = "clean",
        grace_secs: float = 30,
        handle_signals: Iterable[int] = (),
        clock: Clock | None = None,
    ) -> None:
        if final_save not in ("clean", "never", "always"):
            message = f'final_save has to be "clean", "never" or "always", not {final_save!r}'
            raise ValueError(message)
        if isinstance(grace_secs, bool) or not isinstance(grace_secs, int | float) or not grace_secs >= 0:
            message = f"grace_secs cannot be {grace_secs!r}"
            raise ValueError(message)
        chief_only, everywhere = list(chief_only_hooks), list(hooks)
        for hook in (*chief_only, *everywhere):
            if not isinstance(hook, SessionRunHook):
                message = f"a hook has to be a SessionRunHook, not {hook!r}"
                raise TypeError(message)
        active = [*chief_only, *everywhere] if is_chief else everywhere
        self.is_chief = is_chief
        self.final_save = final_save
        self.grace_secs = float(grace_secs)
        every_saver_hook = [h for h in (*chief_only, *everywhere) if isinstance(h, CheckpointSaverHook)]
        refuse_shared_directories(every_saver_hook)
        for saver_hook in every_saver_hook:
            saver_hook.check_unbound()
        self._host = SessionHost(self, clock or RealClock())
        self._stop = StopFlag()
        self._places = places_of(active, self._host)
        self._dropped = 0 if is_chief else len(chief_only)
        #: saver hooks that only restore, where the chief's hooks are dropped
        self._readers = [] if is_chief else [h for h in chief_only if isinstance(h, CheckpointSaverHook)]
        for saver_hook in every_saver_hook:
            saver_hook.bind(self, self._host.clock)
        runners = [place.runner for place in self._places if place.runner is not None]
        self._host.savers = [runner.saver for runner in runners]
        self._scheduler = Scheduler(
            runners,
            now=self._host.clock.monotonic,
            on_input=self._host.disturb,
            on_stop=self._stop_decided,
            on_skip=lambda hook, step, reason: skipped(self._host, self._places, hook, step, reason),
            on_bug=self._host.fail,
        )
        self._boundary = Boundary(self._places, self._scheduler, self._host, self._stop.publish)
        self._steps = Stepping(self)
        self._warm_up = WarmUp(self._host)
        self._signals = SignalWatch(handle_signals, self._on_signal)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._state: Literal["new", "entering", "open", "closing", "closed"] = "new"
        self._closer: asyncio.Task[None] | None = None
        self._restored: Restored | None = None

    # -- lifetime ----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._state != "new":
            message = "a session can be entered once; build a new one"
            raise ProtocolError(message)
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._state = "entering"
        try:
            self._signals.install()
            await enter(self)
            self._state = "open"
            self._raise_late_errors(stacklevel=2)
            self._steps.happened("entered")
        except BaseException as error:
            await self._close(error)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._close(error)

    async def aclose(self) -> None:
        """Leave the session as a clean exit would. A second call waits for the first and does nothing.

        Raises:
            ProtocolError: Called from inside a callback, a hook method or a step function.
            BaseException: The oldest error that nobody has seen yet; the others are its notes.
        """
        refuse_inside(self, "aclose")
        if self._state == "entering":
            message = "aclose() of a session that is still being entered: cancel the task that enters it"
            raise ProtocolError(message)
        await self._close(None)

    async def _close(self, error: BaseException | None) -> None:
        if self._state == "new":
            self._state = "closed"
            return
        self._host.disturb()
        first = self._closer is None
        if self._closer is None:
            self._state = "closing"
            self._closer = spawn(leave(self, error), name="async_ckpt closing")
        cancelled: BaseException | None = None
        try:
            await finish(self._closer)
        except asyncio.CancelledError as cancellation:
            cancelled = cancellation
        self._state = "closed"
        if first:
            self._leave_with(error, cancelled)
        elif cancelled is not None:
            raise cancelled

    def _leave_with(self, error: BaseException | None, cancelled: BaseException | None) -> None:
        """Raise what has to leave now; ``error`` itself is already on its way and only gets notes."""
        late = self._host.take_errors()
        if error is None and cancelled is None:
            self._host.issue_warnings(stacklevel=4)
        leaving = error or cancelled or (late.pop(0) if late else None)
        if leaving is None:
            return
        for extra in late:
            if extra is not leaving:
                leaving.add_note(f"while the session was closed: {extra!r}")
        if leaving is not error:
            raise leaving

    # -- steps -------------------------------------------------------------------------------

    async def run(self, fn: Callable[..., Any], *args: Any, steps: int = 1, mutates: bool = True) -> Any:
        """Do one step: call ``fn(*args)`` once, count ``steps``, keep the boundary, return its result.

        A coroutine function is awaited. A plain function runs in the session's own trainer thread,
        always the same one; an awaitable it returns is awaited.

        Args:
            fn: The step: a coroutine function or a plain one.
            *args: Its arguments.
            steps: By how much the counter moves.
            mutates: False says that ``fn`` changes the state only inside :meth:`mutating`, so that a
                copy of the state may run beside it.

        Raises:
            SessionStopped: The session has stopped; nothing was done.
            ProtocolError: Called from inside a callback, a hook, a step or ``mutating()``, or while
                another step runs.
            ValueError: ``steps`` is less than 1.
            BaseException: What ``fn`` or a hook raised; the oldest error of background work.

        Cancellation: a plain function is waited for and counted; a coroutine function is not counted,
        and the session is then not at a boundary.
        """
        if not callable(fn):
            message = f"run() needs a function, not {fn!r}"
            raise TypeError(message)
        return await self._steps.run(fn, args, steps, mutates=mutates)

    async def advance(self, steps: int = 1) -> None:
        """Say that your own loop has done a step: every ``before_run``, then the boundary.

        Yields to the loop exactly once where nothing has to be waited for. Raises as :meth:`run` does.
        """
        if not self._steps.count_quiet(steps):
            await self._steps.advance(steps)
        await one_turn()
        # What comes now is the next step, in the loop of the caller.
        self._steps.happened("went on")

    def __aiter__(self) -> Self:
        self._steps.called = True
        return self

    async def __anext__(self) -> int:
        """``while not should_stop(): yield global_step``; the body has to call run() or advance()."""
        if self.should_stop():
            raise StopAsyncIteration
        if not self._steps.called:
            message = "the body of `async for step in session` has to call run() or advance()"
            raise ProtocolError(message)
        self._steps.called = False
        return self._host.global_step

    # -- saving ------------------------------------------------------------------------------

    async def save(self) -> Checkpoint | tuple[Checkpoint, ...]:
        """Save now, whatever the triggers say, and wait until that is durable and reported.

        From the task that entered, between steps: at once. From another task: at the end of the
        ``run`` under way, or at once if there is none; in a session driven by ``advance``, at the next
        one. Requests before one boundary share one round. A step already durable is returned as it is.
        The grid of the trigger does not move.

        Returns:
            The checkpoint, or a tuple with one per saver hook if there are several (or none).

        Raises:
            SaveError, ListenerError, UnsupportedLeafError: Nothing was saved, and why.
            ProtocolError: Called where it would wait for itself, or the session ended before it.

        Cancellation: takes the request back; a save that has begun completes.
        """
        refuse_inside(self, "save")
        if inside_mutation():
            message = "save() inside mutating() would wait for itself"
            raise ProtocolError(message)
        self._refuse_closed("save")
        if not any(place.runner for place in self._places):
            return ()
        request = SaveRequest(asyncio.get_running_loop().create_future())
        self._boundary.ask(request)
        own = asyncio.current_task() is self._task
        try:
            if not self._steps.under_way and (own or not self._steps.by_advance):
                await self._serve_requests()
            checkpoints = await request.answer
        except BaseException:
            request.answer.cancel()
            request.withdraw()
            if request in self._boundary.requests:
                self._boundary.requests.remove(request)
            raise
        return checkpoints[0] if len(checkpoints) == 1 else checkpoints

    async def _serve_requests(self) -> None:
        async with self._steps.turn:
            if self._state == "open" and any(not r.answer.done() for r in self._boundary.requests):
                why = refusal(self._steps.standing)
                if why is None:
                    await self._boundary.on_demand()
                else:
                    refuse(self._boundary.requests, why)
                    self._boundary.requests.clear()

    async def drain(self) -> None:
        """Wait until no save is in flight: committed, reported and pruned.

        Raises:
            ProtocolError: Called from inside a callback, a hook method or a step function.
        """
        refuse_inside(self, "drain")
        await self._scheduler.drained()

    def mutating(self) -> Mutation:
        """Mark the code that changes the state: ``async with``, or plain ``with`` in the trainer thread.

        Waits for what is left of a copy of the state, and no copy starts inside it. Entering it once
        tells the session that copies may overlap with the steps (``staging="overlap"``).
        """
        return Mutation(self._host.savers, self._allow_overlap)

    def _allow_overlap(self) -> None:
        self._host.overlap_allowed = True

    async def saved_state(self) -> Any:
        """Inside ``after_save``: exactly what this checkpoint holds, without reading the disk.

        Returns:
            The tree, as plain containers with read-only arrays over the staged memory. It is valid
            until the callback returns; copy what has to live longer.

        Raises:
            ProtocolError: Called from anywhere else.
        """
        runner, attempt = self._saving("saved_state")
        return await runner.saved_state(attempt)

    def report(self, metrics: Mapping[str, float]) -> None:
        """Inside ``after_save``: add metrics to this checkpoint, for people and for retention.

        Raises:
            ProtocolError: Called from anywhere else.
            TypeError, ValueError: A name is no string, or a value no number.
        """
        _, attempt = self._saving("report")
        checked: dict[str, float] = {}
        for name, value in metrics.items():
            if not isinstance(name, str):
                message = f"a metric's name has to be a string, not {name!r}"
                raise TypeError(message)
            if isinstance(value, str | bytes | bytearray):
                message = f"metric {name!r} has to be a number, not {value!r}"
                raise TypeError(message)
            checked[name] = float(value)
        attempt.reported.update(checked)

    def _saving(self, what: str) -> Any:
        inside = running_code(self)
        if inside is None or inside.save is None:
            message = f"{what}() has a meaning only inside after_save, while it runs"
            raise ProtocolError(message)
        return inside.save

    # -- stopping ----------------------------------------------------------------------------

    def should_stop(self) -> bool:
        """Whether to leave the training loop."""
        return self._stop.reason is not None or self._state in ("closing", "closed")

    def request_stop(self, reason: str = "requested") -> None:
        """Ask the session to stop: at once between steps, else at this boundary. Safe from any thread."""
        if self._loop is not None and not _running_in(self._loop):
            # A loop that is closed has left nothing behind that could be stopped.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop_now, reason)
        else:
            self._stop_now(reason)

    def _stop_now(self, reason: str) -> None:
        self._scheduler.tell(p.StopRequested(reason))
        self._stop.asked = True
        if not self._steps.under_way:
            self._stop.publish_asked()

    def _stop_decided(self, reason: str) -> None:
        self._stop.decided = reason
        self._host.emit(events.StopDecided, step=self._host.global_step, reason=reason)

    def _on_signal(self, number: signal.Signals, count: int) -> None:
        self._host.emit(events.SignalReceived, signal=number.name, count=count)
        if count == 1:
            self.request_stop(f"signal {number.name}")
        elif self._task is not None:
            self._task.cancel()

    # -- reading -----------------------------------------------------------------------------

    @property
    def global_step(self) -> int:
        """How many steps the run has done, those of earlier lives included."""
        return self._host.global_step

    @property
    def stop_reason(self) -> str | None:
        """Why the session stops, once ``should_stop()`` is true for that reason."""
        return self._stop.reason

    @property
    def votes(self) -> tuple[Vote, ...]:
        """Every stop vote: registrations that ever voted, each once, in order; earlier lives' too."""
        return self._scheduler.machine.votes()

    @property
    def errors(self) -> tuple[BaseException, ...]:
        """Every error of background work and of the exit so far, oldest first."""
        return tuple(self._host.errors)

    @property
    def metrics(self) -> dict[str, float]:
        """A plain dict; what it holds when a save is taken goes into the manifest."""
        return self._host.metrics

    @property
    def clock(self) -> Clock:
        """The session's clock."""
        return self._host.clock

    @property
    def restored(self) -> Restored | None:
        """What the session was restored from, or None in a fresh run."""
        self._steps.owes_reading = False
        return self._restored

    @property
    def save_due(self) -> bool:
        """Inside ``check``: whether a save is about to be taken at this boundary."""
        return self._boundary.save_due()

    def subscribe(self, observer: Callable[[events.Event], None]) -> Callable[[], None]:
        """Call ``observer(event)`` for every event from now on; returns what takes it back.

        An observer is a cheap plain callable. One that raises is logged and removed.
        """
        return self._host.subscribe(observer)

    def _set_restored(self, restored: Restored | None, *, untaken: bool) -> None:
        self._restored = restored
        self._steps.owes_reading = untaken

    async def _off_loop(self, look: Callable[[], T]) -> T:
        """Do a long look in a thread."""
        return await self._host.in_state_thread(look, bound=False)

    async def _find_leaf(self, wrong: Callable[[Any], bool]) -> str | None:
        """The path of the first leaf of any saver hook's state that is ``wrong``, looked at off the loop."""
        for place in self._places:
            if place.runner is not None:
                found = await place.runner.find_leaf(wrong)
                if found is not None:
                    return found
        return None

    # -- refusals ----------------------------------------------------------------------------

    def _refuse_closed(self, what: str) -> None:
        if self._state != "open":
            message = f"{what}() needs an open session; this one is {self._state}"
            raise ProtocolError(message)

    def _raise_late_errors(self, *, stacklevel: int) -> None:
        self._host.issue_warnings(stacklevel=stacklevel + 1)
        error = self._host.take_error()
        if error is not None:
            raise error


def _running_in(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
