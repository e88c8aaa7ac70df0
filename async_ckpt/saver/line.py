"""The line of saves: first come, first served, by one task that nobody cancels."""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

from async_ckpt.errors import SaveError
from async_ckpt.saver.gate import Gate
from async_ckpt.saver.pending import PendingSave
from async_ckpt.saver.writing import Job, Labels, Writer
from async_ckpt.system.threads import spawn

if TYPE_CHECKING:
    from async_ckpt.state.tree import Flat

__all__ = ["Line"]


class Line:
    """Takes saves one after the other. Outcomes are kept as values, in the pending saves.

    Args:
        gate: Where each save takes its place when it joins.
        writer: Does the work.
        settle: Called after each save that was committed and is not held; raises nothing.
        location: For names and messages.

    Attributes:
        uncertain: Steps whose rename may not survive a power cut.
    """

    def __init__(
        self, gate: Gate, writer: Writer, settle: Callable[[], Awaitable[None]], location: str
    ) -> None:
        self.uncertain: set[int] = set()
        self._gate = gate
        self._writer = writer
        self._settle = settle
        self._location = location
        self._queue: deque[Job] = deque()
        self._current: Job | None = None
        self._holding: PendingSave | None = None
        self._failures: list[PendingSave] = []
        self._running = False
        self._idle = asyncio.Event()

    def join(self, flatten: Callable[[], Flat], step: int, labels: Labels, *, held: bool) -> PendingSave:
        """Put a save at the end of the line; returns at once.

        The copy takes its place at the gate now, so changes that come later wait for it.
        """
        place = self._gate.take("copy")
        try:
            pending = PendingSave(step, held=held, left=lambda: self._gate.leave(place))
            self._queue.append(Job(pending, place, flatten, labels, held))
            if not self._running:
                self._start()
        except BaseException:
            self._gate.leave(place)
            raise
        return pending

    def _start(self) -> None:
        self._running = True
        self._idle.clear()
        try:
            spawn(self._run(), name=f"async-ckpt save {self._location}")
        except BaseException:
            # Nobody is in the line then, and nobody may wait for it.
            self._queue.pop()
            self._running = False
            self._idle.set()
            raise

    async def drain(self) -> None:
        """Wait until nobody is in the line."""
        while self._running:
            await self._idle.wait()

    def let_go(self) -> None:
        """End what waits for an owner that has gone: permission to commit, and memory nobody gives back."""
        for job in (self._current, *self._queue):
            if job is not None and not job.pending._allowed.is_set():
                job.pending.cancel()
        if self._holding is not None:
            self._holding.release()

    def unseen(self) -> list[BaseException]:
        """The failures nobody was told of, oldest first; who calls this was told."""
        unseen = [pending._told() for pending in self._failures if not pending._seen]
        self._failures.clear()
        return unseen

    async def _run(self) -> None:
        try:
            while self._queue:
                self._current = self._queue.popleft()
                await self._take(self._current)
        except BaseException as error:
            # Somebody ended the task: the loop is being shut down, or Ctrl-C came at a bad moment.
            for left in (self._current, *self._queue):
                if left is not None and not left.pending.done():
                    self._fail(left.pending, self._ended(left.pending, error))
            self._queue.clear()
            raise
        finally:
            self._current = None
            self._running = False
            self._idle.set()

    async def _take(self, job: Job) -> None:
        pending = job.pending
        if self._holding is not None:
            # Its owner still looks at the memory that this save is to be staged in.
            await self._holding._released.wait()
            self._holding = None
        if pending.done():
            return
        try:
            checkpoint = await self._writer.save(job)
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits the save
            if getattr(error, "outcome", None) == "unknown":
                self.uncertain.add(pending.step)
            self._fail(pending, error)
            return
        # Durable, and told as that whatever fails from here on.
        pending._checkpoint = checkpoint
        try:
            self.uncertain.discard(pending.step)
            if job.held:
                self._holding = pending
            else:
                pending.release()
                await self._settle()
        finally:
            pending._succeed(checkpoint)

    def _fail(self, pending: PendingSave, error: BaseException) -> None:
        try:
            _forget_frames(error)
        finally:
            pending._fail(error)
        self._failures = [failure for failure in (*self._failures, pending) if not failure._seen]

    def _ended(self, pending: PendingSave, error: BaseException) -> SaveError:
        step = pending.step
        message = f"the save of step {step} was ended from outside: {type(error).__name__}"
        # Where it was while the names changed, nobody knows what it left.
        outcome: Literal["failed", "unknown"] = "unknown" if pending._phase == "committing" else "failed"
        failure = SaveError(message, step=step, path=self._location, outcome=outcome)
        failure.__cause__ = error
        return failure


def _forget_frames(error: BaseException | None) -> None:
    """Drop the local variables of the frames an error came through: they hold the staged memory."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__
