"""What observers see of a session: frozen records, named in the past tense, units on every field.

Handed to the callables given to :meth:`MonitoredTrainingSession.subscribe`, in the order in which
the things happened. Nothing here can be answered: whoever wants to act is a listener, not an
observer.

Most events are rare. Those below :class:`Detail` come with every step or call, and are told only to
observers that name them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "CheckpointDeleted",
    "CheckpointRejected",
    "CheckpointRestored",
    "CheckpointsAbandoned",
    "Detail",
    "Event",
    "EventsDropped",
    "ListenerCalled",
    "ListenerSlow",
    "SaveCommitted",
    "SaveFailed",
    "SaveProgress",
    "SaveRequested",
    "SaveSettled",
    "SaveSkipped",
    "SaveStaged",
    "SaveUnknown",
    "SaveWritten",
    "SessionBegan",
    "SessionEnded",
    "SignalReceived",
    "StepTaken",
    "StopDecided",
    "StopVoted",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events.

    Attributes:
        at: Seconds on the session clock's monotonic reading.
        wall: Seconds since the epoch, for people; never used for order.
    """

    at: float
    wall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail(Event):
    """Base of the events that are told only to observers that name them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionBegan(Event):
    """The session was entered. ``step`` is where it starts; ``resumed`` tells a restored one."""

    step: int
    resumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRestored(Event):
    """The state was restored from the checkpoint at ``path``."""

    step: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRejected(Event):
    """A newer checkpoint was passed over on resume; ``reason`` says what is wrong with it."""

    step: int
    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointsAbandoned(Event):
    """Checkpoints above the start step were set aside as ``.abandoned-step-…``, oldest first."""

    directory: str
    steps: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveRequested(Event):
    """A saver hook began to prepare a save; its ``before_save`` callbacks come next."""

    directory: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveSkipped(Event):
    """A save was due and is dropped.

    ``reason`` is ``"busy"``: a round was in flight; or ``"interrupted"``: the final save, after a step that
    was cancelled in the middle.
    """

    directory: str
    step: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveStaged(Event):
    """The state was copied; training may go on. ``seconds`` is how long the step was held."""

    directory: str
    step: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveProgress(Event):
    """Bytes handed to the disk so far, of ``bytes_total``; told a few times a second while they move."""

    directory: str
    step: int
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveCommitted(Event):
    """The checkpoint is durable. ``seconds`` counts from the request."""

    directory: str
    step: int
    path: str
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveFailed(Event):
    """There is no checkpoint of this step; older ones are untouched."""

    directory: str
    step: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveUnknown(Event):
    """An error came after the rename: the checkpoint may or may not survive a power cut."""

    directory: str
    step: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDeleted(Event):
    """Retention deleted the checkpoint of ``step``."""

    directory: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopVoted(Event):
    """A listener returned a truthy value from ``after_save``."""

    listener: str
    step: int
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StopDecided(Event):
    """The session will stop; ``should_stop()`` turns true at the boundary of ``step`` or a later one."""

    step: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalReceived(Event):
    """A handled signal arrived at ``step``, for the ``count``-th time."""

    step: int
    signal: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSlow(Event):
    """A plain function passed ``listener_timeout_secs`` and is waited for; ``seconds`` is that limit."""

    listener: str
    phase: str
    step: int | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded(Event):
    """The session was left. ``error`` is the exception that left with it, in words, or None."""

    step: int
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsDropped(Event):
    """A stream that was not read in time left out ``count`` events, here, between its neighbours."""

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTaken(Detail):
    """The session counted up to ``step``, by ``steps``.

    ``seconds`` counts from the call of ``run()``; for a step of the caller's own, from the end of the
    boundary before it.
    """

    step: int
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveWritten(Detail):
    """Every byte but the manifest's is on the disk. ``seconds`` counts from the request."""

    directory: str
    step: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveSettled(Detail):
    """A durable save is over: every ``after_save`` returned, its report is written, retention has run.

    ``seconds`` counts from the request; ``metrics`` are those of the checkpoint with the reported ones.
    """

    directory: str
    step: int
    seconds: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerCalled(Detail):
    """A callback of ``listener`` returned, or failed with ``error``, in words.

    ``phase`` is ``"begin"``, ``"before_save"``, ``"after_save"`` or ``"end"``; ``step`` is None in ``begin``.
    ``seconds`` ends at ``at``.
    """

    directory: str
    listener: str
    phase: str
    step: int | None
    seconds: float
    error: str | None
