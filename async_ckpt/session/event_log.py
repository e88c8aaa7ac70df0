"""What happens in a session, appended to the event log of each directory it saves to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from async_ckpt import events
from async_ckpt.events import Event
from async_ckpt.storage.journal import encode_event
from async_ckpt.system.threads import spawn

__all__ = ["EventLog"]

logger = logging.getLogger("async_ckpt")

Note = Callable[[bytes], Awaitable[None]]


class EventLog:
    """An observer that writes down what it is told, beside the session and never in its way.

    Nothing is written before the first save into a directory begins: a session that only looks leaves it as
    it was. Lines that come while others are written go together in the next write. A log that fails is given
    up, with a warning in the program's own log.
    """

    kinds = tuple(
        kind
        for kind in (*Event.__subclasses__(), *events.Detail.__subclasses__())
        if kind not in (events.Detail, events.SaveProgress, events.SessionEnded, events.StepTaken)
    )

    def __init__(self, subscribe: Callable[[Callable[[Event], None]], object]) -> None:
        self._subscribe = subscribe
        self._directories: dict[str, _Lines] = {}

    def add(self, directory: str, note: Note) -> None:
        """Write down from now on what concerns ``directory``, through ``note``."""
        if not self._directories:
            self._subscribe(self)  # without a directory there is nobody to tell
        self._directories[directory] = _Lines(directory, note)

    def __call__(self, event: Event) -> None:
        """Write an event down."""
        directory = getattr(event, "directory", None)
        for name, lines in self._directories.items():
            if directory is None or directory == name:
                lines.add(event, begins=isinstance(event, events.SaveRequested))

    async def finish(self) -> None:
        """Wait until every line is written, or given up. Cancellation: they are written all the same."""
        for lines in self._directories.values():
            await lines.written()


class _Lines:
    def __init__(self, directory: str, note: Note) -> None:
        self._directory = directory
        self._note = note
        self._waiting: list[Event] = []
        self._task: asyncio.Task[None] | None = None
        self._begun = False
        self._broken = False

    def add(self, event: Event, *, begins: bool) -> None:
        if self._broken:
            return
        self._begun |= begins
        self._waiting.append(event)
        if self._begun and (self._task is None or self._task.done()):
            self._task = spawn(self._write(), name="async_ckpt event log")

    async def written(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _write(self) -> None:
        while self._waiting and not self._broken:
            told, self._waiting = self._waiting, []
            try:
                await self._note(b"".join(map(encode_event, told)))
            except Exception as error:  # noqa: BLE001 - whatever it is, a log may not end a run
                self._broken = True
                logger.warning("no more events are logged in %s: %s", self._directory, error)
