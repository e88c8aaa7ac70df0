"""Events as records of the standard ``logging``."""

from __future__ import annotations

import dataclasses
import logging

from async_ckpt import events
from async_ckpt.events import Event

__all__ = ["LoggingObserver"]

_LEVELS: dict[type[Event], int] = {
    events.SaveFailed: logging.ERROR,
    events.SaveUnknown: logging.ERROR,
    events.CheckpointRejected: logging.WARNING,
    events.CheckpointsAbandoned: logging.WARNING,
    events.SaveSkipped: logging.WARNING,
    events.ListenerSlow: logging.WARNING,
    events.SignalReceived: logging.WARNING,
    events.SaveRequested: logging.DEBUG,
    events.SaveStaged: logging.DEBUG,
    events.SaveProgress: logging.DEBUG,
    events.SaveWritten: logging.DEBUG,
    events.SaveSettled: logging.DEBUG,
    events.StepTaken: logging.DEBUG,
    events.ListenerCalled: logging.DEBUG,
}


class LoggingObserver:
    """Logs each event: ``SaveCommitted directory=... step=100 ... seconds=0.7``.

    Every record has the attributes ``event`` (the kind), ``step`` (that of the event, else the last one heard
    of, else None) and ``fields`` (all fields of the event), for formatters that want them. What went wrong is
    logged as error or warning, what ends well as info, everything else as debug.

    Args:
        logger: Where to.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("async_ckpt.events")
        self._step: int | None = None

    def __call__(self, event: Event) -> None:
        """Log one event."""
        fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
        step = fields.get("step")
        if step is not None:
            self._step = step
        level = _LEVELS.get(type(event), logging.INFO)
        if not self._logger.isEnabledFor(level):
            return
        kind = type(event).__name__
        shown = " ".join(
            f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in fields.items()
            if name not in ("at", "wall")
        )
        extra = {"event": kind, "step": self._step, "fields": fields}
        self._logger.log(level, "%s %s", kind, shown, extra=extra)
