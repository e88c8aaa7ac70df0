"""The stop flag: decided at any moment, published where the caller can expect it."""

from __future__ import annotations

__all__ = ["StopFlag"]


class StopFlag:
    """What was decided, and what ``should_stop()`` may already say.

    Attributes:
        decided: Why the session is to stop, once that is known.
        reason: The same, once it is published.
        asked: Somebody asked for it, and that does not wait for a boundary that may never come.
    """

    __slots__ = ("asked", "decided", "reason")

    def __init__(self) -> None:
        self.decided: str | None = None
        self.reason: str | None = None
        self.asked = False

    def publish(self) -> None:
        """At a boundary: let ``should_stop()`` say what was decided. The first reason stays."""
        if self.reason is None:
            self.reason = self.decided

    def publish_asked(self) -> None:
        """Where no boundary is, between steps and behind one that failed: only if it was asked for."""
        if self.asked:
            self.publish()
