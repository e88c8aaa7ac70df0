"""What the runners know of their session: clock, lane, observers, and where errors go."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from async_ckpt.events import Event
from async_ckpt.runtime.lane import Lane
from async_ckpt.saver import Saver
from async_ckpt.session.observers import Observers
from async_ckpt.system.clock import Clock
from async_ckpt.system.threads import Worker

__all__ = ["SessionHost"]

T = TypeVar("T")


class SessionHost:
    """The part of a session that its runners may touch; see :class:`runtime.host.Host`.

    Attributes:
        quiet_until: Behind every step below this one, before ``quiet_before`` (a monotonic reading, in
            seconds), a boundary has nothing to look at: nothing is due, and nobody left an error, a warning,
            a request or a decision. Worked out at the end of a step that was looked at, and taken back by
            :meth:`disturb`.
    """

    def __init__(self, facade: Any, clock: Clock) -> None:
        self.facade = facade
        self.clock = clock
        self.lane = Lane()
        self.trainer = Worker("async_ckpt-trainer")
        self.metrics: dict[str, float] = {}
        self.global_step = 0
        self.quiet_until = self.quiet_before = 0.0
        self.expired = False
        self.overlap_allowed = False
        self.errors: list[BaseException] = []
        self.savers: list[Saver] = []
        #: whether the last step ran in the trainer thread, so that bound state belongs there
        self.last_step_in_trainer = False
        self.stateful_hooks: list[tuple[str, Any]] = []
        self._reader = Worker("async_ckpt-state")
        self._pending: list[BaseException] = []
        self._warnings: list[str] = []
        self.observers = Observers(clock)

    # -- observers ---------------------------------------------------------------------------

    def wants(self, kind: type[Event]) -> bool:
        """Whether anybody is to be told of such events."""
        return self.observers.wants(kind)

    def emit(self, event: type[Event], **fields: Any) -> None:
        """Tell those observers that want it."""
        self.observers.emit(event, fields)

    # -- errors ------------------------------------------------------------------------------

    def disturb(self) -> None:
        """The next boundary may have something to look at; whoever leaves it something says so here."""
        self.quiet_until = 0.0

    @property
    def troubled(self) -> bool:
        """Whether an error or a warning waits for a boundary."""
        return bool(self._pending or self._warnings)

    def fail(self, error: BaseException) -> None:
        """Keep ``error`` until a boundary or the exit takes it."""
        self.errors.append(error)
        self._pending.append(error)
        self.disturb()

    def warn(self, message: str) -> None:
        """Keep a warning until a boundary or the exit issues it."""
        self._warnings.append(message)
        self.disturb()

    def take_errors(self) -> list[BaseException]:
        """Every error nobody has raised yet."""
        taken, self._pending = self._pending, []
        return taken

    def raise_late(self, *, stacklevel: int) -> None:
        """Issue what was kept, then raise the oldest error that nobody has seen yet."""
        self.issue_warnings(stacklevel=stacklevel + 1)
        if self._pending:
            raise self._pending.pop(0)

    def issue_warnings(self, stacklevel: int) -> None:
        """Issue what was kept, as ``RuntimeWarning``, in the caller's frame."""
        while self._warnings:
            warnings.warn(self._warnings.pop(0), RuntimeWarning, stacklevel=stacklevel + 1)

    # -- threads -----------------------------------------------------------------------------

    def allow_overlap(self) -> None:
        """The user says where the state changes: from now on a copy may run beside a step."""
        self.overlap_allowed = True

    async def copies_done(self) -> None:
        """Wait for copies that run beside the step, of every saver."""
        for saver in self.savers:
            await saver._copies_done()

    def stateful(self) -> Sequence[tuple[str, Any]]:
        """The session's own stateful hooks, with their keys."""
        return self.stateful_hooks

    async def off_loop(self, look: Callable[[], T]) -> T:
        """Do a long look in a thread."""
        return await self._reader.call(look)

    async def in_state_thread(self, fn: Callable[[], T], *, bound: bool) -> T:
        """Evaluate ``fn`` where the last step ran if the state is bound to it, else off the loop."""
        if not bound:
            return await self.off_loop(fn)
        if self.last_step_in_trainer:
            return await self.trainer.call(fn)
        return fn()

    def close(self) -> None:
        """Let the threads end."""
        self.trainer.close()
        self._reader.close()
        self.lane.close()
