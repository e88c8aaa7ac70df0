"""The event log of a directory: one line of JSON per event, appended, whole to the last line break.

A process that dies in the middle of a line leaves a line without an end. Readers leave it out, and the next
writer cuts it off. The log is for people and tools: no decision rests on it, and it is not made durable.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from async_ckpt.events import Event
from async_ckpt.storage import posix

__all__ = ["JOURNAL", "Journal", "encode_event", "read_events"]

JOURNAL = "events.jsonl"
"""The newest part; older ones have a number behind it, which grows with age."""

ROTATE_BYTES = 8 << 20
OLDER_PARTS = 3
_LONGEST_LINE = 1 << 20
_TAIL = 1 << 16


def encode_event(event: Event) -> bytes:
    """Spell an event as a line: its kind under ``"event"``, then its fields. What is no number is null."""
    fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    return msgspec.json.encode({"event": type(event).__name__, **fields}) + b"\n"


def read_events(directory: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Give the events that are logged in a directory, oldest first; what is no such line is left out.

    Every entry has ``event`` (str), ``at`` and ``wall`` (float, seconds); its other fields are whatever the
    line holds. Blocks.

    Raises:
        OSError: A part of the log cannot be read; none at all is no error.
    """
    for name in (*(f"{JOURNAL}.{age}" for age in range(OLDER_PARTS, 0, -1)), JOURNAL):
        with contextlib.suppress(FileNotFoundError), Path(directory, name).open("rb") as file:
            while line := file.readline(_LONGEST_LINE):
                entry = _decoded(line)
                if entry is not None:
                    yield entry


def _decoded(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        entry = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("event"), str):
        return None
    times = entry.get("at"), entry.get("wall")
    return entry if all(isinstance(time, int | float) for time in times) else None


class Journal:
    """The log of an open directory, for its one writer. All of it blocks.

    Args:
        root: The directory's descriptor, which outlives this object.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._fd = -1
        self._size = 0

    def append(self, lines: bytes) -> None:
        """Append whole lines.

        Raises:
            OSError: They may be there in part; the next call cuts off what is.
        """
        try:
            if self._fd < 0:
                self._open()
            if self._size > 0 and self._size + len(lines) > ROTATE_BYTES:
                self._rotate()
            posix.write_all(self._fd, memoryview(lines), self._size)
            self._size += len(lines)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the descriptor back; may be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _open(self) -> None:
        self._fd = posix.open_file(JOURNAL, self._root, os.O_RDWR | os.O_CREAT)
        size = os.fstat(self._fd).st_size
        self._size = self._end_of_lines(size)
        if self._size < size:
            os.ftruncate(self._fd, self._size)

    def _end_of_lines(self, end: int) -> int:
        while end > 0:
            start = max(0, end - _TAIL)
            at = os.pread(self._fd, end - start, start).rfind(b"\n")
            if at >= 0:
                return start + at + 1
            end = start
        return 0

    def _rotate(self) -> None:
        self.close()
        for age in range(OLDER_PARTS, 1, -1):
            with contextlib.suppress(FileNotFoundError):
                posix.rename(f"{JOURNAL}.{age - 1}", f"{JOURNAL}.{age}", self._root)
        posix.rename(JOURNAL, f"{JOURNAL}.1", self._root)
        self._open()
