"""From new to closed: who entered, who closes, and what leaves the block."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

from async_ckpt.errors import ProtocolError
from async_ckpt.session.entering import enter
from async_ckpt.session.leaving import leave
from async_ckpt.system.threads import TRIES, finish, spawn, spend

if TYPE_CHECKING:
    from async_ckpt.session.session import MonitoredTrainingSession

__all__ = ["Lifetime"]


class Lifetime:
    """The life of one session.

    Attributes:
        state: Where in it the session is.
        task: The one that entered.
    """

    def __init__(self, session: MonitoredTrainingSession) -> None:
        self.state: Literal["new", "entering", "open", "closing", "closed"] = "new"
        self.task: asyncio.Task[Any] | None = None
        self._session = session
        self._closer: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        """Whether no further step can be taken."""
        return self.state in ("closing", "closed")

    @property
    def _closed(self) -> bool:
        return self.state == "closed"

    async def enter(self) -> None:
        """Enter; an error on the way closes the session before it leaves.

        Raises:
            ProtocolError: It was entered before.
            BaseException: See :class:`MonitoredTrainingSession`.
        """
        session = self._session
        if self.state != "new":
            message = "a session can be entered once; build a new one"
            raise ProtocolError(message)
        self.task = asyncio.current_task()
        self.state = "entering"
        try:
            session._stopping.listen()
            await enter(session)
            self.state = "open"
            session._host.raise_late(stacklevel=3)
            session._steps.happened("entered")
        except BaseException as error:
            tries = TRIES
            while not self._closed:
                try:
                    await self.close(error)
                except MemoryError:
                    # Where it lacked for the call itself, what has begun has had no end yet.
                    tries = spend(tries)
            raise

    async def close(self, error: BaseException | None) -> None:
        """Leave, with ``error`` or cleanly; a second call waits for the first.

        Raises:
            BaseException: What leaves instead of ``error``, if that is None; never ``error`` itself.

        Cancellation: the session is closed all the same.
        """
        if self.state == "new":
            self.state = "closed"
            return
        self._session._host.disturb()
        first = self._closer is None
        cancelled: BaseException | None = None
        tries = TRIES
        while self.state != "closed":
            try:
                if self._closer is None or self._closer.done():
                    self.state = "closing"
                    self._closer = spawn(leave(self._session, error), name="async_ckpt closing")
                await finish(self._closer)
            except asyncio.CancelledError as cancellation:
                cancelled = cancellation
            except MemoryError:
                tries = spend(tries)
                continue
            self.state = "closed"
        if first:
            self._leave_with(error, cancelled)
        elif cancelled is not None:
            raise cancelled

    def _leave_with(self, error: BaseException | None, cancelled: BaseException | None) -> None:
        """Raise what has to leave now; ``error`` itself is already on its way and only gets notes."""
        host = self._session._host
        late = host.take_errors()
        if error is None and cancelled is None:
            host.issue_warnings(stacklevel=4)
        leaving = error or cancelled or (late.pop(0) if late else None)
        if leaving is None:
            return
        for extra in late:
            if extra is not leaving:
                leaving.add_note(f"while the session was closed: {extra!r}")
        if leaving is not error:
            raise leaving

    # -- refusals ----------------------------------------------------------------------------

    def refuse_unless_open(self, what: str) -> None:
        """Refuse a call that needs an open session."""
        if self.state != "open":
            message = f"{what}() needs an open session; this one is {self.state}"
            raise ProtocolError(message)

    def refuse_while_entering(self, what: str) -> None:
        """Refuse a call that would wait for the end of the entry."""
        if self.state == "entering":
            message = f"{what}() of a session that is still being entered: cancel the task that enters it"
            raise ProtocolError(message)
