"""The gate between code that changes the state and copies of the state.

Changes share it, copies share it, and one kind keeps the other out. Who comes later waits for everyone
of the other kind who came earlier, so neither starves and the order is the order of arrival. A copy
takes its place when the save is asked for, not when it starts: what changes after that moment is in the
next checkpoint, never half in this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

from async_ckpt.errors import ProtocolError
from async_ckpt.system.threads import insist

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["Gate", "Mutation", "Place"]

Kind = Literal["copy", "change"]


class Place:
    """One place in the queue of the gate, from arrival until it leaves."""

    __slots__ = ("granted", "kind", "wake")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.granted = False
        self.wake: Callable[[], None] | None = None


class Gate:
    """See the module's docstring. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # In their order; a list that gets shorter may ask for memory, and what is given up would stay.
        self._places: dict[Place, None] = {}

    def take(self, kind: Kind) -> Place:
        """Take a place at the end; it is granted at once if nobody of the other kind is in the queue."""
        place = Place(kind)
        with self._lock:
            self._places[place] = None
            try:
                self._grant()
            except BaseException:
                del self._places[place]
                raise
        return place

    def leave(self, place: Place) -> None:
        """Give a place up, whether or not it was granted. A second time does nothing."""
        grant = self._grant  # looked up before, for memory may lack once the place is given up
        with self._lock:
            if place not in self._places:
                return
            del self._places[place]
            # Whoever waits would wait for ever.
            woken = insist(grant)
        for other in woken:
            if other.wake is not None:
                insist(other.wake)
        if not place.granted and place.wake is not None:
            # Somebody else gave it up for whoever waits for it, and who has to hear of that.
            insist(place.wake)

    def changing(self) -> bool:
        """Whether somebody who came earlier is changing the state, or is about to."""
        with self._lock:
            return any(place.kind == "change" for place in self._places)

    async def entered(self, place: Place) -> None:
        """Wait on the loop until ``place`` is granted, or given up by somebody else.

        Cancellation: the place is given up.
        """
        loop = asyncio.get_running_loop()
        turn = loop.create_future()

        def wake() -> None:
            # The loop may be gone by the time another thread leaves the gate; nobody waits then.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, turn)

        if self._ask(place, wake):
            return
        try:
            await turn
        except BaseException:
            self.leave(place)
            raise

    def wait(self, place: Place) -> None:
        """Wait in a thread until ``place`` is granted."""
        turn = threading.Event()
        if self._ask(place, turn.set):
            return
        try:
            turn.wait()
        except BaseException:
            self.leave(place)
            raise

    async def copies_done(self) -> None:
        """Wait until every copy that has taken its place by now is over."""
        place = self.take("change")
        try:
            await self.entered(place)
        finally:
            self.leave(place)

    def _ask(self, place: Place, wake: Callable[[], None]) -> bool:
        with self._lock:
            place.wake = wake
            return place.granted

    def _grant(self) -> list[Place]:
        """Grant what has nobody of the other kind before it; returns whom to wake."""
        granted: list[Place] = []
        first: Place | None = None
        for place in self._places:
            first = first or place
            if place.kind != first.kind:
                break
            if not place.granted:
                granted.append(place)
        # Behind all that asks for memory: it is granted with somebody to tell, or not at all.
        for place in granted:
            place.granted = True
        return granted


def _resolve(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


_held: ContextVar[tuple[tuple[Gate, Place], ...]] = ContextVar("async_ckpt_mutating", default=())


class Mutation:
    """What ``mutating()`` gives: ``async with`` on the loop, ``with`` in a thread.

    May be nested: the inner block adds nothing.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._place: Place | None = None

    @staticmethod
    def inside(gate: Gate) -> bool:
        """Whether the calling task or thread is inside a block of ``gate``.

        A task started inside a block counts while the block is open, and not after.
        """
        with gate._lock:
            return any(held is gate and place in gate._places for held, place in _held.get())

    async def __aenter__(self) -> None:
        if not self.inside(self._gate):
            place = self._gate.take("change")
            await self._gate.entered(place)
            self._open(place)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shut()

    def __enter__(self) -> None:
        if _on_a_loop():
            message = "on the event loop use `async with ...mutating()`; a plain `with` would block it"
            raise ProtocolError(message)
        if not self.inside(self._gate):
            place = self._gate.take("change")
            self._gate.wait(place)
            self._open(place)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shut()

    def _open(self, place: Place) -> None:
        self._place = place
        _held.set((*_held.get(), (self._gate, place)))

    def _shut(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            _held.set(tuple(entry for entry in _held.get() if entry[1] is not place))
            self._gate.leave(place)


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
