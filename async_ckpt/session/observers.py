"""Who is told of the events: plain callables, and streams that are read with ``async for``."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

from async_ckpt import events
from async_ckpt.events import Event
from async_ckpt.system.clock import Clock

__all__ = ["Observer", "Observers", "Stream"]

logger = logging.getLogger("async_ckpt")

Observer = Callable[[Event], None]


class Observers:
    """The observers of one session, told in the order in which they came.

    Args:
        clock: Stamps the events.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: list[tuple[Observer, tuple[type[Event], ...] | None]] = []
        self._wanted: dict[type[Event], bool] = {}

    def wants(self, kind: type[Event]) -> bool:
        """Whether anybody is to be told; what is costly to tell is not told otherwise."""
        known = self._wanted.get(kind)
        if known is None:
            known = self._wanted[kind] = any(_concerns(kind, kinds) for _, kinds in self._entries)
        return known

    def subscribe(self, observer: Observer, kinds: Collection[type[Event]] | None) -> Callable[[], None]:
        """Add an observer; the returned callable removes it.

        Raises:
            TypeError: It cannot be called, or a kind is no event.
        """
        if not callable(observer):
            raise TypeError(f"an observer is called with each event; {observer!r} cannot be called")
        chosen = getattr(observer, "kinds", None) if kinds is None else kinds
        if chosen is not None:
            chosen = tuple(chosen)
            for kind in chosen:
                if not (isinstance(kind, type) and issubclass(kind, Event)):
                    raise TypeError(f"kinds are classes of async_ckpt.events, not {kind!r}")
        entry = (observer, chosen)
        self._entries.append(entry)
        self._wanted.clear()

        def unsubscribe() -> None:
            self._drop(entry)

        return unsubscribe

    def emit(self, kind: type[Event], fields: dict[str, Any]) -> None:
        """Tell those who want it; one that raises is logged with its traceback and removed."""
        if not self.wants(kind):
            return
        record = self.record(kind, fields)
        for entry in tuple(self._entries):
            observer, kinds = entry
            if not _concerns(kind, kinds):
                continue
            try:
                observer(record)
            except Exception:
                logger.exception("observer %r raised on %s and is removed", observer, kind.__name__)
                self._drop(entry)

    def record(self, kind: type[Event], fields: dict[str, Any]) -> Event:
        """Make an event of now."""
        return kind(at=self._clock.monotonic(), wall=self._clock.wall(), **fields)

    def _drop(self, entry: tuple[Observer, tuple[type[Event], ...] | None]) -> None:
        for at, known in enumerate(self._entries):
            if known is entry:
                del self._entries[at]
                self._wanted.clear()
                return


def _concerns(kind: type[Event], kinds: tuple[type[Event], ...] | None) -> bool:
    return not issubclass(kind, events.Detail) if kinds is None else issubclass(kind, kinds)


class Stream(AsyncIterator[Event]):
    """The events of a session from now on, for one reader; ends behind :class:`events.SessionEnded`.

    Never holds the session up: when ``capacity`` events wait, further ones are left out, and an
    :class:`events.EventsDropped` stands in their place.

    Cancellation of a reader loses no event. :meth:`close` ends the stream for whoever reads it.
    """

    def __init__(
        self,
        subscribe: Callable[[Observer, Collection[type[Event]] | None], Callable[[], None]],
        *,
        capacity: int,
        kinds: Collection[type[Event]] | None,
        over: bool,
    ) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise ValueError(f"capacity has to be at least 1 event, not {capacity!r}")
        if kinds is not None:
            kinds = (*kinds, events.SessionEnded)
        self._capacity = capacity
        self._waiting: deque[Event] = deque()
        self._dropped: events.EventsDropped | None = None
        self._more = asyncio.Event()
        self._over = over
        self._unsubscribe = _nothing if over else subscribe(self._take, kinds)

    def close(self) -> None:
        """Take no more events; those that wait are still given. May be called twice."""
        self._unsubscribe()
        self._over = True
        self._more.set()

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._dropped is not None:
                dropped, self._dropped = self._dropped, None
                return dropped
            if self._over:
                raise StopAsyncIteration
            self._more.clear()
            await self._more.wait()
        return self._waiting.popleft()

    def _take(self, event: Event) -> None:
        last = isinstance(event, events.SessionEnded)
        if self._dropped is not None and (last or len(self._waiting) < self._capacity):
            self._waiting.append(self._dropped)
            self._dropped = None
        # The last one is always told, and the place it takes is never needed again.
        if last or (self._dropped is None and len(self._waiting) < self._capacity):
            self._waiting.append(event)
        else:
            count = 1 if self._dropped is None else self._dropped.count + 1
            self._dropped = events.EventsDropped(at=event.at, wall=event.wall, count=count)
        if last:
            self.close()
        self._more.set()


def _nothing() -> None:
    """Take nothing back."""
