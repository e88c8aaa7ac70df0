"""What an event log says of a run, in figures. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Save", "Spread", "Stats", "columns", "gather"]


@dataclass(slots=True)
class Save:
    """One durable save; times in seconds, None where the log says nothing.

    Attributes:
        step: Its step.
        wall: When it was durable, since the epoch.
        stall: How long the step was held.
        durable: From the request until it was durable.
        bytes: Of its tensor files.
    """

    step: int
    wall: float
    stall: float | None
    durable: float | None
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and extremes of some figures."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Of those that are there; None if none is."""
        known = [value for value in values if value is not None]
        return cls(statistics.median(known), min(known), max(known)) if known else None


@dataclass(slots=True)
class Stats:
    """A run, all its lives together.

    Attributes:
        sessions: Lives that began.
        resumed: Those of them that went on from a checkpoint.
        ended: Those that were left in order, with or without an error.
        saves: The durable ones, in the order of the log.
        counts: Other events by kind, as far as they tell of trouble or of an end.
        listeners: Seconds per call, by listener and phase.
    """

    sessions: int = 0
    resumed: int = 0
    ended: int = 0
    saves: list[Save] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    listeners: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "sessions": self.sessions,
            "resumed": self.resumed,
            "ended": self.ended,
            "saves": len(self.saves),
            "last_step": self.saves[-1].step if self.saves else None,
            "last_durable": self.saves[-1].wall if self.saves else None,
            "stall_secs": _plain(Spread.of(save.stall for save in self.saves)),
            "durable_secs": _plain(Spread.of(save.durable for save in self.saves)),
            "bytes": _plain(Spread.of(save.bytes for save in self.saves)),
            "bytes_per_sec": _plain(Spread.of(map(_rate, self.saves))),
            "events": dict(self.counts),
            "listeners": [
                {"listener": listener, "phase": phase, "calls": len(calls), "secs": _plain(Spread.of(calls))}
                for (listener, phase), calls in self.listeners.items()
            ],
        }


_COUNTED = (
    "SaveFailed",
    "SaveUnknown",
    "SaveSkipped",
    "CheckpointDeleted",
    "CheckpointRejected",
    "CheckpointsAbandoned",
    "ListenerSlow",
    "StopVoted",
    "StopDecided",
    "SignalReceived",
)


def gather(log: Iterable[Mapping[str, Any]]) -> Stats:
    """Read a log given by :func:`async_ckpt.storage.journal.read_events`; what is malformed is left out."""
    stats = Stats()
    stalls: dict[int, float] = {}
    for entry in log:
        kind, step, seconds = entry["event"], _int(entry.get("step")), _float(entry.get("seconds"))
        if kind == "SessionBegan":
            stats.sessions += 1
            stats.resumed += entry.get("resumed") is True
            stalls.clear()
        elif kind == "SessionEnded":
            stats.ended += 1
        elif kind == "SaveStaged" and step is not None and seconds is not None:
            stalls[step] = seconds
        elif kind == "SaveCommitted" and step is not None:
            wall = float(entry["wall"])
            stats.saves.append(Save(step, wall, stalls.pop(step, None), seconds, _int(entry.get("bytes"))))
        elif kind == "ListenerCalled" and seconds is not None:
            who = str(entry.get("listener")), str(entry.get("phase"))
            stats.listeners.setdefault(who, []).append(seconds)
        elif kind in _COUNTED:
            stats.counts[kind] = stats.counts.get(kind, 0) + 1
    return stats


def _rate(save: Save) -> float | None:
    if save.bytes is None or not save.durable:
        return None
    return save.bytes / save.durable


def _plain(spread: Spread | None) -> dict[str, float] | None:
    return None if spread is None else {"median": spread.median, "min": spread.least, "max": spread.most}


def _int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def columns(saves: Sequence[Save]) -> dict[str, list[float]]:
    """The saves as columns for a plot: step, stall and durable in seconds, throughput in bytes per second."""
    nan = float("nan")
    return {
        "step": [float(save.step) for save in saves],
        "stall": [nan if save.stall is None else save.stall for save in saves],
        "durable": [nan if save.durable is None else save.durable for save in saves],
        "rate": [nan if (rate := _rate(save)) is None else rate for save in saves],
    }
