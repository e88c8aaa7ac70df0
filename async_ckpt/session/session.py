"""The session, as its user sees it. What it does stands in the modules beside this one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self

from async_ckpt.core.votes import Vote
from async_ckpt.errors import ProtocolError
from async_ckpt.events import Event
from async_ckpt.hooks import SessionRunHook
from async_ckpt.runtime.scheduler import Scheduler
from async_ckpt.saver import Checkpoint, Restored
from async_ckpt.session.asking import save
from async_ckpt.session.boundary import Boundary, skipped
from async_ckpt.session.building import check_options, places_of, roster_of
from async_ckpt.session.event_log import EventLog
from async_ckpt.session.host import SessionHost
from async_ckpt.session.inside import checked_metrics, current_save, refuse_inside
from async_ckpt.session.lifetime import Lifetime
from async_ckpt.session.mutation import Mutation
from async_ckpt.session.observers import Observer, Stream
from async_ckpt.session.stepping import Stepping, one_turn
from async_ckpt.session.stopping import Stopping
from async_ckpt.session.warm_up import WarmUp
from async_ckpt.system.clock import Clock, RealClock
from async_ckpt.system.threads import TRIES, spend

__all__ = ["MonitoredTrainingSession"]


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
        event_log: Append what happens to ``events.jsonl`` in each directory that is saved to: every event but
            progress and single steps, one line of JSON each, from the first save on. The file is rotated; a
            log that cannot be written is given up with a warning, and never holds anything up.

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
        event_log: bool = True,
    ) -> None:
        check_options(final_save, grace_secs)
        roster = roster_of(hooks, chief_only_hooks, is_chief=is_chief)
        self.is_chief = is_chief
        self.final_save: Literal["clean", "never", "always"] = final_save
        self.grace_secs = float(grace_secs)
        self._host = SessionHost(self, clock or RealClock())
        self._event_log = EventLog(self.subscribe) if event_log else None
        self._life = Lifetime(self)
        self._stopping = Stopping(self, handle_signals)
        self._places = places_of(roster.active, self._host)
        self._dropped = roster.dropped
        self._readers = roster.readers
        for saver_hook in roster.saver_hooks:
            saver_hook.bind(self, self._host.clock)
        runners = [place.runner for place in self._places if place.runner is not None]
        self._host.savers = [runner.saver for runner in runners]
        self._scheduler = Scheduler(
            runners,
            now=self._host.clock.monotonic,
            on_input=self._host.disturb,
            on_stop=self._stopping.decided,
            on_skip=lambda hook, step, reason: skipped(self._host, self._places, hook, step, reason),
            on_bug=self._host.fail,
        )
        self._boundary = Boundary(self._places, self._scheduler, self._host, self._stopping.flag.publish)
        self._steps = Stepping(self)
        self._warm_up = WarmUp(self._host)
        self._restored: Restored | None = None

    # -- lifetime ----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._life.enter()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        tries = TRIES
        while True:
            try:
                await self._life.close(error)
            except MemoryError:
                if self._life.state == "closed":
                    raise
                tries = spend(tries)
            else:
                return

    async def aclose(self) -> None:
        """Leave the session as a clean exit would. A second call waits for the first and does nothing.

        Raises:
            ProtocolError: Called from inside a callback, a hook method or a step function.
            BaseException: The oldest error that nobody has seen yet; the others are its notes.
        """
        refuse_inside(self, "aclose")
        self._life.refuse_while_entering("aclose")
        await self._life.close(None)

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
        checkpoints = await save(self)
        return checkpoints[0] if len(checkpoints) == 1 else checkpoints

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
        return Mutation(self._host.savers, self._host.allow_overlap)

    async def saved_state(self) -> Any:
        """Inside ``after_save``: exactly what this checkpoint holds, from memory wherever that still has it.

        Returns:
            The tree, as plain containers with read-only arrays. It is valid until the callback returns;
            copy what has to live longer.

        Raises:
            ProtocolError: Called from anywhere else.
        """
        runner, attempt = current_save(self, "saved_state")
        return await runner.saved_state(attempt)

    def report(self, metrics: Mapping[str, float]) -> None:
        """Inside ``after_save``: add metrics to this checkpoint, for people and for retention.

        Raises:
            ProtocolError: Called from anywhere else.
            TypeError, ValueError: A name is no string, or a value no number.
        """
        _, attempt = current_save(self, "report")
        attempt.reported.update(checked_metrics(metrics))

    # -- stopping ----------------------------------------------------------------------------

    def should_stop(self) -> bool:
        """Whether to leave the training loop."""
        return self._stopping.flag.reason is not None or self._life.over

    def request_stop(self, reason: str = "requested") -> None:
        """Ask the session to stop: at once between steps, else at this boundary. Safe from any thread."""
        self._stopping.request(reason)

    # -- reading -----------------------------------------------------------------------------

    @property
    def global_step(self) -> int:
        """How many steps the run has done, those of earlier lives included."""
        return self._host.global_step

    @property
    def stop_reason(self) -> str | None:
        """Why the session stops, once ``should_stop()`` is true for that reason."""
        return self._stopping.flag.reason

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

    def subscribe(
        self, observer: Observer, *, kinds: Collection[type[Event]] | None = None
    ) -> Callable[[], None]:
        """Call ``observer(event)`` for every event from now on; returns what takes it back.

        An observer is a cheap plain callable, called on the loop. One that raises is logged and removed.

        Args:
            observer: Told in the order of subscription.
            kinds: Classes of :mod:`async_ckpt.events`, of which any one suffices. None for what the observer
                names in an attribute ``kinds`` of its own, else for all but those below
                :class:`events.Detail`.

        Raises:
            TypeError: It cannot be called, or a kind is no event.
        """
        self._host.disturb()
        return self._host.observers.subscribe(observer, kinds)

    def events(self, *, capacity: int = 1024, kinds: Collection[type[Event]] | None = None) -> Stream:
        """Give the events from now on: ``async for event in session.events()``.

        Never holds the session up: when ``capacity`` events wait, further ones are left out, and an
        :class:`events.EventsDropped` that counts them stands in their place. Ends behind
        :class:`events.SessionEnded`; a session that has been left gives none.

        Args:
            capacity: At least 1.
            kinds: As for :meth:`subscribe`.

        Raises:
            ValueError, TypeError: An argument is out of range or of the wrong kind.
        """
        self._host.disturb()
        subscribe = self._host.observers.subscribe
        return Stream(subscribe, capacity=capacity, kinds=kinds, over=self._life.state == "closed")
