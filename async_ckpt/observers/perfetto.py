"""A timeline in the trace event format, which ui.perfetto.dev and chrome://tracing open.

The format is described in "Trace Event Format" (Google, 2016): complete events ``X`` with microseconds,
instant events ``i``, metadata events ``M`` that name the tracks. An array without closing bracket is valid.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import msgspec

from async_ckpt import events
from async_ckpt.events import Event

__all__ = ["PerfettoTrace"]

_BUFFER = 1 << 18


class PerfettoTrace:
    """Writes a timeline: steps, and per directory staging, writes and each listener's calls, a track each.

    The file grows in buffered pieces of some 256 KiB and is closed when the session ends; what a killed
    process leaves can be opened all the same, once a last half line is cut off.

    Args:
        path: The file; replaced if it is there.

    Raises:
        OSError: It cannot be written.
    """

    kinds = (Event,)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file: IO[bytes] = Path(path).open("wb", buffering=_BUFFER)  # noqa: SIM115 - closed at the end
        self._file.write(b"[\n")
        self._tracks: dict[str, int] = {}
        self._began: dict[str, float] = {}
        self._write({"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "async_ckpt"}})

    def __call__(self, event: Event) -> None:
        """Put one event on the timeline."""
        match event:
            case events.StepTaken():
                self._stretch(
                    "steps", f"step {event.step}", event.at - event.seconds, event.at, steps=event.steps
                )
            case events.SaveRequested():
                self._began[event.directory] = event.at
            case events.SaveStaged():
                name, began = f"stage {event.step}", event.at - event.seconds
                self._stretch(f"staging {event.directory}", name, began, event.at, bytes=event.bytes)
                self._began[event.directory] = event.at
            case events.SaveWritten():
                self._writing(event.directory, f"write {event.step}", event.at)
            case events.SaveCommitted():
                self._writing(event.directory, f"commit {event.step}", event.at, bytes=event.bytes)
            case events.SaveFailed() | events.SaveUnknown():
                self._writing(event.directory, f"failed {event.step}", event.at, reason=event.reason)
            case events.ListenerCalled():
                name = event.phase if event.step is None else f"{event.phase} {event.step}"
                track = f"listener {event.listener}"
                self._stretch(track, name, event.at - event.seconds, event.at, error=event.error)
            case events.SaveProgress() | events.SaveSettled():
                pass
            case _:
                self._instant(event)
        if isinstance(event, events.SessionEnded):
            self.close()

    def close(self) -> None:
        """Write what is buffered, and end the file. May be called twice."""
        if not self._file.closed:
            last = {"name": "end", "ph": "M", "pid": 1, "args": {}}
            self._file.write(msgspec.json.encode(last) + b"\n]\n")
            self._file.close()

    def _writing(self, directory: str, name: str, at: float, **more: Any) -> None:
        began = self._began.get(directory, at)
        self._stretch(f"writes {directory}", name, began, at, **more)
        self._began[directory] = at

    def _stretch(self, track: str, name: str, began: float, ended: float, **more: Any) -> None:
        known = {key: value for key, value in more.items() if value is not None}
        self._write(
            {
                "name": name,
                "ph": "X",
                "ts": began * 1e6,
                "dur": max(0.0, ended - began) * 1e6,
                "pid": 1,
                "tid": self._track(track),
                "args": known,
            }
        )

    def _instant(self, event: Event) -> None:
        fields = {
            name: getattr(event, name) for name in event.__dataclass_fields__ if name not in ("at", "wall")
        }
        self._write(
            {
                "name": type(event).__name__,
                "ph": "i",
                "s": "p",
                "ts": event.at * 1e6,
                "pid": 1,
                "tid": self._track("session"),
                "args": fields,
            }
        )

    def _track(self, name: str) -> int:
        number = self._tracks.get(name)
        if number is None:
            number = self._tracks[name] = len(self._tracks) + 1
            for key, args in (("thread_name", {"name": name}), ("thread_sort_index", {"sort_index": number})):
                self._write({"name": key, "ph": "M", "pid": 1, "tid": number, "args": args})
        return number

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(msgspec.json.encode(entry) + b",\n")
