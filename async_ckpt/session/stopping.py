"""The stop flag: decided at any moment, published at a boundary."""

from __future__ import annotations

__all__ = ["StopFlag"]


class StopFlag:
    """What was decided, and what ``should_stop()`` may already say.

    Attributes:
        decided: Why the session is to stop, once that is known.
        reason: The same, once it is published.
        asked: Somebody asked for it: a step that fails publishes it too.
    """

    def __init__(self) -> None:
        self.decided: str | None = None
        self.reason: str | None = None
        self.asked = False

    def publish(self) -> None:
        """Let ``should_stop()`` say what was decided; the first reason stays."""
        if self.reason is None:
            self.reason = self.decided
