"""Saves as spans of OpenTelemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_ckpt import events
from async_ckpt.events import Event

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

__all__ = ["OpenTelemetryObserver"]

_NS = 1_000_000_000


class OpenTelemetryObserver:
    """Makes one span per save; needs the ``opentelemetry`` extra, and an SDK that somebody configured.

    A span ``async_ckpt.save`` begins when the save is requested and ends when its report is written. Its
    children are ``staged``, ``written`` and ``committed``, each from the request on, and one per callback of
    a listener, ``<listener>.<phase>``. A save that fails ends with the status ERROR and its reason. The
    context that is current when the save is requested is the parent.

    Args:
        tracer: Of ``opentelemetry.trace``; the global provider's if None.

    Raises:
        ModuleNotFoundError: opentelemetry-api is not installed.
    """

    kinds = (
        events.SaveRequested,
        events.SaveStaged,
        events.SaveWritten,
        events.SaveCommitted,
        events.SaveSettled,
        events.SaveFailed,
        events.SaveUnknown,
        events.ListenerCalled,
        events.SessionEnded,
    )

    def __init__(self, tracer: Tracer | None = None) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - optional

        self._trace = trace
        self._tracer = tracer or trace.get_tracer("async_ckpt")
        self._open: dict[str, _Save] = {}

    def __call__(self, event: Event) -> None:
        """Begin or end what the event tells of."""
        now = int(event.wall * _NS)
        match event:
            case events.SaveRequested():
                self._end(event.directory, now)
                attributes: dict[str, str | int] = {
                    "async_ckpt.directory": event.directory,
                    "async_ckpt.step": event.step,
                }
                span = self._tracer.start_span("async_ckpt.save", attributes=attributes, start_time=now)
                self._open[event.directory] = _Save(span, now)
            case events.SaveStaged():
                self._child(event.directory, "staged", None, now)
                self._note(event.directory, "async_ckpt.bytes", event.bytes)
            case events.SaveWritten():
                self._child(event.directory, "written", None, now)
            case events.SaveCommitted():
                self._child(event.directory, "committed", None, now)
                self._note(event.directory, "async_ckpt.path", event.path)
            case events.ListenerCalled():
                began = now - int(event.seconds * _NS)
                name = f"{event.listener}.{event.phase}"
                self._child(event.directory, name, began, now, error=event.error)
            case events.SaveSettled():
                self._end(event.directory, now)
            case events.SaveFailed() | events.SaveUnknown():
                self._end(event.directory, now, error=event.reason)
            case _:
                for directory in tuple(self._open):
                    self._end(directory, now)

    def _child(
        self, directory: str, name: str, began: int | None, ended: int, *, error: str | None = None
    ) -> None:
        save = self._open.get(directory)
        if save is None:
            return  # of a save that began before anybody looked, or a callback outside of one
        context = self._trace.set_span_in_context(save.span)
        start = save.began if began is None else began
        child = self._tracer.start_span(name, context=context, start_time=start)
        if error is not None:
            child.set_status(self._trace.Status(self._trace.StatusCode.ERROR, error))
        child.end(end_time=ended)

    def _note(self, directory: str, name: str, value: str | int) -> None:
        save = self._open.get(directory)
        if save is not None:
            save.span.set_attribute(name, value)

    def _end(self, directory: str, now: int, *, error: str | None = None) -> None:
        save = self._open.pop(directory, None)
        if save is None:
            return
        if error is not None:
            save.span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, error))
        save.span.end(end_time=now)


class _Save:
    def __init__(self, span: Span, began: int) -> None:
        self.span = span
        self.began = began
