"""One saver hook's saves, carried out: callbacks on the lane, state into the saver.

Every public coroutine here does one thing the machine commanded and reports how it went by its
return value. Errors go to the host, which raises them where the user can see them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal, Protocol, TypeVar

from async_ckpt import events
from async_ckpt.core.votes import Vote
from async_ckpt.errors import CheckpointError, ListenerError, ListenerFailure, SaveError
from async_ckpt.listeners import Registration, Stop
from async_ckpt.runtime.lane import Inside, Lane
from async_ckpt.saver import Checkpoint, PendingSave, Restored, Saver
from async_ckpt.state.parse import Node, parse
from async_ckpt.state.plain import decode_plain, encode_plain
from async_ckpt.system.clock import Clock
from async_ckpt.system.threads import Outcome, spawn

__all__ = ["Attempt", "Host", "SaveRunner", "load_hooks"]

logger = logging.getLogger("async_ckpt")
_HOOK = "hook:"

#: between two SaveProgress events of a save, by the loop's clock
PROGRESS_SECS = 0.2
T = TypeVar("T")


class Host(Protocol):
    """What a runner needs of the session it works for."""

    clock: Clock
    lane: Lane

    @property
    def facade(self) -> Any:
        """The object the callbacks get as ``session``."""

    @property
    def global_step(self) -> int:
        """How many steps the session has counted."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """What a save taken now puts into its manifest."""

    @property
    def expired(self) -> bool:
        """The grace period of the exit is over: nothing new is to be begun but ``end``."""

    @property
    def overlap_allowed(self) -> bool:
        """The user has said where the state changes, so a copy may run beside the next step."""

    @property
    def observed(self) -> bool:
        """Whether anybody listens."""

    def emit(self, event: type[events.Event], **fields: Any) -> None:
        """Tell the observers."""

    def fail(self, error: BaseException) -> None:
        """Keep ``error`` until the next boundary, or the exit, raises it."""

    def warn(self, message: str) -> None:
        """Keep a warning until the next boundary, or the exit, issues it."""

    async def copies_done(self) -> None:
        """Wait for copies that run beside the step, of every saver: what comes next may change the state."""

    def in_state_thread(self, fn: Callable[[], T], *, bound: bool) -> Awaitable[T]:
        """Evaluate ``fn`` off the loop, or where the last step ran if the state is ``bound`` to it."""

    def stateful(self) -> Sequence[tuple[str, Any]]:
        """The session's own stateful hooks, with their keys."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One save under way, from ``before_save`` to the end of retention.

    Attributes:
        held_secs: How long the step was held for it, by the session's clock.
        askers: How many callers of ``session.save()`` wait for it; they get its error, if any.
        reported: Metrics given to ``session.report()`` by the ``after_save`` callbacks.
    """

    step: int
    began: float
    askers: int = 0
    cancelled: bool = False
    again: bool = False
    #: the grace period ended first, and the exit has said so
    abandoned: bool = False
    pending: PendingSave | None = None
    checkpoint: Checkpoint | None = None
    error: BaseException | None = None
    held_secs: float = 0.0
    reported: dict[str, float] = field(default_factory=dict)
    votes: list[Vote] = field(default_factory=list)
    from_disk: Any = None


class SaveRunner:
    """Carries out the saves of one saver hook."""

    def __init__(
        self,
        *,
        saver: Saver,
        read_state: Callable[[], Any],
        state_is_bound: bool,
        registrations: Sequence[Registration],
        host: Host,
        metadata: Mapping[str, Any] | None,
        on_listener_error: Literal["raise", "log"],
        on_save_error: Literal["raise", "warn"],
        listener_timeout_secs: float | None,
        overlap: bool,
    ) -> None:
        self.saver = saver
        self.attempt: Attempt | None = None
        self.latest: Checkpoint | None = None
        self.earlier_votes: tuple[Vote, ...] = ()
        #: the session's start step, until the first save has set aside what lies above it
        self.abandon_above: int | None = None
        self._read_state = read_state
        self._bound = state_is_bound
        self._registrations = registrations
        self._host = host
        self._metadata = metadata
        self._raise_listener_errors = on_listener_error == "raise"
        self._raise_save_errors = on_save_error == "raise"
        self._timeout = listener_timeout_secs
        self.overlaps = overlap
        self._begun: list[Registration] = []
        self._cast: list[Vote] = []
        self._settling = asyncio.Lock()

    @property
    def directory(self) -> str:
        """Where this hook saves, for messages and events."""
        return self.saver.location

    # -- begin and end -----------------------------------------------------------------------

    async def begin(self) -> None:
        """Call ``begin`` of the listeners; the first error ends it.

        Raises:
            ListenerError: One of them failed (``on_listener_error="raise"``).
        """
        for entry in self._registrations:
            outcome = await self._call(entry, "begin", None)
            if outcome is None or outcome.error is None:
                self._begun.append(entry)
            elif self._must_stop(entry, "begin", None, outcome.error):
                raise self._leaving([ListenerFailure(entry.listener, "begin", None, outcome.error)])

    async def end(self) -> None:
        """Call ``end`` of every listener that began, once, whatever the others did."""
        begun, self._begun = self._begun, []
        step = self._host.global_step
        failures = []
        for entry in begun:
            outcome = await self._call(entry, "end", step, self._host.facade, step)
            if outcome is not None and outcome.error is not None:
                failures.append(ListenerFailure(entry.listener, "end", step, outcome.error))
        self._note(failures)

    # -- one save ----------------------------------------------------------------------------

    def start(self, step: int, *, askers: int) -> Attempt:
        """Open the book of a new save."""
        self.attempt = Attempt(step, self._host.clock.monotonic(), askers=askers)
        return self.attempt

    async def prepare(self, step: int) -> bool:
        """Call ``before_save``, then stage. False: nothing will be written."""
        attempt = self.attempt
        assert attempt is not None  # noqa: S101 - the scheduler opened it
        self._host.emit(events.SaveRequested, directory=self.directory, step=step)
        try:
            await self._host.copies_done()
            for entry in self._begun:
                if attempt.cancelled:
                    return False
                outcome = await self._call(entry, "before_save", step, self._host.facade, step)
                if (
                    outcome is not None
                    and outcome.error is not None
                    and self._must_stop(entry, "before_save", step, outcome.error)
                ):
                    failure = ListenerFailure(entry.listener, "before_save", step, outcome.error)
                    self._fail(attempt, self._leaving([failure]))
                    return False
            if attempt.cancelled:
                return False
            listeners = await self._states("before_save", step)
            if listeners is None or attempt.cancelled:
                return False
            await self._stage(attempt, listeners)
        except BaseException as error:  # noqa: BLE001 - an outcome, not a way out
            self._save_failed(attempt, error)
            return False
        return True

    async def _set_aside(self) -> None:
        """Before the first save: checkpoints above the start step belong to an abandoned lineage."""
        above = self.abandon_above
        if above is not None:
            steps = await self.saver._abandon_above(above)
            self.abandon_above = None
            if steps:
                self._host.emit(events.CheckpointsAbandoned, directory=self.directory, steps=tuple(steps))

    async def _stage(self, attempt: Attempt, listeners: Mapping[str, Any]) -> None:
        host = self._host
        metrics = dict(host.metrics)
        flat = await host.in_state_thread(lambda: self.saver._flatten(self._read_state()), bound=self._bound)
        # Only now: a state that cannot be saved is no reason to touch what is there.
        await self._set_aside()
        attempt.pending = self.saver._start(
            flat,
            attempt.step,
            metrics=metrics,
            metadata=self._metadata,
            listeners=listeners,
            expects_report=bool(self._registrations),
        )
        if not (self.overlaps and host.overlap_allowed):
            await attempt.pending.staged()
        attempt.held_secs = host.clock.monotonic() - attempt.began

    async def _written(self, attempt: Attempt, pending: PendingSave) -> None:
        """Wait until every byte is on disk, and tell the observers how far it is."""
        host = self._host
        await pending.staged()
        host.emit(
            events.SaveStaged,
            directory=self.directory,
            step=attempt.step,
            bytes=pending.progress.bytes_total,
            seconds=attempt.held_secs,
        )
        if not host.observed:
            await pending.written()
            return
        loop = asyncio.get_running_loop()
        told = -1
        timer: asyncio.TimerHandle

        def tell() -> None:
            nonlocal timer, told
            timer = loop.call_later(PROGRESS_SECS, tell)
            now = pending.progress
            if now.bytes_done != told:
                told = now.bytes_done
                host.emit(
                    events.SaveProgress,
                    directory=self.directory,
                    step=attempt.step,
                    bytes_done=told,
                    bytes_total=now.bytes_total,
                )

        timer = loop.call_later(PROGRESS_SECS, tell)
        try:
            await pending.written()
        finally:
            timer.cancel()

    async def write(self, step: int) -> bool:
        """Wait until every byte of ``step`` is durable under the temporary name."""
        del step
        attempt = self.attempt
        assert attempt is not None and attempt.pending is not None  # noqa: S101, PT018
        try:
            await self._written(attempt, attempt.pending)
        except BaseException as error:  # noqa: BLE001
            self._save_failed(attempt, error)
            attempt.pending.release()
            return False
        return True

    async def commit(self, step: int) -> bool:
        """Let the save take its final name and wait until that is durable."""
        attempt = self.attempt
        assert attempt is not None and attempt.pending is not None  # noqa: S101, PT018
        attempt.pending.allow_commit()
        try:
            attempt.checkpoint = self.latest = await attempt.pending
        except BaseException as error:  # noqa: BLE001
            self._save_failed(attempt, error)
            attempt.pending.release()
            return False
        self._host.emit(
            events.SaveCommitted,
            directory=self.directory,
            step=step,
            path=str(attempt.checkpoint.path),
            bytes=attempt.checkpoint.bytes,
            seconds=self._host.clock.monotonic() - attempt.began,
        )
        return True

    def owe_report(self, restored: Restored) -> None:
        """Take up a checkpoint of an earlier life whose ``after_save`` never came to its end."""
        self.attempt = Attempt(restored.step, self._host.clock.monotonic(), again=True)
        self.attempt.checkpoint = restored.checkpoint

    async def report(self, step: int) -> tuple[Vote, ...]:
        """Call every ``after_save`` and gather the votes; errors are kept for the boundary."""
        attempt = self.attempt
        assert attempt is not None  # noqa: S101
        failures = []
        for entry in self._begun:
            if self._host.expired:
                break
            outcome = await self._call(entry, "after_save", step, self._host.facade, step, attempt=attempt)
            if outcome is None:
                continue
            if outcome.error is not None:
                failures.append(ListenerFailure(entry.listener, "after_save", step, outcome.error))
            elif outcome.value is not None:
                vote = Vote(entry.key, step, outcome.value.reason or None)
                attempt.votes.append(vote)
                if not any(known.listener == vote.listener for known in self._cast):
                    self._cast.append(vote)
                self._host.emit(events.StopVoted, listener=entry.key, step=step, reason=vote.reason)
        self._note(failures)
        return tuple(attempt.votes)

    async def settle(self, step: int) -> None:
        """Write the report, run retention, free the staged memory."""
        attempt = self.attempt
        assert attempt is not None  # noqa: S101
        async with self._settling:
            # Cut short by the grace period, `after_save` is owed to the next life: no report says so.
            if not self._host.expired:
                await self._settle(attempt, step)
            attempt.from_disk = None
            if attempt.pending is not None:
                attempt.pending.release()

    async def _settle(self, attempt: Attempt, step: int) -> None:
        try:
            if self._registrations:
                listeners = await self._states("after_save", step)
                await self.saver._add_report(
                    step,
                    votes=[
                        {"listener": v.listener, "step": v.step, "reason": v.reason}
                        for v in self._ever_cast()
                    ],
                    metrics=attempt.reported,
                    listeners=listeners or {},
                )
                self._add_metrics(attempt)
            for deleted in await self.saver.prune():
                self._host.emit(events.CheckpointDeleted, directory=self.directory, step=deleted)
        except BaseException as error:  # noqa: BLE001
            self._surface(error)

    def abandon_save(self) -> None:
        """The grace period is over and the save in flight is not durable: that is an error of the exit."""
        attempt = self.attempt
        assert attempt is not None  # noqa: S101
        attempt.cancelled = True
        ended = attempt.pending is None or attempt.pending.cancel()
        message = (
            f"the save of step {attempt.step} to {self.directory} was still under way when the grace period "
            + ("ended, and was given up" if ended else "ended, and may or may not become durable")
        )
        error = SaveError(
            message, step=attempt.step, path=self.directory, outcome="failed" if ended else "unknown"
        )
        attempt.askers = 0
        self._save_failed(attempt, error)
        attempt.abandoned = True

    async def close(self, *, abandoned: bool) -> None:
        """Close the saver; with a save still in its thread, without waiting for that.

        The thread keeps the lock and the temporary directory until it ends.
        """
        if abandoned:
            spawn(self._close_late(), name="async_ckpt close saver")
        else:
            await self.saver.aclose()

    async def _close_late(self) -> None:
        try:
            async with self._settling:
                await self.saver.aclose()
        except Exception:
            logger.exception("closing %s after the grace period failed", self.directory)

    async def find_leaf(self, wrong: Callable[[Any], bool]) -> str | None:
        """The path of the first leaf that is ``wrong``; state and leaves are looked at off the loop."""
        flat = await self._host.in_state_thread(
            lambda: self.saver._flatten(self._read_state()), bound=self._bound
        )

        def search() -> str | None:
            plain = _plain_values(parse(flat.structure, len(flat.leaves)), "")
            values = chain(((leaf.path, leaf.value) for leaf in flat.leaves), plain)
            return next((path for path, value in values if wrong(value)), None)

        return await self._host.in_state_thread(search, bound=False)

    def _ever_cast(self) -> tuple[Vote, ...]:
        again = {vote.listener for vote in self._cast}
        return (*(vote for vote in self.earlier_votes if vote.listener not in again), *self._cast)

    def _add_metrics(self, attempt: Attempt) -> None:
        if attempt.checkpoint is not None and attempt.reported:
            metrics = {**attempt.checkpoint.metrics, **attempt.reported}
            attempt.checkpoint = self.latest = replace(attempt.checkpoint, metrics=metrics)

    # -- what after_save may ask -------------------------------------------------------------

    async def saved_state(self, attempt: Attempt) -> Any:
        """The tree of this checkpoint: from the staged memory, or from disk for an owed report."""
        if attempt.pending is not None:
            return attempt.pending.view()
        if attempt.from_disk is None:
            attempt.from_disk = (await self.saver.restore(attempt.step)).state
        return attempt.from_disk

    # -- listeners' states -------------------------------------------------------------------

    def _stateful(self, *, with_hooks: bool = True) -> list[tuple[str, Any]]:
        own = [(entry.key, entry.listener) for entry in self._begun if entry.stateful]
        return own + [(f"{_HOOK}{key}", hook) for key, hook in self._host.stateful() if with_hooks]

    async def _states(self, phase: str, step: int) -> dict[str, Any] | None:
        """Every stateful listener's ``state_dict()``, encoded; None after an error that ends the save."""
        states: dict[str, Any] = {}
        for key, owner in self._stateful():
            inside = Inside(f"{key}.state_dict", owner, self._host.facade)
            outcome = await self._host.lane.call(
                owner.state_dict, inside=inside, timeout_secs=self._timeout, convert=_captured
            )
            if outcome.error is None:
                states[key] = outcome.value
                continue
            failure = ListenerFailure(owner, phase, step, outcome.error)
            if phase == "after_save":
                self._note([failure])
            elif self._must_stop(owner, phase, step, outcome.error):
                assert self.attempt is not None  # noqa: S101
                self._fail(self.attempt, self._leaving([failure]))
                return None
        return states

    async def load_states(self, restored: Restored, *, with_hooks: bool) -> None:
        """Give the stateful listeners back what they had; missing and extra entries warn.

        The session's own hooks are in every checkpoint and are restored from one of them only.

        Raises:
            ListenerError: A ``load_state_dict`` failed (``on_listener_error="raise"``).
        """
        states = dict(restored.listeners)
        for key, owner in self._stateful(with_hooks=with_hooks):
            if key not in states:
                self._host.warn(f"checkpoint {restored.checkpoint.path} holds no state for listener {key!r}")
                continue
            state = states.pop(key)
            inside = Inside(f"{key}.load_state_dict", owner, self._host.facade)
            outcome = await self._host.lane.call(owner.load_state_dict, state, inside=inside)
            if outcome.error is not None and self._must_stop(
                owner, "load_state_dict", restored.step, outcome.error
            ):
                failure = ListenerFailure(owner, "load_state_dict", restored.step, outcome.error)
                raise self._leaving([failure])
        # Of a listener whose `begin` failed the error is known, and it is not to be called any more.
        known = {entry.key for entry in self._registrations}
        for key in states:
            if key in known or (not with_hooks and key.startswith(_HOOK)):
                continue
            self._host.warn(
                f"checkpoint {restored.checkpoint.path} holds a state for {key!r}, no listener here"
            )

    # -- errors ------------------------------------------------------------------------------

    async def _call(
        self, entry: Registration, phase: str, step: int | None, *args: Any, attempt: Attempt | None = None
    ) -> Outcome[Any] | None:
        method = entry.methods.get(phase)
        if method is None:
            return None
        save = (self, attempt) if attempt else None
        inside = Inside(f"{entry.key}.{phase}", entry.listener, self._host.facade, save=save)

        def slow() -> None:
            self._host.emit(
                events.ListenerSlow, listener=entry.key, phase=phase, step=step, seconds=self._timeout
            )

        return await self._host.lane.call(
            method,
            *args,
            inside=inside,
            timeout_secs=self._timeout,
            on_slow=slow,
            convert=_as_stop if phase == "after_save" else None,
        )

    def _must_stop(self, entry: Any, phase: str, step: int | None, error: BaseException) -> bool:
        if self._raise_listener_errors or isinstance(error, KeyboardInterrupt | SystemExit):
            return True
        owner = entry.listener if isinstance(entry, Registration) else entry
        self._log(ListenerFailure(owner, phase, step, error))
        return False

    def _note(self, failures: Sequence[ListenerFailure]) -> None:
        """Failures of a phase that reports: everyone was reached, and the error comes later."""
        fatal = [f for f in failures if isinstance(f.exception, KeyboardInterrupt | SystemExit)]
        for failure in fatal:
            self._host.fail(failure.exception)
        rest = [f for f in failures if f not in fatal]
        if rest and self._raise_listener_errors:
            self._host.fail(ListenerError(rest))
        else:
            for failure in rest:
                self._log(failure)

    @staticmethod
    def _leaving(failures: Sequence[ListenerFailure]) -> BaseException:
        first = failures[0].exception
        return first if isinstance(first, KeyboardInterrupt | SystemExit) else ListenerError(failures)

    @staticmethod
    def _log(failure: ListenerFailure) -> None:
        logger.error("%r", failure, exc_info=failure.exception)

    def _save_failed(self, attempt: Attempt, error: BaseException) -> None:
        if attempt.abandoned:
            return
        outcome = getattr(error, "outcome", "failed")
        kind = events.SaveUnknown if outcome == "unknown" else events.SaveFailed
        self._host.emit(kind, directory=self.directory, step=attempt.step, reason=str(error) or repr(error))
        if not isinstance(error, CheckpointError) and isinstance(error, Exception):
            wrapped = SaveError(
                f"saving step {attempt.step} to {self.directory} failed: {error!r}",
                step=attempt.step,
                path=self.directory,
            )
            wrapped.__cause__ = error
            error = wrapped
        if attempt.askers and isinstance(error, Exception):
            attempt.error = error
        else:
            self._surface(error)

    def _fail(self, attempt: Attempt, error: BaseException) -> None:
        if attempt.askers and isinstance(error, Exception):
            attempt.error = error
        else:
            self._host.fail(error)

    def _surface(self, error: BaseException) -> None:
        if self._raise_save_errors or not isinstance(error, Exception):
            self._host.fail(error)
        else:
            logger.warning("%s", error, exc_info=error)
            self._host.warn(str(error))


async def load_hooks(host: Host, restored: Restored) -> None:
    """Give the session's own hooks their states back where no saver hook of this session has a runner.

    Raises:
        ListenerError: A ``load_state_dict`` failed.
    """
    for key, owner in host.stateful():
        if f"{_HOOK}{key}" not in restored.listeners:
            host.warn(f"checkpoint {restored.checkpoint.path} holds no state for hook {key!r}")
            continue
        outcome = await host.lane.call(
            owner.load_state_dict,
            restored.listeners[f"{_HOOK}{key}"],
            inside=Inside(f"{key}.load_state_dict", owner, host.facade),
        )
        if outcome.error is not None:
            raise ListenerError([ListenerFailure(owner, "load_state_dict", restored.step, outcome.error)])


def _plain_values(node: Node, path: str) -> Iterator[tuple[str, Any]]:
    if node.tag == "plain":
        yield path, node.value
    elif not node.is_leaf:
        for place, child in node.places(path):
            yield from _plain_values(child, place)


def _captured(state: Any) -> Any:
    """A copy of a listener's state, taken while nobody else can run; refuses what cannot be saved."""
    return decode_plain(encode_plain(state))


def _as_stop(result: Any) -> Stop | None:
    """Take the truth of a return value where its own errors are caught."""
    if not result:
        return None
    return result if isinstance(result, Stop) else Stop("")
