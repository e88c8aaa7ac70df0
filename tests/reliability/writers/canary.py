"""Something outside the directory that nobody may touch, and the kernel's word on whether somebody did."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

__all__ = ["Canary"]

_EVENT = struct.Struct("iIII")
_KINDS = {
    0x001: "read",
    0x002: "written",
    0x004: "changed in mode",
    0x020: "opened",
    0x040: "moved away",
    0x080: "moved in",
    0x100: "created",
    0x200: "deleted",
    0x400: "deleted itself",
    0x800: "moved itself",
}


class Canary:
    """Watches a directory and those below it by inotify: an open, a name made, a name gone are events."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        for place in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
            if self._libc.inotify_add_watch(self._fd, os.fsencode(place), sum(_KINDS)) < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(place))

    def touched(self) -> list[str]:
        """Tell what was done to it since the last time this was asked."""
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return []
        found, at = [], 0
        while at < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, at)
            name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0").decode()
            found.append(
                f"{name or 'the directory'} {' and '.join(w for bit, w in _KINDS.items() if mask & bit)}"
            )
            at += _EVENT.size + length
        return found

    def close(self) -> None:
        os.close(self._fd)
