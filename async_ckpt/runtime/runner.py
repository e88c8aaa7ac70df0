"""One saver hook's saves, carried out: callbacks on the lane, state into the saver.

Every public coroutine here does one thing the machine commanded and reports how it went by its
return value. Errors go to the host, which raises them where the user can see them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal

import numpy as np

from async_ckpt import events
from async_ckpt.core.votes import Vote
from async_ckpt.errors import CheckpointError, SaveError
from async_ckpt.runtime.callbacks import Callbacks, PhaseFailedError
from async_ckpt.runtime.host import Host
from async_ckpt.saver import Checkpoint, PendingSave, Restored, Saver
from async_ckpt.state.parse import Node, parse
from async_ckpt.system.threads import spawn

__all__ = ["Attempt", "SaveRunner"]

logger = logging.getLogger("async_ckpt")

#: between two SaveProgress events of a save, by the loop's clock
PROGRESS_SECS = 0.2


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
    #: the grace period ended first, and the exit has said so
    abandoned: bool = False
    pending: PendingSave | None = None
    checkpoint: Checkpoint | None = None
    error: BaseException | None = None
    #: somebody has been given the error
    told: bool = False
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
        callbacks: Callbacks,
        host: Host,
        metadata: Mapping[str, Any] | None,
        on_save_error: Literal["raise", "warn"],
        overlap: bool,
    ) -> None:
        self.saver = saver
        self.callbacks = callbacks
        self.attempt: Attempt | None = None
        self.latest: Checkpoint | None = None
        self.earlier_votes: tuple[Vote, ...] = ()
        #: the session's start step, until the first save has set aside what lies above it
        self.abandon_above: int | None = None
        self._read_state = read_state
        self._bound = state_is_bound
        self._host = host
        self._metadata = metadata
        self._raise_save_errors = on_save_error == "raise"
        self.overlaps = overlap
        self._cast: list[Vote] = []
        self._settling = asyncio.Lock()

    @property
    def directory(self) -> str:
        """Where this hook saves, for messages and events."""
        return self.saver.location

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
            listeners = await self.callbacks.before_save(step, lambda: attempt.cancelled)
            if listeners is None:
                return False
            await self._stage(attempt, listeners)
        except PhaseFailedError as failed:
            self._deliver(attempt, failed.error, self._host.fail)
            return False
        except BaseException as error:  # noqa: BLE001 - an outcome, not a way out
            self._save_failed(attempt, error)
            return False
        return True

    def let_go(self) -> None:
        """Nobody will allow the commit any more, or look at the memory: the next save need not wait."""
        if self.attempt is not None and self.attempt.pending is not None:
            try:
                self.attempt.pending.cancel()
            finally:
                self.attempt.pending.release()

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
            expects_report=bool(self.callbacks),
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
        if not host.wants(events.SaveProgress):
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
            seconds = self._host.clock.monotonic() - attempt.began
            self._host.emit(events.SaveWritten, directory=self.directory, step=attempt.step, seconds=seconds)
        except BaseException as error:  # noqa: BLE001
            self._save_failed(attempt, error)
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
            # The rename may have been made, or is being made, whoever could not wait for it.
            self._save_failed(attempt, error, otherwise="unknown")
            return False
        try:
            self._host.emit(
                events.SaveCommitted,
                directory=self.directory,
                step=step,
                path=str(attempt.checkpoint.path),
                bytes=attempt.checkpoint.bytes,
                seconds=self._host.clock.monotonic() - attempt.began,
            )
        except MemoryError as error:
            self._host.fail(error)  # durable all the same, and reported on
        return True

    def owe_report(self, restored: Restored) -> None:
        """Take up a checkpoint of an earlier life whose ``after_save`` never came to its end."""
        self.attempt = Attempt(restored.step, self._host.clock.monotonic())
        self.attempt.checkpoint = restored.checkpoint

    async def report(self, step: int) -> tuple[Vote, ...]:
        """Call every ``after_save`` and gather the votes; errors are kept for the boundary."""
        attempt = self.attempt
        assert attempt is not None  # noqa: S101
        attempt.votes = await self.callbacks.after_save(step, (self, attempt))
        for vote in attempt.votes:
            if not any(known.listener == vote.listener for known in self._cast):
                self._cast.append(vote)
        return tuple(attempt.votes)

    async def settle(self, step: int) -> None:
        """Write the report, run retention, free the staged memory."""
        attempt = self.attempt
        assert attempt is not None  # noqa: S101
        async with self._settling:
            # Cut short by the grace period, `after_save` is owed to the next life: no report says so.
            if not self._host.expired:
                await self._settle(attempt, step)
                self._tell_settled(attempt, step)
            attempt.from_disk = None
            if attempt.pending is not None:
                attempt.pending.release()

    def _tell_settled(self, attempt: Attempt, step: int) -> None:
        if self._host.wants(events.SaveSettled) and attempt.checkpoint is not None:
            self._host.emit(
                events.SaveSettled,
                directory=self.directory,
                step=step,
                seconds=self._host.clock.monotonic() - attempt.began,
                metrics=dict(attempt.checkpoint.metrics),
            )

    async def _settle(self, attempt: Attempt, step: int) -> None:
        try:
            if self.callbacks:
                listeners = await self.callbacks.reported_states(step)
                await self.saver._add_report(
                    step,
                    votes=[
                        {"listener": v.listener, "step": v.step, "reason": v.reason}
                        for v in self._ever_cast()
                    ],
                    metrics=attempt.reported,
                    listeners=listeners,
                )
                self._add_metrics(attempt)
            for deleted in await self.saver.prune():
                self._host.emit(events.CheckpointDeleted, directory=self.directory, step=deleted)
        except BaseException as error:  # noqa: BLE001
            self._surface(error)

    def abandon_save(self, why: str) -> None:
        """The session ends and the save in flight is not durable: that is an error of the exit."""
        attempt = self.attempt
        if attempt is None or attempt.checkpoint is not None:
            return  # whoever counts the saves lacked memory, and counts one that is durable or never began
        attempt.cancelled = True
        ended = attempt.pending is None or attempt.pending.cancel()
        message = (
            f"the save of step {attempt.step} to {self.directory} was still under way when {why}, and "
            + ("was given up" if ended else "may or may not become durable")
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
        """The tree of this checkpoint: from the staged memory, or from disk where that is not whole."""
        if attempt.pending is not None and attempt.pending.viewable:
            return attempt.pending.view()
        if attempt.from_disk is None:
            attempt.from_disk = _sealed((await self.saver.restore(attempt.step)).state)
        return attempt.from_disk

    # -- errors ------------------------------------------------------------------------------

    def _save_failed(
        self,
        attempt: Attempt,
        error: BaseException,
        *,
        otherwise: Literal["failed", "unknown"] = "failed",
    ) -> None:
        if attempt.abandoned:
            return
        outcome: Literal["failed", "unknown", "cancelled"] = getattr(error, "outcome", otherwise)
        kind = events.SaveUnknown if outcome == "unknown" else events.SaveFailed
        self._host.emit(kind, directory=self.directory, step=attempt.step, reason=str(error) or repr(error))
        if not isinstance(error, CheckpointError) and isinstance(error, Exception):
            wrapped = SaveError(
                f"saving step {attempt.step} to {self.directory} failed: {error!r}",
                step=attempt.step,
                path=self.directory,
                outcome=outcome,
            )
            wrapped.__cause__ = error
            error = wrapped
        self._deliver(attempt, error, self._surface)

    @staticmethod
    def _deliver(attempt: Attempt, error: BaseException, otherwise: Callable[[BaseException], None]) -> None:
        """Whoever asked for the save gets its error; ``otherwise`` it surfaces by itself."""
        if attempt.askers and isinstance(error, Exception):
            attempt.error = error
        else:
            otherwise(error)

    def _surface(self, error: BaseException) -> None:
        if self._raise_save_errors or not isinstance(error, Exception):
            self._host.fail(error)
        else:
            logger.warning("%s", error, exc_info=error)
            self._host.warn(str(error))


def _plain_values(node: Node, path: str) -> Iterator[tuple[str, Any]]:
    if node.tag == "plain":
        yield path, node.value
    elif not node.is_leaf:
        for place, child in node.places(path):
            yield from _plain_values(child, place)


def _sealed(tree: Any) -> Any:
    """Make the arrays of a restored tree read-only, as those over staged memory are."""
    if isinstance(tree, np.ndarray):
        tree.setflags(write=False)
    elif isinstance(tree, Mapping):
        for child in tree.values():
            _sealed(child)
    elif isinstance(tree, list | tuple):
        for child in tree:
            _sealed(child)
    return tree
