"""A limit on bytes per second that several threads share: they wait for what the pacer decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Protocol

from async_ckpt.core.pacing import Pacer, Request
from async_ckpt.system.clock import Clock, RealClock

__all__ = ["LOOK_SECS", "Nudge", "Throttle"]

LOOK_SECS = 0.05
"""How often a thread that waits asks whether it should give up."""


class Nudge(Protocol):
    """What a thread waits with; :class:`threading.Event` is one."""

    def set(self) -> None:
        """Let the waiting thread go, now or when it comes."""
        ...

    def clear(self) -> None:
        """Take that back."""
        ...

    def wait(self, timeout: float) -> object:
        """Hold the calling thread until it is set, or so many seconds are over."""
        ...


class Throttle:
    """Holds threads back so that together they move no more than so many bytes per second.

    Threads of different owners take turns, those of one owner go in the order in which they asked. One
    thread waits by the clock, the one that is next; it wakes the one after it.

    Args:
        bytes_per_sec: The limit, or None for none, which costs nothing.
        clock: Where the time comes from.
        nudge: Makes what a thread waits with.

    Raises:
        ValueError: The limit is not a positive finite number.
    """

    def __init__(
        self,
        bytes_per_sec: float | None,
        clock: Clock | None = None,
        *,
        nudge: Callable[[], Nudge] = threading.Event,
    ) -> None:
        self._pacer = None if bytes_per_sec is None else Pacer(bytes_per_sec)
        self._clock = clock or RealClock()
        self._make_nudge = nudge
        self._lock = threading.Lock()
        self._nudges: dict[Request, Nudge] = {}

    def piece(self, default: int) -> int:
        """Bytes to ask for at a time: at most ``default``, and so few that the others' turns come soon.

        With a limit it is a multiple of 4096 worth at most a tenth of a second, but never less than a page.
        """
        return default if self._pacer is None else self._pacer.piece(default)

    def take(self, owner: Hashable, nbytes: int, stopped: Callable[[], bool]) -> bool:
        """Block the calling thread until ``nbytes`` may be moved.

        A request for more than :meth:`piece` is granted in one, and those behind it pay with their time.

        Args:
            owner: Who takes turns with the others.
            nbytes: How many bytes.
            stopped: Asked before waiting and at least every 50 ms; what it raises is let through.

        Returns:
            Whether they may; False if ``stopped`` said so first.

        Raises:
            ValueError: ``nbytes`` is negative.
        """
        if self._pacer is None:
            return True
        with self._lock:
            request = self._pacer.ask(owner, nbytes)
            nudge = self._nudges[request] = self._make_nudge()
        try:
            while True:
                patience = self._look(self._pacer, request)
                if request.granted:
                    return True
                if stopped():
                    return False
                nudge.wait(patience)
                nudge.clear()
        finally:
            self._leave(self._pacer, request)

    def _look(self, pacer: Pacer, request: Request) -> float:
        """Let go whoever may go by now; return how long to wait before looking again."""
        with self._lock:
            now = self._clock.monotonic()
            for gone in pacer.grant(now):
                self._nudges[gone].set()
            due = pacer.due()
            if due is None or pacer.head is not request:
                return LOOK_SECS
            return min(LOOK_SECS, due - now)

    def _leave(self, pacer: Pacer, request: Request) -> None:
        with self._lock:
            pacer.withdraw(request)
            del self._nudges[request]
            if pacer.head is not None:
                # It may have been behind this one, with an eye on nothing but its nudge.
                self._nudges[pacer.head].set()
