"""Metrics for Prometheus, with its own client library."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from async_ckpt import events
from async_ckpt.events import Event
from async_ckpt.system.clock import Clock, RealClock

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["PrometheusObserver"]

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
_OUTCOMES: dict[type[Event], str] = {events.SaveFailed: "failed", events.SaveUnknown: "unknown"}
_BYTES = tuple(10.0**power for power in range(3, 13))

_known: weakref.WeakKeyDictionary[CollectorRegistry, dict[str, Any]] = weakref.WeakKeyDictionary()


class PrometheusObserver:
    """Keeps metrics of a session's saves up to date; needs the ``prometheus`` extra.

    Every metric has the label ``directory``:

    - ``async_ckpt_save_stall_seconds``: how long a step was held (histogram);
    - ``async_ckpt_save_seconds``: from the request until durable (histogram);
    - ``async_ckpt_save_bytes``: of the tensor files (histogram);
    - ``async_ckpt_saves_total``: by ``outcome``, which is committed, failed, unknown or skipped;
    - ``async_ckpt_saves_in_flight``;
    - ``async_ckpt_last_durable_step``, ``async_ckpt_last_durable_timestamp_seconds``, and
      ``async_ckpt_last_durable_age_seconds``, which is as of the scrape;
    - ``async_ckpt_listener_seconds``: per call, by ``listener`` and ``phase`` (histogram);
    - ``async_ckpt_checkpoints_deleted_total``.

    Any number of sessions may share a registry.

    Args:
        registry: Of ``prometheus_client``; its default one if None.
        clock: For the age of the last durable checkpoint.

    Raises:
        ModuleNotFoundError: prometheus-client is not installed.
    """

    kinds = (
        events.SaveRequested,
        events.SaveStaged,
        events.SaveCommitted,
        events.SaveFailed,
        events.SaveUnknown,
        events.SaveSkipped,
        events.CheckpointDeleted,
        events.ListenerCalled,
        events.SessionEnded,
    )

    def __init__(self, registry: CollectorRegistry | None = None, *, clock: Clock | None = None) -> None:
        import prometheus_client  # noqa: PLC0415 - optional

        found = prometheus_client.REGISTRY if registry is None else registry
        self._metrics = _known.get(found) or _known.setdefault(found, _made(prometheus_client, found))
        self._clock = clock or RealClock()
        self._in_flight: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Take one event into account."""
        metrics = self._metrics
        match event:
            case events.SaveRequested():
                self._in_flight.add(event.directory)
                metrics["in_flight"].labels(event.directory).set(1)
            case events.SaveStaged():
                metrics["stall"].labels(event.directory).observe(event.seconds)
            case events.SaveCommitted():
                metrics["seconds"].labels(event.directory).observe(event.seconds)
                metrics["bytes"].labels(event.directory).observe(event.bytes)
                self._durable(event.directory, event.step, event.wall)
                self._over(event.directory, "committed")
            case events.SaveFailed() | events.SaveUnknown():
                self._over(event.directory, _OUTCOMES[type(event)])
            case events.SaveSkipped():
                metrics["saves"].labels(event.directory, "skipped").inc()
            case events.CheckpointDeleted():
                metrics["deleted"].labels(event.directory).inc()
            case events.ListenerCalled():
                labels = event.directory, event.listener, event.phase
                metrics["listener"].labels(*labels).observe(event.seconds)
            case _:
                self._end()

    def _end(self) -> None:
        for directory in self._in_flight:
            self._metrics["in_flight"].labels(directory).set(0)
        self._in_flight.clear()

    def _durable(self, directory: str, step: int, wall: float) -> None:
        self._metrics["step"].labels(directory).set(step)
        self._metrics["timestamp"].labels(directory).set(wall)
        self._metrics["age"].labels(directory).set_function(lambda: max(0.0, self._clock.wall() - wall))

    def _over(self, directory: str, outcome: str) -> None:
        self._in_flight.discard(directory)
        self._metrics["in_flight"].labels(directory).set(0)
        self._metrics["saves"].labels(directory, outcome).inc()


def _made(client: Any, registry: CollectorRegistry) -> dict[str, Any]:
    where = ("directory",)

    def histogram(name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = where) -> Any:
        return client.Histogram(f"async_ckpt_{name}", text, labels, buckets=buckets, registry=registry)

    def gauge(name: str, text: str) -> Any:
        return client.Gauge(f"async_ckpt_{name}", text, where, registry=registry)

    def counter(name: str, text: str, labels: tuple[str, ...] = where) -> Any:
        return client.Counter(f"async_ckpt_{name}", text, labels, registry=registry)

    called = ("directory", "listener", "phase")
    return {
        "stall": histogram("save_stall_seconds", "How long a step was held by a save.", _SECONDS),
        "seconds": histogram("save_seconds", "From the request of a save until it was durable.", _SECONDS),
        "bytes": histogram("save_bytes", "Bytes of the tensor files of a save.", _BYTES),
        "listener": histogram("listener_seconds", "How long a callback took.", _SECONDS, called),
        "saves": counter("saves", "Saves by outcome.", ("directory", "outcome")),
        "deleted": counter("checkpoints_deleted", "Checkpoints that retention deleted."),
        "in_flight": gauge("saves_in_flight", "Saves that are under way."),
        "step": gauge("last_durable_step", "Step of the newest durable checkpoint."),
        "timestamp": gauge("last_durable_timestamp_seconds", "When the newest checkpoint became durable."),
        "age": gauge("last_durable_age_seconds", "How long ago the newest checkpoint became durable."),
    }
