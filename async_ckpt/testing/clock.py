"""A clock that moves when a test says so."""

from __future__ import annotations

__all__ = ["FakeClock"]


class FakeClock:
    """Hand it to ``MonitoredTrainingSession(clock=...)``; time stands still until :meth:`advance`.

    Args:
        monotonic: What :meth:`monotonic` starts with, in seconds.
        wall: What :meth:`wall` starts with, in seconds since the epoch.
    """

    def __init__(self, monotonic: float = 0.0, wall: float = 1_700_000_000.0) -> None:
        self._monotonic = float(monotonic)
        self._wall = float(wall)

    def monotonic(self) -> float:
        """Seconds that have been advanced, from the start given to the constructor."""
        return self._monotonic

    def wall(self) -> float:
        """Seconds since the epoch; moves with :meth:`advance` and :meth:`set_wall`."""
        return self._wall

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass on both clocks.

        Raises:
            ValueError: ``seconds`` is negative or not a number: a monotonic clock never goes back.
        """
        if not seconds >= 0:
            message = f"time goes forward only, not by {seconds} seconds"
            raise ValueError(message)
        self._monotonic += seconds
        self._wall += seconds

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock alone, forwards or backwards, as an operator or a time server does."""
        self._wall = float(seconds)
