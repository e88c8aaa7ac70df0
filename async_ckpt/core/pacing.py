"""Who may move how many bytes when: one bandwidth, many owners, fair turns. Time is an argument.

A bucket that holds a tenth of a second's worth, so nobody can make up for a long silence with a flood. Owners
who wait take turns, one request each; within an owner the first to ask is the first to go. The next in turn
is never overtaken, however large its request.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass

__all__ = ["BURST_SECS", "Pacer", "Request"]

BURST_SECS = 0.1
"""What may go at once after a silence, in seconds' worth of the rate."""

_PAGE = 4096


@dataclass(eq=False, slots=True)
class Request:
    """Bytes that somebody asked for.

    Attributes:
        owner: Whose turn it counts as.
        nbytes: How many.
        granted: Whether they may go.
    """

    owner: Hashable
    nbytes: int
    granted: bool = False


class Pacer:
    """Hands out a bandwidth.

    Over any stretch of time the bytes granted are at most ``rate`` times its length plus the larger of
    ``burst`` and one request; and while somebody waits, no bandwidth is left unused.

    Args:
        rate: Bytes per second.

    Raises:
        ValueError: The rate is not a positive finite number.
    """

    def __init__(self, rate: float) -> None:
        if not 0 < rate < math.inf:
            raise ValueError(f"a rate must be a positive number of bytes per second, not {rate}")
        self.rate = rate
        self.burst = max(float(_PAGE), rate * BURST_SECS)
        # When the bucket is full again. One instant instead of a level: nothing to refill, no drift.
        self._full_at = -math.inf
        self._turns: OrderedDict[Hashable, deque[Request]] = OrderedDict()

    @property
    def head(self) -> Request | None:
        """The request that goes next."""
        return next(iter(self._turns.values()))[0] if self._turns else None

    def piece(self, default: int) -> int:
        """Bytes to ask for at a time: what fits into a burst, in whole pages, and at most ``default``."""
        return min(default, max(_PAGE, int(self.rate * BURST_SECS) // _PAGE * _PAGE))

    def ask(self, owner: Hashable, nbytes: int) -> Request:
        """Queue up behind the owner's earlier requests; a new owner has its turn after all who wait.

        Raises:
            ValueError: ``nbytes`` is negative.
        """
        if nbytes < 0:
            raise ValueError(f"cannot move {nbytes} bytes")
        request = Request(owner, nbytes)
        self._turns.setdefault(owner, deque()).append(request)
        return request

    def due(self) -> float | None:
        """Say at what time :attr:`head` goes, which may be past; None if nobody waits."""
        head = self.head
        if head is None:
            return None
        # A request larger than the bucket goes when the bucket is full, and those behind it wait longer.
        return self._full_at - (self.burst - min(head.nbytes, self.burst)) / self.rate

    def grant(self, now: float) -> list[Request]:
        """Let go, in turn, whoever may at time ``now``; they are marked and no longer wait."""
        gone: list[Request] = []
        while (due := self.due()) is not None and due <= now:
            owner, waiting = self._turns.popitem(last=False)
            request = waiting.popleft()
            if waiting:
                self._turns[owner] = waiting
            self._full_at = max(self._full_at, now) + request.nbytes / self.rate
            request.granted = True
            gone.append(request)
        return gone

    def withdraw(self, request: Request) -> None:
        """Forget a request that still waits; its owner keeps its turn if it waits for more."""
        waiting = self._turns.get(request.owner)
        if request.granted or waiting is None or request not in waiting:
            return
        waiting.remove(request)
        if not waiting:
            del self._turns[request.owner]
