"""Is a save due? Pure arithmetic; steps are counts, times are monotonic seconds handed in.

Unlike TensorFlow's ``SecondOrStepTimer`` the clock is read by the caller, and a failed save keeps a
retry schedule of its own beside the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["EverySecs", "EverySteps", "Retry", "Trigger", "WhenAsked", "is_due", "taken"]


@dataclass(frozen=True, slots=True)
class EverySteps:
    """Due ``every`` steps after ``last``: a grid that starts where the last save was taken."""

    every: int
    last: int = 0


@dataclass(frozen=True, slots=True)
class EverySecs:
    """Due ``every`` seconds (inclusive) after ``last``, a monotonic reading."""

    every: float
    last: float = -math.inf


@dataclass(frozen=True, slots=True)
class WhenAsked:
    """Due whenever the user's predicate said so; the answer is handed in."""


Trigger = EverySteps | EverySecs | WhenAsked


def is_due(trigger: Trigger, *, step: int, now: float, wanted: bool) -> bool:
    """Tell whether ``trigger`` asks for a save at ``step`` and time ``now``.

    ``wanted`` is the predicate's answer, used by :class:`WhenAsked` alone.
    """
    if isinstance(trigger, EverySteps):
        return step >= trigger.last + trigger.every
    if isinstance(trigger, EverySecs):
        return now >= trigger.last + trigger.every
    return wanted


def taken(trigger: Trigger, *, step: int, now: float) -> Trigger:
    """Return ``trigger`` after a save was taken, or dropped, at ``step`` and time ``now``."""
    if isinstance(trigger, EverySteps):
        return replace(trigger, last=step)
    if isinstance(trigger, EverySecs):
        return replace(trigger, last=now)
    return trigger


@dataclass(frozen=True, slots=True)
class Retry:
    """Boundaries to wait after ``failures`` failed saves in a row: 1, 2, 4, and so on.

    The trigger's own grid goes on beside it, so the wait is never longer than one interval.
    """

    failures: int = 0
    #: infinite while an attempt is in flight: it is not due a second time before it has failed
    boundaries_left: float = 0

    def started(self) -> Retry:
        """Return the schedule while the next attempt is under way."""
        return replace(self, boundaries_left=math.inf)

    def failed(self) -> Retry:
        """Return the schedule after one more failure."""
        return Retry(self.failures + 1, 2**self.failures)

    def boundary(self) -> Retry:
        """Return the schedule after one boundary has passed."""
        return replace(self, boundaries_left=self.boundaries_left - 1) if self.failures else self

    @property
    def due(self) -> bool:
        """Whether the wait is over."""
        return self.failures > 0 and self.boundaries_left <= 0
